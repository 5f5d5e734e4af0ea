/*
 * The event tap: each record as it happens, from every VM and process.
 *
 * While it is on, a writer has a ring in the segment: a power of two of events, how many were ever stored (`head`, the
 * writer's) and taken out (`tail`, the reader's). An event is stored behind its record and published by the head. A
 * writer never waits: an event that finds the ring full is counted, in the slot, and forgotten. The one reader is the
 * holder of the flusher's role, and what he changes he changes under `acting`.
 *
 * A handle of a kind that the tap is on for has NaN as its epoch, so that every record of it comes to the core, and
 * `bound` for what its epoch would be. Switching moves the epoch: that is how handles learn of it, both ways. So
 * records cost nothing more while the tap is off.
 *
 * A ring stays with its slot. When a larger one is wanted, the slot gets it as soon as the old one is empty; the reader
 * frees that. The ring of slot 0 is written under tap_lock.
 */
#ifndef TAP_H
#define TAP_H

#include <math.h>

#include "shm/heap.h"

typedef struct tap_ring {
  _Alignas(64) shared_u64 head; /* store-release by the writer */
  uint64_t size;
  _Alignas(64) shared_u64 tail; /* store-release by the reader */
  _Alignas(64) chalk_event events[];
} tap_ring;

/* Whether records of this metric are to be stored as events. */
bool tap_wants(const chalk_segment *g, uint32_t metric);

/* The writer's ring, as large as it is to be. Before binding, outside of locks: it may take its time. */
void tap_ready(chalk_writer *w);

/* Whether a handle that is bound is one whose records are events. */
static inline bool tap_is_on(const chalk_series *s) { return isnan(s->epoch); }

void tap_put(const chalk_series *s, uint32_t verb, double v);
void tap_put_shared(const chalk_series *s, uint32_t verb, double v); /* of slot 0 */

/* Whether all events of a series have been read that everybody has seen dropped. Only the holder. */
bool tap_has_read(chalk_segment *g, series *s);

/* After the death of all: whether the rings can be used on. */
bool tap_is_sound(heap_ledger *blocks, chalk_segment *g);
/* Off. Events of before a boot are forgotten, the others stay. */
void tap_recover(chalk_segment *g, bool rebooted);

/* How many events chalk_tap_events has: those of the batch that was read last. */
uint32_t tap_size(const chalk_tap *t);
/* How many batches were read: what is noted of one does not hold for the next. */
uint64_t tap_batch(const chalk_tap *t);

#endif
