/*
 * The event tap: each record as it happens, from every VM and process.
 *
 * While the tap is on, the slot of a writer has a ring in the segment:
 *
 *   | ... free ... | event | event | event | ... free ... |       `size` events, a power of two
 *                    ^ tail                  ^ head
 *
 * `head` is the number of events that were ever stored, `tail` the number that were ever taken out. A writer stores an
 * event after its record and publishes it by `head`. A writer never waits: an event that finds the ring full is dropped
 * and counted in the slot. The only reader is the holder of the flusher's role, which moves `tail` under `acting`.
 *
 * While the tap is on for a kind, handles of that kind have NaN as their epoch, so each record through them calls the
 * core; `bound` is what the epoch would be. Switching the tap on or off moves the epoch, so all handles bind
 * again and get NaN or the epoch. With the tap off, records cost nothing more.
 *
 * A ring stays with its slot. When larger rings are wanted, the owner of a slot replaces its ring as soon as that is
 * empty, and the reader frees the old one. Records of VMs that share slot 0 go to the ring of slot 0, under tap_lock.
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

/*
 * Gives the writer a ring of the size that is wanted, if the tap is on. It takes heap_lock, so the caller holds no
 * lock.
 */
void tap_ready(chalk_writer *w);

/* Whether the records through a bound handle are stored as events. */
static inline bool tap_is_on(const chalk_series *s) { return isnan(s->epoch); }

/* Stores the event of a record, with a verb CHALK_EVENT_..., into the writer's ring, or counts it as dropped. */
void tap_put(const chalk_series *s, uint32_t verb, double v);
/* The same for a VM that shares slot 0. Under the stripe's lock; takes tap_lock. */
void tap_put_shared(const chalk_series *s, uint32_t verb, double v);

/*
 * Whether all events of a dropped series have been read: the tap is off, or the reader has ended two more passes over
 * the rings since the first call. The caller calls it once every live writer has seen the drop. Only the holder.
 */
bool tap_has_read(chalk_segment *g, series *s);

/* Whether all rings are sound; notes their blocks in the ledger. Nobody else has the segment. */
bool tap_is_sound(heap_ledger *blocks, chalk_segment *g);
/* Switches the tap off in a segment that no other process has. `rebooted`: drops all events, which otherwise stay. */
void tap_recover(chalk_segment *g, bool rebooted);

/* How many events the last batch has. */
uint32_t tap_size(const chalk_tap *tap);
/* The number of the last batch. A consumer that keeps a position in a batch sees by it that there is a new one. */
uint64_t tap_batch(const chalk_tap *tap);

#endif
