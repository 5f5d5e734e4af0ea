/*
 * The residue of a dropped series: what was recorded after the drop by writers that had not noticed it yet. It goes to
 * the successor, the series that now has the key, through the shared slot.
 *
 * A gauge's value goes to the cell of the same writer, and only if nobody has begun to set that. To do it twice is to do
 * it once.
 */
#ifndef RESIDUE_H
#define RESIDUE_H

#include "shm/segment.h"

/* Passes on what a dropped series has got. Only the holder, when nobody can record into the series any more. */
void residue_pass_on(chalk_segment *g, uint32_t id);

#endif
