/*
 * Numbers of series: taken, given back, and what state the series of a number is in.
 *
 * The states are the truth: a process that finds the lock of the list of free numbers orphaned rebuilds the list from
 * them.
 */
#ifndef NUMBER_H
#define NUMBER_H

#include "base/peek.h"
#include "shm/segment.h"

enum { NUMBER_STATE_BITS = 8 }; /* of a series' `state`; the stripe that a number is reserved for stands above them */

static inline uint32_t series_state(const series *s) {
  return atomic_load_explicit((shared_u32 *)&s->state, memory_order_acquire) & 255;
}

/* The number that a link in shared memory names; NONE: it names none. */
static inline uint32_t number_at(const chalk_segment *g, const uint32_t *link) {
  uint32_t id = peek_u32(link);
  return id < g->capacity ? id : NONE;
}

/* The one past the highest number in use. */
static inline uint32_t series_top(const chalk_segment *g) { return segment_top(&g->head->ids_top, g->capacity); }

/* All free numbers, from the states. Under their lock, or when nobody else has the segment. */
void number_rebuild(chalk_segment *g);
/* A number in state RESERVED for a stripe; NONE: there is none, or no memory. */
uint32_t number_take(chalk_segment *g, uint32_t of_stripe);
/* Gives back the number of a series that is dropped and has nothing left. */
void number_give(chalk_segment *g, uint32_t id);

#endif
