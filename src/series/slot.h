/*
 * Slots: taking one for a VM, giving it back, and freeing the slots of dead owners.
 *
 *   0                       its row of cells is shared by the VMs that have no row of their own
 *   1 .. WRITERS - 1        each has a row of cells for its owner
 *   WRITERS .. OWNERS - 1   guest slots, without a row. The owner shares slot 0. Its guest slot is there to prove that
 *                           it is alive or dead, and to say which metrics it uses
 *
 * A slot is taken, given back, or freed in the name of a dead owner under the registry lock. What an owner has counted
 * stays in the row, and the next owner goes on from there.
 *
 * A VM that finds no slot with a row takes a guest slot, and looks for a row again at its next record or lookup after
 * `vacancies` has moved. A VM that closes moves it. Once a second, one of the VMs that share slot 0 also looks for
 * slots whose owners are dead.
 */
#ifndef SLOT_H
#define SLOT_H

#include "shm/segment.h"

/*
 * `seen` of a guest slot whose VM has no row. No drop has to wait for that VM, because it records under the lock of the
 * series' stripe.
 */
#define SLOT_SEES_ALL UINT64_MAX

/*
 * Takes a slot with a row for this process and returns its number. `uses` has a bit for each metric that the VM uses.
 * 0: no slot is free, or there is no memory. `thorough`: also takes a slot whose owner is dead, for which it asks the
 * kernel about each slot. Under registry.
 */
uint32_t slot_take(chalk_segment *g, const uint64_t *uses, bool thorough);
/*
 * Takes a guest slot and returns its number. 0: none is free. From then on header.strangers says that a VM exists whose
 * metrics are unknown, so no definition is freed any more. Under registry.
 */
uint32_t slot_take_guest(chalk_segment *g, const uint64_t *uses);
/* Gives a slot back, for its owner or in the name of a dead one. Under registry. */
void slot_give(chalk_segment *g, uint32_t number);

/*
 * Whether a slot with a row may have become free since *vacancies was read, which becomes header.vacancies of now. Once
 * a second, one of the callers in all processes first frees the slots of dead owners.
 */
bool slot_may_be_free(chalk_segment *g, uint32_t *vacancies);

/* The next slot after `number` that was ever used, guest slots last. Begin with 0. NONE: there is no other. */
static inline uint32_t slot_after(const chalk_segment *g, uint32_t number) {
  uint32_t next = number + 1;
  if (next < WRITERS && next >= segment_slots(g)) next = WRITERS;
  return next < WRITERS || next < segment_guests(g) ? next : NONE;
}

#endif
