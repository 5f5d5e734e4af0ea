/*
 * Two stores that a death must not part: a value on its way from a dropped series to its successor.
 *
 * For a count or a histogram two places change: the successor's cell, and what the dropped series stood at, so that
 * nothing is passed on twice. A holder that dies between the two must neither lose the value nor double it. So the new
 * values of both are first written into the successor's stripe and published there with one store; then both are put in
 * place. Whoever finds the stripe's lock orphaned does the second part again, which gives the same result, because that
 * cell changes under that lock only.
 */
#ifndef HANDOVER_H
#define HANDOVER_H

#include "shm/segment.h"

/*
 * Publishes both values and puts them in place. `value` becomes the bits of the successor's cell or, for a histogram,
 * is a block that the successor's block becomes equal to and that is freed; `at_drop` is what the dropped series then
 * stands at. Only the holder, under the lock of the successor's stripe.
 */
void handover_publish(chalk_segment *g, stripe *stripe, uint32_t from, uint32_t to, uint64_t value, uint64_t at_drop);
/* Finishes what a dead owner of the stripe's lock had published, if anything. Under that lock. */
void handover_finish(chalk_segment *g, stripe *stripe);

#endif
