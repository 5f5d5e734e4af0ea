/*
 * Slots: who has one, and what that promises.
 *
 *   0                   its row of cells is shared by the VMs that have no row of their own
 *   1 .. WRITERS - 1    with a row of cells of their owner's
 *   WRITERS .. OWNERS   guests': no row. They say who shares slot 0: alive or dead, and which metrics it has defined
 *
 * A slot is taken, given back and freed in the name of a dead owner under the registry lock. A VM that finds no slot
 * with a row takes a guest slot, and looks for a row again at its next record or lookup after `vacancies` has moved. A
 * closing VM moves it; rows of the dead are looked for once a second, by one of those who share.
 */
#ifndef SLOT_H
#define SLOT_H

#include "shm/segment.h"

/* What `seen` of a guest slot is while its VM has no row: that VM records under the lock of a series' stripe. */
#define SLOT_SEES_ALL UINT64_MAX

/*
 * Takes a slot with a row for this process and returns its number; `uses` are the metrics that its VM uses, a bit each.
 * 0: there is none. `thorough`: also looks for slots of the dead, which asks the kernel once a slot. Under registry.
 */
uint32_t slot_take(chalk_segment *g, const uint64_t *uses, bool thorough);
/* Takes a guest slot. 0: there is none, and from now on nobody can tell who uses a metric. Under registry. */
uint32_t slot_take_guest(chalk_segment *g, const uint64_t *uses);
/* Gives a slot back, for its owner or in the name of a dead one. Under registry. */
void slot_give(chalk_segment *g, uint32_t number);

/*
 * Whether a row may have become free since *vacancies was read, which is brought up to date. Frees slots of the dead.
 */
bool slot_may_be_free(chalk_segment *g, uint32_t *vacancies);

/* The slot after `number` that was ever used, guests' after the others; begin with 0. NONE: that was the last. */
static inline uint32_t slot_after(const chalk_segment *g, uint32_t number) {
  uint32_t next = number + 1;
  if (next < WRITERS && next >= segment_slots(g)) next = WRITERS;
  return next < WRITERS || next < segment_guests(g) ? next : NONE;
}

#endif
