/*
 * A histogram written down: its cumulative `le` counts and merged sketch, packed in one heap block. What a cursor has
 * sent of a histogram is kept this way, and what a histogram stood at when it was dropped.
 */
#ifndef STORED_H
#define STORED_H

#include "value/histogram.h"

/* Everything of one histogram series, over all writers, to `sum`; merged into `sketch`, which may be NULL. */
int stored_read(const chalk_segment *g, uint32_t id, histogram_sum *sum, chalk_sketch *sketch);

/* Writes down; the block's offset, or 0 when there is no memory. `last`: may take of what is kept for the end. */
uint64_t stored_write(chalk_segment *g, const histogram_sum *sum, const chalk_sketch *sketch, bool last);
/*
 * The same, and stored_give, for one who writes many down in place of others: the block that was replaced last is put
 * by, and written next if its size is right, so that most take no lock. What is put by in the end is his to give.
 */
uint64_t stored_write_next(chalk_segment *g, const histogram_sum *sum, const chalk_sketch *sketch, uint64_t *by);
void stored_put_by(chalk_segment *g, uint64_t offset, uint64_t *by);
/* The same of what the series stands at now. */
uint64_t stored_take(chalk_segment *g, uint32_t id);
/* Reads back, to `sum` (may be NULL); merged into `sketch`. */
int stored_load(const chalk_segment *g, uint64_t offset, histogram_sum *sum, chalk_sketch *sketch);
/* The sketch alone, in place of what `k` had, whose memory is used again. */
int stored_sketch(const chalk_segment *g, uint64_t offset, chalk_sketch *k);
/* Whether the block holds just as many values as these. */
bool stored_is(const chalk_segment *g, uint64_t offset, const histogram_sum *sum, const chalk_sketch *sketch);
void stored_give(chalk_segment *g, uint64_t offset);

/* Whether such a block of `les` bounds stands there. A part of a histogram need not have counts that rise. */
bool stored_is_sound(const chalk_segment *g, uint64_t offset, uint32_t les, bool part, heap_ledger *blocks);

/* The total in `at_drop` or a baseline: of a count the number itself, of a histogram what its block says. */
int64_t stored_total(const chalk_segment *g, uint64_t total, uint32_t kind);
/* How many values are in the block's sketch: one more than it says where a record was under way. */
uint64_t stored_sketched(const chalk_segment *g, uint64_t total, uint32_t kind);
/* What a cursor has sent of a series: a total as above; 0: nothing, or of an earlier series of that number. */
uint64_t stored_sent(const chalk_segment *g, uint32_t cursor, uint32_t id, uint32_t generation);
/*
 * What nobody has to be told of a dropped series any more: what it was dropped with, or what a cursor sent, which is
 * more where a snapshot was taken between the dropper's look at the cells and the drop.
 */
uint64_t stored_known(const chalk_segment *g, uint32_t id, uint32_t kind);

/* Frees the blocks that cursors keep for a series. */
void stored_forget_baselines(chalk_segment *g, uint32_t id, uint32_t kind);

#endif
