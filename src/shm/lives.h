/*
 * Which owners of slots live, asked of the kernel at most once a slot in one pass over many series: an answer costs
 * some 10 us, and a pass may want it once a series.
 *
 * An owner that dies during the pass is taken for alive until the pass ends, which delays what waits for its death and
 * does no harm. The other way round would: a slot whose owner is dead may be taken, meanwhile, by somebody who lives.
 * So what is known of a slot holds for one turn of the slot, and is asked anew when the slot was taken since.
 */
#ifndef LIVES_H
#define LIVES_H

#include "shm/segment.h"

/* Private to the pass. */
typedef struct lives {
  const chalk_segment *segment;
  uint32_t top, guest_top; /* of slots when the pass began */
  uint32_t turn[OWNERS];   /* of the slot when it was asked about */
  uint8_t known[OWNERS];
} lives;

void lives_begin(lives *l, const chalk_segment *g);
/* Whether the slot has an owner, and not one that is known to be dead. */
bool lives_on(lives *l, uint32_t slot);

#endif
