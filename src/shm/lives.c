#include "shm/lives.h"

#include <string.h>

#include "shm/life.h"

enum { UNKNOWN, ALIVE, DEAD };

void lives_begin(lives *l, const chalk_segment *g) {
  l->segment = g;
  l->top = segment_slots(g);
  l->guest_top = segment_guests(g);
  memset(l->known, UNKNOWN, l->top);
  memset(l->known + WRITERS, UNKNOWN, l->guest_top - WRITERS);
}

/*
 * Asks the kernel. The fields of the owner belong to one owner only if `taken` and `turn` have not moved meanwhile. If
 * they have moved, the new owner came after the pass began, so the pass need not consider it.
 */
static bool ask(const chalk_segment *g, const slot *s, uint32_t turn) {
  shared_u32 *taken = (shared_u32 *)&s->taken;
  return atomic_load(taken) && !life_is_over(g, &s->owner) && atomic_load(taken) &&
         atomic_load((shared_u32 *)&s->turn) == turn;
}

bool lives_on(lives *l, uint32_t number) {
  const slot *s = &l->segment->slots[number];
  uint32_t turn = atomic_load((shared_u32 *)&s->turn);
  if (number >= (number < WRITERS ? l->top : l->guest_top)) return ask(l->segment, s, turn);
  if (l->known[number] == UNKNOWN || l->turn[number] != turn) {
    l->turn[number] = turn;
    l->known[number] = ask(l->segment, s, turn) ? ALIVE : DEAD;
  }
  return l->known[number] == ALIVE;
}
