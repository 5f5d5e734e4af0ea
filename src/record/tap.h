/*
 * The event tap: each record as it happens, from every VM and process.
 *
 * While the tap is on, a writer has a ring in the segment: room for a power of two of events, the number of events that
 * were ever stored (`head`, the writer's) and the number that was taken out (`tail`, the reader's). An event is stored
 * after its record and published by the head. A writer never waits: an event that finds the ring full is counted in the
 * slot and dropped. The one reader is the holder of the flusher's role, which makes its changes under `acting`.
 *
 * A handle of a kind that the tap is on for has NaN as its epoch, so every record through it calls the core; `bound` is
 * what its epoch would be. Switching the tap moves the epoch, so handles bind anew and learn of it, both ways. Records
 * cost nothing more while the tap is off.
 *
 * A ring stays with its slot. When a larger one is wanted, the slot gets it as soon as the old one is empty, which the
 * reader then frees. The ring of slot 0 is written under tap_lock.
 */
#ifndef TAP_H
#define TAP_H

#include <math.h>

#include "shm/heap.h"

typedef struct tap_ring {
  _Alignas(64) shared_u64 head;      /* the writer, store-release after the event; load-acquire by the reader */
  uint64_t size;                     /* events; stored before the ring is published, and does not change */
  _Alignas(64) shared_u64 tail;      /* the reader, under `acting`, store-release; load-acquire by the writer */
  _Alignas(64) chalk_event events[]; /* the writer, before `head`; read between `tail` and `head` */
} tap_ring;

/* Whether records of this metric are stored as events. */
bool tap_wants(const chalk_segment *g, uint32_t metric);

/* Gives the writer a ring of the size that is wanted, if the tap is on. It takes heap_lock, so no lock is held. */
void tap_ready(chalk_writer *w);

/* Whether the records through a bound handle are stored as events. */
static inline bool tap_is_on(const chalk_series *s) { return isnan(s->epoch); }

/* Stores an event of a record, CHALK_EVENT_..., into the writer's ring, or counts it as dropped. */
void tap_put(const chalk_series *s, uint32_t verb, double v);
/* The same for a VM that shares slot 0. Under the stripe's lock; takes tap_lock. */
void tap_put_shared(const chalk_series *s, uint32_t verb, double v);

/*
 * Whether all events of a dropped series have been read. It is asked once everybody has seen the drop, and is true
 * after two more passes of the reader, or when the tap is off. Only the holder.
 */
bool tap_has_read(chalk_segment *g, series *s);

/* Whether all rings can be used on; notes their blocks. Nobody else has the segment. */
bool tap_is_sound(heap_ledger *blocks, chalk_segment *g);
/* Switches the tap off after the death of all. Events from before a boot are dropped, the others stay. */
void tap_recover(chalk_segment *g, bool rebooted);

/* How many events the batch has that was read last. */
uint32_t tap_size(const chalk_tap *tap);
/* How many batches were read: a place in one batch has no meaning in the next. */
uint64_t tap_batch(const chalk_tap *tap);

#endif
