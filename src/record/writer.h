/*
 * Writers: a VM's slot in the segment, and the definitions that it has.
 *
 * A slot is taken for a process and given back by it, or taken over once the process is known to be dead. What its
 * owner counted stays, and the next owner goes on from there. When all slots are in use, further VMs share slot 0:
 * their series handles are never valid for the inlined path, and every record of theirs runs under the lock of the
 * series' stripe, with atomic adds. Each of them is known by a guest slot, see slot.h, and takes a slot with a row of
 * cells as soon as one is free. A writer is used by one thread at a time.
 */
#ifndef WRITER_H
#define WRITER_H

#include "shm/segment.h"

/* Private to its process, but `own` may be moved by writers_unbind from another thread. */
struct chalk_writer {
  double own;      /* what series handles add to the epoch: NaN after a fork, until a slot was taken */
  double spill[2]; /* where a handle points to for which there is no memory */
  chalk_segment *segment;
  chalk_writer *next;    /* of this process; process lock */
  uint32_t slot;         /* with a row of cells; 0: shared */
  uint32_t guest;        /* the slot by which a VM that shares, or once did, is known; 0: none */
  uint32_t vacancies;    /* header.vacancies when a slot with a row was looked for last */
  uint64_t whose;        /* the owner's word in its links of gauges, see gauge.h */
  uint32_t pid;          /* the process whose slot it is; 0: closed */
  bool exact;            /* the values that were bound last are stored as they were given */
  bool is_master;        /* a server's master: no record takes a short cut that its workers could have led elsewhere */
  uint32_t unbinds;      /* how often handles were made to bind anew, for `own` */
  uint32_t forks;        /* process_forks() when it was opened */
  chalk_series *scratch; /* what chalk_bind binds */
  struct histogram_plan **plans; /* by metric, made on first use */
  uint64_t *uses;                /* a bit for each metric that it uses, for the next slot it takes */
  uint64_t *made;                /* those of them that nobody had before */
  uint8_t *tags;                 /* by metric that it uses: how many tags */
  uint32_t
      *generations; /* by metric that it uses: of the overflow series, so that another metric of the number is told */
  struct tap_ring *ring; /* its slot's, while the event tap is on; NULL: none yet, or no memory; of slot 0: none */
  uint64_t ring_size;    /* events */
  uint64_t ring_limit;   /* the head at which it has to be asked whether there is room */
};

/* Whether a handle was bound at the epoch of now, and may take the short path. */
static inline bool writer_is_current(const chalk_series *s) {
  return load_double((const shared_u64 *)s->shared) + *s->own == s->epoch;
}

/* Whether a handle was bound at the epoch of now, also while the tap is on. */
static inline bool writer_is_bound(const chalk_series *s) {
  return load_double((const shared_u64 *)s->shared) + *s->own == s->bound;
}

/* Makes all handles of this VM bind anew at their next record. */
void writer_unbind(chalk_writer *w);
/* Makes all handles of this process bind anew at their next record. */
void writers_unbind(void);

/*
 * Takes a slot if the writer has none, because it was just opened or the process forked; or if it shares slot 0 and a
 * slot with a row may be free. May take registry.
 */
void writer_take_slot(chalk_writer *w);

/* Every record of this VM compares with this epoch or a later one. Without a row it is bound to nothing. */
static inline void writer_tell_seen(const chalk_writer *w, uint64_t epoch) {
  slot *slots = w->segment->slots;
  if (!w->slot) return;
  atomic_store_explicit(&slots[w->slot].seen, epoch, memory_order_release);
  if (w->guest) atomic_store_explicit(&slots[w->guest].seen, epoch, memory_order_release);
}

#endif
