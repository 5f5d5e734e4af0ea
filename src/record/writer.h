/*
 * Writers: the private side of a VM's slot, and the definitions that the VM uses.
 *
 * A writer takes a slot for its VM and gives it back when the VM closes. A slot whose process is known to be dead is
 * taken over. What its owner counted stays, and the next owner goes on from there.
 *
 * When the slots 1 to 127, each with a row of cells, are in use, further VMs share slot 0. Their series handles are never valid for the
 * inlined path, and each of their records runs under the lock of the series' stripe, with atomic adds. Each of these
 * VMs has a guest slot, see slot.h, and takes a slot with a row as soon as one is free. A writer is used by one thread
 * at a time.
 */
#ifndef WRITER_H
#define WRITER_H

#include "shm/segment.h"

/* Private to the process. Another thread changes only `own`, in writers_unbind. */
struct chalk_writer {
  double own;      /* what series handles add to the epoch; NaN after a fork, until a slot is taken */
  double spill[2]; /* the target of a handle for which there is no memory */
  chalk_segment *segment;
  chalk_writer *next;    /* of this process; process lock */
  uint32_t slot;         /* its slot with a row of cells; 0: it shares slot 0 */
  uint32_t guest;        /* its guest slot, if it shares slot 0 or once did; 0: none */
  uint32_t vacancies;    /* header.vacancies when it last looked for a slot with a row */
  uint64_t whose;        /* the owner's word in its links, see gauge.h */
  uint32_t pid;          /* the process whose slot it is; 0: closed */
  bool exact;            /* the values that were bound last are stored as they were given */
  bool is_master;        /* of a server's master: its records follow nothing unchecked that a worker may have stored */
  uint32_t unbinds;      /* how often it was unbound; `own` is made from it */
  uint32_t forks;        /* process_forks() when it was opened */
  chalk_series *scratch; /* what chalk_bind binds */
  struct histogram_plan **plans; /* by metric, made on first use */
  uint64_t *uses;                /* a bit for each metric that it uses, for the next slot it takes */
  uint64_t *made;                /* those of them whose definition it made */
  uint8_t *tags;                 /* by metric that it uses: the number of tags */
  uint32_t *generations;         /* by metric that it uses: the generation of the overflow series, see metric.h */
  struct tap_ring *ring;         /* of its slot, while the event tap is on; NULL: none yet, no memory, or slot 0 */
  uint64_t ring_size;            /* in events */
  uint64_t ring_limit;           /* the head at which the ring's tail is read again, to see whether it is full */
};

/* Whether a handle is bound at the present epoch, and its records may take the inlined path. */
static inline bool writer_is_current(const chalk_series *s) {
  return load_double((const shared_u64 *)s->shared) + *s->own == s->epoch;
}

/* Whether a handle is bound at the present epoch, even if its records have to call the core. */
static inline bool writer_is_bound(const chalk_series *s) {
  return load_double((const shared_u64 *)s->shared) + *s->own == s->bound;
}

/* Unbinds all handles of this VM: each binds again at its next record. */
void writer_unbind(chalk_writer *w);
/* Unbinds all handles of this process. */
void writers_unbind(void);

/*
 * Takes a slot, if the writer has none because it was just opened or the process forked, or if it shares slot 0 and a
 * slot with a row may have become free. It may take the registry lock.
 */
void writer_take_slot(chalk_writer *w);

/*
 * Notes in the slot that every record of this VM compares with this epoch or a later one. A VM without a row has no
 * bound handles, so it notes nothing.
 */
static inline void writer_note_seen(const chalk_writer *w, uint64_t epoch) {
  slot *slots = w->segment->slots;
  if (!w->slot) return;
  atomic_store_explicit(&slots[w->slot].seen, epoch, memory_order_release);
  if (w->guest) atomic_store_explicit(&slots[w->guest].seen, epoch, memory_order_release);
}

#endif
