/*
 * Cursors: what each exporter that sends differences has sent of each series.
 *
 * A cursor is found by its exporter's name and stays in the segment when the exporter's process ends, so its successor
 * sends what is missing and nothing twice. For each series a cursor has a *baseline*: the total that was sent, or for a
 * histogram the offset of a stored histogram. Baselines are a row beside the series, so a lookup costs an index. Each
 * has the generation of the series that it belongs to; a baseline of another generation means that nothing was sent.
 *
 * Only the holder changes cursors, so they need no lock except `acting`. Times are on the holder's clock.
 */
#ifndef CURSOR_H
#define CURSOR_H

#include "shm/segment.h"

/*
 * Replaces `delta` by what was recorded into histogram entry i since the cursor's last commit; without a cursor (NULL)
 * by all that was ever recorded. The extremes of `delta` are not set: the caller calls sketch_clip. CHALK_EMEMORY.
 */
int cursor_subtract(chalk_cursor *c, chalk_snapshot *s, uint32_t i, chalk_sketch *delta);

/*
 * Marks a part of histogram entry i as sent: the buckets of `part`, and for each bound the count in `les` (NULL: none).
 * The baseline's total stays as it was, so the rest of the entry is still owed. CHALK_EMEMORY: nothing was marked.
 * CHALK_EINVALID: the role is lost.
 */
int cursor_commit_part(chalk_cursor *c, chalk_snapshot *s, uint32_t i, const chalk_sketch *part, const uint64_t *les,
                       double now);

/* Frees the cursors that no exporter has used for a day. Only the holder. */
void cursor_sweep(chalk_segment *g, double now);

#endif
