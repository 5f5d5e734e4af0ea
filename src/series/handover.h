/*
 * The handover: two stores that a death must not part, which move a value from a dropped series to its successor.
 *
 * For a count or a histogram two words change: the successor's cell in the row of slot 0, and `at_drop` of the dropped
 * series, so that the same value is not handed over twice. A holder that dies between the two stores must neither lose
 * the value nor double it. So the holder first writes the new values of both words into the successor's stripe, then
 * publishes them with one store, and only then stores the words themselves. A process that finds the stripe's lock
 * orphaned stores both words again. That gives the same result, because the cell changes under that lock only.
 */
#ifndef HANDOVER_H
#define HANDOVER_H

#include "shm/segment.h"

/*
 * Publishes both values and stores them. `value` is the new bits of the successor's cell. For a histogram it is a
 * block: the successor's block becomes equal to it, and it is freed. `at_drop` is what the dropped series stands at
 * from then on. Only the holder, under the lock of the successor's stripe.
 */
void handover_publish(chalk_segment *g, stripe *stripe, uint32_t from, uint32_t to, uint64_t value, uint64_t at_drop);
/* Finishes the handover that a dead owner of the stripe's lock had published, if there is one. Under that lock. */
void handover_finish(chalk_segment *g, stripe *stripe);

#endif
