/*
 * The residue of a dropped series: what was recorded into it after the drop, by writers that had compared the epoch
 * before. It goes to the successor, the series that has the key now.
 *
 * A count or a histogram has a residue if its cells hold more than it stood at when it was dropped, and more than any
 * cursor has sent of it. The difference is added to the successor's cell of slot 0. A gauge has one if it was dropped
 * as idle and its mark says that it was set since. Its value goes to the successor's gauge of the same writer, and only
 * if that gauge was never set: a set of the successor began after the drop, and the late one before it.
 *
 * A residue that is handed over twice counts once, so a holder may die anywhere in between.
 */
#ifndef RESIDUE_H
#define RESIDUE_H

#include "shm/segment.h"

/*
 * Hands a dropped series' residue over to its successor, which is created if the key has none. Without memory the
 * residue is lost. Only the holder, once no process can record into the series any more.
 */
void residue_hand_over(chalk_segment *g, uint32_t id);

#endif
