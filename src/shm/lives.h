/*
 * Which owners of slots live. A pass over many series asks the kernel at most once a slot, because an answer costs some
 * 10 us and the pass may want it once a series.
 *
 * An owner that dies during the pass is taken for alive until the pass ends, which delays what waits for the death and
 * does no harm. The reverse would do harm: a slot whose owner is dead may be taken meanwhile by somebody who lives. So
 * an answer holds for one turn of the slot, and the kernel is asked anew when the slot was taken since.
 */
#ifndef LIVES_H
#define LIVES_H

#include "shm/segment.h"

/* The answers so far. Private to the pass. */
typedef struct lives {
  const chalk_segment *segment;
  uint32_t top, guest_top; /* of slots when the pass began */
  uint32_t turn[OWNERS];   /* of the slot when it was asked about */
  uint8_t known[OWNERS];   /* an answer, or that there is none yet */
} lives;

/* Begins a pass with no answers. */
void lives_begin(lives *l, const chalk_segment *g);
/* Whether the slot (below OWNERS) has an owner who is not known to be dead. */
bool lives_on(lives *l, uint32_t slot);

#endif
