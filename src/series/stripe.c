#include "series/stripe.h"

#include <string.h>

#include "series/handover.h"
#include "shm/heap.h"

/* Frees a number whose owner died before it made a series of it. The number may already have a key. */
static void give_reserved(chalk_segment *g, uint32_t id) {
  series *s = &g->series[id];
  uint64_t key = s->key;
  s->key = 0;
  atomic_signal_fence(memory_order_seq_cst);
  heap_give(g, key, s->key_size);
  number_give(g, id);
}

chains stripe_empty(chalk_segment *g, stripe *stripe) {
  chains c = chains_of(g, stripe);
  uint64_t new = c.heads ? 0 : heap_take(g, STRIPE_LEAST * sizeof(uint32_t));
  if (new) {
    stripe->heads = new, stripe->size = STRIPE_LEAST;
    c = (chains){segment_at(g, new), STRIPE_LEAST - 1};
  }
  if (c.heads) memset(c.heads, 0xff, (c.mask + 1ull) * sizeof *c.heads);
  return c;
}

static void put_first(chains c, series *s, uint32_t id) {
  uint32_t *head = chains_head(c, s->hash);
  s->next = *head;
  *head = id;
}

/* Builds the chains from the series. Frees reserved numbers, and undoes drops that are not settled. */
static void stripe_rebuild(chalk_segment *g, uint32_t number) {
  stripe *stripe = &g->stripes[number];
  chains c = stripe_empty(g, stripe);
  if (!c.heads) return;
  stripe->used = 0;
  for (uint32_t id = METRICS, top = series_top(g); id < top; id++) {
    series *s = &g->series[id];
    uint32_t state = series_state(s);
    if (state == SERIES_RESERVED) {
      if (atomic_load(&s->state) >> NUMBER_STATE_BITS == number) give_reserved(g, id);
      continue;
    }
    if (state == SERIES_FREE || series_stripe(s->hash) != number) continue;
    if (state == SERIES_DROPPED && !series_is_settled(s)) atomic_store(&s->state, state = SERIES_LIVE);
    if (state != SERIES_LIVE) continue;
    put_first(c, s, id);
    stripe->used++;
  }
  atomic_store(&g->head->recount, 1);
}

void stripe_repair(chalk_segment *g, uint32_t number) {
  stripe_rebuild(g, number);
  handover_finish(g, &g->stripes[number]);
}

/* Moves the series from the old chains to new ones. */
static void stripe_move(chalk_segment *g, chains to, chains from) {
  uint32_t left = series_top(g);
  memset(to.heads, 0xff, (to.mask + 1ull) * sizeof *to.heads);
  for (uint32_t i = 0; i <= from.mask; i++) {
    for (uint32_t id = number_at(g, &from.heads[i]), next; id != NONE && left-- > 0; id = next) {
      series *s = &g->series[id];
      next = number_at(g, &s->next);
      put_first(to, s, id);
    }
  }
}

void stripe_double(chalk_segment *g, uint32_t number) {
  stripe *stripe = &g->stripes[number];
  chains from = chains_of(g, stripe);
  uint64_t n = from.mask + 1ull, size = n * sizeof(uint32_t), new = from.heads ? heap_take(g, 2 * size) : 0;
  if (!new) return;
  /* An owner that dies after this store leaves more heads than `size` says. The next owner rebuilds the chains. */
  stripe->heads = new;
  atomic_signal_fence(memory_order_seq_cst);
  stripe->size = (uint32_t)(2 * n);
  stripe_move(g, (chains){segment_at(g, new), (uint32_t)(2 * n) - 1}, from);
  heap_give(g, segment_offset(g, from.heads), size);
}

void stripe_unlink(chalk_segment *g, stripe *stripe, uint32_t id) {
  chains c = chains_of(g, stripe);
  if (!c.heads) return;
  uint32_t *p = chains_head(c, g->series[id].hash), at = number_at(g, p);
  for (uint32_t left = series_top(g); at != NONE && at != id && left-- > 0; at = number_at(g, p))
    p = &g->series[at].next;
  if (at == id) *p = g->series[id].next, stripe->used--;
}
