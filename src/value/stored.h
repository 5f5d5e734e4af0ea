/*
 * A stored histogram: its cumulative `le` counts and merged sketch, packed in one block of the heap. A cursor keeps
 * what it has sent of a histogram this way, and a dropped series what its histogram stood at. A block does not change
 * once it is published; it is replaced by another. Readers without a lock follow peek.h.
 */
#ifndef STORED_H
#define STORED_H

#include "value/histogram.h"

/*
 * Reads all of one histogram series, over all writers: its counts to `sum`, its sketch merged into `sketch`, which may
 * be NULL. CHALK_EMEMORY: both have a part of it.
 */
int stored_read(const chalk_segment *g, uint32_t id, histogram_sum *sum, chalk_sketch *sketch);

/* Writes a block and returns its offset. 0: no memory. `last`: may take of what is kept for overflow series. */
uint64_t stored_write(chalk_segment *g, const histogram_sum *sum, const chalk_sketch *sketch, bool last);
/*
 * stored_write and stored_give for a caller that writes many blocks in place of others. *by is the block that was
 * replaced last, 0 at first: it is set aside, and written next if its size is right, so most calls take no lock. In the
 * end the caller gives the block in *by back.
 */
uint64_t stored_write_next(chalk_segment *g, const histogram_sum *sum, const chalk_sketch *sketch, uint64_t *by);
void stored_put_by(chalk_segment *g, uint64_t offset, uint64_t *by);
/* Writes what the series stands at now, and may take of what is kept for overflow series. 0: no memory. */
uint64_t stored_take(chalk_segment *g, uint32_t id);
/*
 * Reads a block back: its counts to `sum`, its sketch merged into `sketch`; either may be NULL. What can be no block is
 * read as nothing. CHALK_EMEMORY: `sketch` is as it was.
 */
int stored_load(const chalk_segment *g, uint64_t offset, histogram_sum *sum, chalk_sketch *sketch);
/* Reads a block's sketch in place of what `k` had, and uses its memory. CHALK_EMEMORY: `k` is of no use then. */
int stored_sketch(const chalk_segment *g, uint64_t offset, chalk_sketch *k);
/* Whether the block holds as many values as these, in its counts and in its sketch. */
bool stored_is(const chalk_segment *g, uint64_t offset, const histogram_sum *sum, const chalk_sketch *sketch);
/* Gives a block back to the heap. 0 is allowed. */
void stored_give(chalk_segment *g, uint64_t offset);

/*
 * Whether a stored histogram of `les` bounds stands at the offset; notes its block. `part`: what a cursor has sent,
 * whose counts need not rise. Nobody else has the segment.
 */
bool stored_is_sound(const chalk_segment *g, uint64_t offset, uint32_t les, bool part, heap_ledger *blocks);

/* The total of an `at_drop` or a baseline: a count's is the number itself, a histogram's is what its block says. */
int64_t stored_total(const chalk_segment *g, uint64_t total, uint32_t kind);
/* How many values are in that block's sketch, which is one more than the total where a record was under way. */
uint64_t stored_sketched(const chalk_segment *g, uint64_t total, uint32_t kind);
/* What a cursor has sent of a series: a total as above; 0: nothing, or of an earlier series of that number. */
uint64_t stored_sent(const chalk_segment *g, uint32_t cursor, uint32_t id, uint32_t generation);
/*
 * What no cursor has to be told of a dropped series any more: the larger of what it was dropped with and what a cursor
 * sent, which is more where a snapshot was taken between the dropper's look at the cells and the drop. Only the holder.
 */
uint64_t stored_known(const chalk_segment *g, uint32_t id, uint32_t kind);

/* Frees the blocks that cursors keep for a series, and sets the baselines to 0. Only the holder. */
void stored_forget_baselines(chalk_segment *g, uint32_t id, uint32_t kind);

#endif
