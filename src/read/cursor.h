/*
 * Cursors: for each exporter that sends differences, what it has sent of each series. A cursor is found by the
 * exporter's name and survives it. Baselines are rows beside the series, checked by generation: a baseline of another
 * generation counts as nothing sent. Only the holder touches them.
 */
#ifndef CURSOR_H
#define CURSOR_H

#include "shm/segment.h"

/* What came since of a histogram entry, in place of what `d` had; its extremes are for sketch_clip to work out. */
int cursor_subtract(chalk_cursor *c, chalk_snapshot *s, uint32_t i, chalk_sketch *d);

/*
 * Marks a part of a histogram entry as sent: these buckets, and so many of each `le` bound (NULL: none). The rest is
 * still owed, so the entry's total stays what it was.
 */
int cursor_commit_part(chalk_cursor *c, chalk_snapshot *s, uint32_t i, const chalk_sketch *part, const uint64_t *les,
                       double now);

/* Frees those that nobody has used for a day. */
void cursor_sweep(chalk_segment *g, double now);

#endif
