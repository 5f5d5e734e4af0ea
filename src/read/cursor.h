/*
 * Cursors: for each exporter that sends differences, what it has sent of each series. A cursor is found by the
 * exporter's name and survives the exporter's process. Baselines are rows beside the series, checked by generation: a
 * baseline of another generation means that nothing was sent. Only the holder uses cursors. Times are those of the
 * holder's clock.
 */
#ifndef CURSOR_H
#define CURSOR_H

#include "shm/segment.h"

/*
 * What came since the last commit of histogram entry i, in place of what `d` had; the caller has its extremes worked
 * out by sketch_clip. `c` may be NULL: all of it. CHALK_EMEMORY.
 */
int cursor_subtract(chalk_cursor *c, chalk_snapshot *s, uint32_t i, chalk_sketch *d);

/*
 * Marks a part of histogram entry i as sent: the buckets of `part`, and `les` of each bound (NULL: none). The rest is
 * still owed, so the entry's total stays what it was. CHALK_EMEMORY: nothing was marked. CHALK_EINVALID: the role is
 * lost.
 */
int cursor_commit_part(chalk_cursor *c, chalk_snapshot *s, uint32_t i, const chalk_sketch *part, const uint64_t *les,
                       double now);

/* Frees the cursors that nobody has used for a day. Only the holder. */
void cursor_sweep(chalk_segment *g, double now);

#endif
