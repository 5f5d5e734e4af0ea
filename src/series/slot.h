/*
 * Slots: who has one, and what that promises.
 *
 *   0                   its row of cells is shared by the VMs that have no row of their own
 *   1 .. WRITERS - 1    with a row of cells of their owner's
 *   WRITERS .. OWNERS   guests': no row. They say who shares slot 0: alive or dead, and which metrics it has defined
 *
 * A slot is taken, given back and freed in the name of a dead owner under the registry lock. A VM that finds no slot
 * with a row takes a guest slot, and looks for a row again whenever `vacancies` has moved, at its next record or lookup.
 * Rows that closing VMs leave move it; those of the dead are looked for once a second, by one of those who share.
 */
#ifndef SLOT_H
#define SLOT_H

#include "shm/segment.h"

/* As `seen` of a guest slot whose VM has no row: what it records it records under the lock of a series' stripe. */
#define SLOT_SEES_ALL UINT64_MAX

/*
 * Takes a slot with a row for this process; `uses` are the metrics that its VM has defined. 0: there is none. Only
 * `thorough` looks among the dead, which asks the kernel once a slot. Under the registry lock, as the next two.
 */
uint32_t slot_take(chalk_segment *g, const uint64_t *uses, bool thorough);
/* Takes a guest slot. 0: there is none, and from now on nobody can tell who uses a metric. */
uint32_t slot_take_guest(chalk_segment *g, const uint64_t *uses);
void slot_give(chalk_segment *g, uint32_t number);

/* Whether a row may have become free since `vacancies`, which is brought up to date. */
bool slot_may_be_free(chalk_segment *g, uint32_t *vacancies);

/* The slots after 0 that were ever used, one after the other; NONE: that was the last. */
static inline uint32_t slot_after(const chalk_segment *g, uint32_t number) {
  uint32_t next = number + 1;
  if (next < WRITERS && next >= segment_slots(g)) next = WRITERS;
  return next < WRITERS || next < segment_guests(g) ? next : NONE;
}

#endif
