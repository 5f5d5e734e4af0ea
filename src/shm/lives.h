/*
 * Which owners of slots are alive, remembered for one pass over the series. Asking the kernel takes about 10 us and a
 * pass may need the answer for each series, so it asks at most once for each slot.
 *
 * If an owner dies during the pass, it counts as alive until the pass ends. This only delays what waits for the death.
 * The opposite error would do harm: after an owner's death, a live process may take its slot. So an answer is valid for
 * one `turn` of the slot, and the kernel is asked again if the slot was taken since.
 */
#ifndef LIVES_H
#define LIVES_H

#include "shm/segment.h"

/* The answers so far. Private to the pass. */
typedef struct lives {
  const chalk_segment *segment;
  uint32_t top, guest_top; /* the numbers after the highest slots when the pass began */
  uint32_t turn[OWNERS];   /* turn of the slot at the time of the answer */
  uint8_t known[OWNERS];   /* the answer, or that there is none yet */
} lives;

/* Begins a pass, without any answers. */
void lives_begin(lives *l, const chalk_segment *g);
/* Whether the slot (below OWNERS) has an owner that is not known to be dead. */
bool lives_on(lives *l, uint32_t slot);

#endif
