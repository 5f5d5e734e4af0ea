/*
 * Writers: a VM's slot in the segment, and the definitions that it has.
 *
 * A slot is taken for a process and given back by it. What its owner counted stays; the next to take it goes on from
 * there. A slot is taken over from a process that is known to be dead. When all are in use, further VMs share slot 0:
 * their series handles are never valid for the inlined path, and every record of theirs runs under the lock of the
 * series' stripe, with atomic adds. Each of them is known by a guest slot, see slot.h, and takes a slot with a row of
 * cells as soon as one is free.
 */
#ifndef WRITER_H
#define WRITER_H

#include "shm/segment.h"

struct chalk_writer {
  double own;      /* what series handles add to the epoch: NaN after a fork, until a slot was taken */
  double spill[2]; /* where records go that found no memory at all */
  chalk_segment *segment;
  chalk_writer *next; /* of this process; process lock */
  uint32_t slot;      /* with a row of cells; 0: shared */
  uint32_t guest;     /* the slot by which a VM that shares, or once did, is known; 0: none */
  uint32_t vacancies; /* of the segment, when a slot with a row was looked for last */
  uint64_t whose;     /* of its links in lists of gauges, see gauge.h */
  uint32_t pid;       /* whose slot it is; 0: closed */
  bool exact;         /* what was bound last has its values as they were given */
  bool wary;          /* of a server's master: no record takes a short cut that its workers could have led elsewhere */
  uint32_t turns;     /* slots taken so far, and more, for `own` */
  uint32_t forks;     /* of the process, when it was opened */
  chalk_series *scratch;
  struct histogram_plan **plans; /* by metric, made on first use */
  uint64_t *uses;                /* metrics defined through it, for the next slot it takes */
  uint64_t *made;                /* those of them that nobody had before */
  uint8_t *tags;                 /* of them: how many there are */
  uint32_t *generations; /* of their overflow series, when they were: a number may have gone to another metric */
  struct tap_ring *ring; /* of its slot, while the event tap is on; NULL: none yet, or no memory; slot 0: none */
  uint64_t ring_size;
  uint64_t ring_limit; /* events until it has to be asked whether there is room */
};

/* Whether a handle was bound at the epoch that is. */
static inline bool writer_is_current(const chalk_series *s) {
  return load_double((const shared_u64 *)s->shared) + *s->own == s->epoch;
}

/* Whether a handle has its cell, be it for the inlined path or not. */
static inline bool writer_is_bound(const chalk_series *s) {
  return load_double((const shared_u64 *)s->shared) + *s->own == s->bound;
}

/* Makes all handles of this VM bind anew. */
void writer_turn(chalk_writer *w);
/* Makes all handles of this process bind anew. */
void writers_turn(void);

/* Takes a slot if the process has none yet (it was just opened, or forked), or shares one and may have one of its own. */
void writer_take_slot(chalk_writer *w);

/* Every record of this VM compares with this epoch or a later one. Without a row it is bound to nothing. */
static inline void writer_tell_seen(const chalk_writer *w, uint64_t epoch) {
  slot *slots = w->segment->slots;
  if (!w->slot) return;
  atomic_store_explicit(&slots[w->slot].seen, epoch, memory_order_release);
  if (w->guest) atomic_store_explicit(&slots[w->guest].seen, epoch, memory_order_release);
}

#endif
