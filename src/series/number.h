/*
 * Numbers of series: taken, given back, and the state of the series of a number.
 *
 * A number is also the column of the series' cells, so numbers are dense and used again. Free numbers are in a list
 * through series.next, under a lock of its own. The states are the truth: a process that finds that lock orphaned
 * rebuilds the list from them.
 */
#ifndef NUMBER_H
#define NUMBER_H

#include "base/peek.h"
#include "shm/segment.h"

/* How many bits of series.state hold the state. Above them stands the stripe for which a number is reserved. */
enum { NUMBER_STATE_BITS = 8 };

/* The state of a series, SERIES_... */
static inline uint32_t series_state(const series *s) {
  return atomic_load_explicit((shared_u32 *)&s->state, memory_order_acquire) & 255;
}

/* The number that a link in shared memory holds; NONE: the link holds no number of a series. */
static inline uint32_t number_at(const chalk_segment *g, const uint32_t *link) {
  uint32_t id = peek_u32(link);
  return id < g->capacity ? id : NONE;
}

/* The number after the highest one that was ever used. */
static inline uint32_t series_top(const chalk_segment *g) { return segment_top(&g->head->ids_top, g->capacity); }

/* Builds the list of free numbers from the states. Under its lock, or when nobody else has the segment. */
void number_rebuild(chalk_segment *g);
/* Takes a number, whose series is then RESERVED for a stripe. NONE: no number is left, or there is no memory. */
uint32_t number_take(chalk_segment *g, uint32_t of_stripe);
/* Gives back the number of a series that has neither key nor cells any more. */
void number_give(chalk_segment *g, uint32_t id);

#endif
