#include "shm/lives.h"

#include <string.h>

#include "shm/life.h"

enum { UNKNOWN, ALIVE, GONE };

void lives_begin(lives *l, const chalk_segment *g) {
  l->segment = g;
  l->top = segment_slots(g);
  l->guest_top = segment_guests(g);
  memset(l->known, UNKNOWN, l->top);
  memset(l->known + WRITERS, UNKNOWN, l->guest_top - WRITERS);
}

/* What was read of the owner is one owner's if neither word has moved; a new one is none that the pass has to know. */
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
    l->known[number] = ask(l->segment, s, turn) ? ALIVE : GONE;
  }
  return l->known[number] == ALIVE;
}
