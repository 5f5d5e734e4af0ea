/*
 * Two stores that a death must not part: a value on its way from a dropped series to its successor.
 *
 * Of a count or a histogram two places change: the successor's cell, and what the dropped series stood at, so that
 * nothing is passed on twice. Who dies between the two must neither lose nor double it. So the new values of both are
 * first written down in the successor's stripe and published there with one store; then both are put in place. Whoever
 * finds the stripe's lock orphaned does the second part again, which gives the same, because that cell changes under that
 * lock only.
 */
#ifndef PASS_H
#define PASS_H

#include "shm/segment.h"

/*
 * Publishes, and puts in place: `value` is what the successor's cell is to be (of a histogram, a block that its own is
 * to become equal to), `at_drop` what the dropped series then stands at. Under the lock of the successor's stripe.
 */
void pass_publish(chalk_segment *g, stripe *t, uint32_t from, uint32_t to, uint64_t value, uint64_t at_drop);
/* Ends what a dead owner of the stripe's lock, which the caller now has, had begun. */
void pass_finish(chalk_segment *g, stripe *t);

#endif
