#include "lives.h"

#include <string.h>

#include "process.h"

enum { UNKNOWN, ALIVE, GONE };

void lives_begin(lives *l, const chalk_segment *g) {
  l->segment = g;
  l->top = atomic_load(&g->head->slot_top);
  l->guest_top = atomic_load(&g->head->guest_top);
  memset(l->known, UNKNOWN, l->top);
  memset(l->known + WRITERS, UNKNOWN, l->guest_top - WRITERS);
}

static bool ask(const slot *s) { return atomic_load((shared_u32 *)&s->taken) && !process_is_dead(&s->owner); }

bool lives_on(lives *l, uint32_t number) {
  const slot *s = &l->segment->slots[number];
  if (number >= (number < WRITERS ? l->top : l->guest_top)) return ask(s);
  /* Read before the owner, as it moves after the owner is stored: what is learnt of a new owner may be asked again. */
  uint32_t turn = atomic_load((shared_u32 *)&s->turn);
  if (l->known[number] == UNKNOWN || l->turn[number] != turn) {
    l->turn[number] = turn;
    l->known[number] = ask(s) ? ALIVE : GONE;
  }
  return l->known[number] == ALIVE;
}
