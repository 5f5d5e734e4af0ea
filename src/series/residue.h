/*
 * The residue of a dropped series: what was recorded after the drop by writers that had not noticed it yet. It goes to
 * the successor, the series that now has the key, through the shared slot.
 *
 * Of a count or a histogram two places change: the successor's cell, and what the dropped series stood at, so that
 * nothing is passed on twice. Who dies between the two must neither lose nor double it. So the new values of both are
 * first written down in the successor's stripe and published there with one store; then both are put in place. Whoever
 * finds the stripe's lock orphaned does the second part again, which gives the same, because that cell changes under that
 * lock only.
 *
 * A gauge's value goes to the cell of the same writer, and only if nobody has begun to set that. To do it twice is to do
 * it once.
 */
#ifndef RESIDUE_H
#define RESIDUE_H

#include "shm/segment.h"

/* Passes on what a dropped series has got. Only the holder, when nobody can record into the series any more. */
void residue_pass_on(chalk_segment *g, uint32_t id);
/* Ends what a dead owner of the stripe's lock, which the caller now has, had begun. */
void residue_finish(chalk_segment *g, stripe *t);

#endif
