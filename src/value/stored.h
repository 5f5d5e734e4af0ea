/*
 * A stored histogram: the cumulative `le` counts and the merged sketch of a series, packed into one block of the
 * segment's heap. A cursor stores what it has sent of a histogram in this form, and a dropped series stores the state
 * of its histogram at the drop. A published block never changes; another block replaces it. Readers without a lock
 * follow peek.h.
 */
#ifndef STORED_H
#define STORED_H

#include "value/histogram.h"

/*
 * Reads a histogram series over all slots: its counts into `sum`, and its sketch merged into `sketch`, which may be
 * NULL. CHALK_EMEMORY: both contain a part of the series.
 */
int stored_read(const chalk_segment *g, uint32_t id, histogram_sum *sum, chalk_sketch *sketch);

/* Writes a block and returns its offset. 0: no memory. `last`: the memory reserved for overflow series may be used. */
uint64_t stored_write(chalk_segment *g, const histogram_sum *sum, const chalk_sketch *sketch, bool last);
/*
 * stored_write and stored_give for a caller that replaces many blocks, one after the other. *aside is the block that
 * was replaced last, and 0 at first. stored_set_aside puts a replaced block there and frees the one before it;
 * stored_write_next overwrites the block there if its size fits, so most calls take no lock. At the end the caller
 * frees the block in *aside.
 */
uint64_t stored_write_next(chalk_segment *g, const histogram_sum *sum, const chalk_sketch *sketch, uint64_t *aside);
void stored_set_aside(chalk_segment *g, uint64_t offset, uint64_t *aside);
/* Writes the present state of a series. It may use the memory reserved for overflow series. 0: no memory. */
uint64_t stored_take(chalk_segment *g, uint32_t id);
/*
 * Reads a block: its counts into `sum`, its sketch merged into `sketch`; either may be NULL. An offset that cannot be a
 * stored histogram reads as an empty one. CHALK_EMEMORY: `sketch` is unchanged.
 */
int stored_load(const chalk_segment *g, uint64_t offset, histogram_sum *sum, chalk_sketch *sketch);
/*
 * Reads the sketch of a block into k, which loses its contents and whose memory is used. CHALK_EMEMORY: k is undefined.
 */
int stored_sketch(const chalk_segment *g, uint64_t offset, chalk_sketch *k);
/* Whether the block has as many values as `sum` and `sketch`, in its counts and in its sketch. */
bool stored_is(const chalk_segment *g, uint64_t offset, const histogram_sum *sum, const chalk_sketch *sketch);
/* Frees a block. 0 is allowed. */
void stored_give(chalk_segment *g, uint64_t offset);

/*
 * Whether there is a sound stored histogram of `les` bounds at the offset. Notes its block in `blocks`. `is_baseline`:
 * the counts are those that a cursor has sent, which need not rise from bound to bound. No other process uses the
 * segment.
 */
bool stored_is_sound(const chalk_segment *g, uint64_t offset, uint32_t les, bool is_baseline, heap_ledger *blocks);

/* The total of an `at_drop` or a baseline: for a count the number itself, for a histogram the total of its block. */
int64_t stored_total(const chalk_segment *g, uint64_t total, uint32_t kind);
/*
 * The number of values in the sketch of that block. It may differ from the total by the records that were under way.
 */
uint64_t stored_sketched(const chalk_segment *g, uint64_t total, uint32_t kind);
/*
 * What a cursor has sent of a series, in the form that stored_total takes: a number, or the offset of a block. 0: nothing yet, or the baseline is of an earlier series with
 * this number.
 */
uint64_t stored_sent(const chalk_segment *g, uint32_t cursor, uint32_t id, uint32_t generation);
/*
 * The part of a dropped series that no cursor has to send any more: its total at the drop or, if larger, the largest
 * baseline of a cursor. A baseline is larger if a snapshot was taken after the dropper had read the cells and before
 * the drop. Only the holder calls this.
 */
uint64_t stored_known(const chalk_segment *g, uint32_t id, uint32_t kind);

/* Frees the blocks of all baselines of a series and sets the baselines to 0. Only the holder calls this. */
void stored_forget_baselines(chalk_segment *g, uint32_t id, uint32_t kind);

#endif
