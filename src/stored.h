/*
 * A histogram written down: its cumulative `le` counts and merged sketch, packed in one heap block. What a cursor has
 * sent of a histogram is kept this way, and what a histogram stood at when it was dropped.
 */
#ifndef STORED_H
#define STORED_H

#include "histogram.h"

/* Everything of one histogram series, over all writers. `sketch` may be NULL. */
int stored_read(const chalk_segment *g, uint32_t id, histogram_sum *sum, chalk_sketch *sketch);

/* Writes down; the block's offset, or 0 when there is no memory. `last`: may take of what is kept for the end. */
uint64_t stored_write(chalk_segment *g, const histogram_sum *sum, const chalk_sketch *sketch, bool last);
/* The same of what the series stands at now. */
uint64_t stored_take(chalk_segment *g, uint32_t id);
/* Reads back; adds to `sum` (may be NULL) and merges into `sketch`. */
int stored_load(const chalk_segment *g, uint64_t offset, histogram_sum *sum, chalk_sketch *sketch);
/* Whether the block holds just as many values as these. */
bool stored_is(const chalk_segment *g, uint64_t offset, const histogram_sum *sum, const chalk_sketch *sketch);
void stored_give(chalk_segment *g, uint64_t offset);

/* The total in `at_drop` or a baseline: of a count the number itself, of a histogram what its block says. */
int64_t stored_total(const chalk_segment *g, uint64_t total, uint32_t kind);

/* Adds to a live series what another, dropped one recorded since its drop, through the shared slot. */
void stored_pass_on(chalk_segment *g, uint32_t from, uint32_t to);
/* Frees the blocks that cursors keep for a series. */
void stored_forget_baselines(chalk_segment *g, uint32_t id, uint32_t kind);

#endif
