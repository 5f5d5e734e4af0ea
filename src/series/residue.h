/*
 * The residue of a dropped series: what was recorded after the drop by writers that had not noticed it yet. It goes to
 * the successor, the series that has the key now, and there into the cell of slot 0. A gauge's value goes to the cell
 * of the same writer, and only if nobody has begun to set that. To pass a residue on twice is to pass it on once.
 */
#ifndef RESIDUE_H
#define RESIDUE_H

#include "shm/segment.h"

/*
 * Passes a dropped series' residue on. What there is no memory for is lost. Only the holder, when nobody can record
 * into the series any more.
 */
void residue_hand_over(chalk_segment *g, uint32_t id);

#endif
