#include "tap.h"

#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "process.h"
#include "role.h"
#include "ticks.h"

/* The switch: the kinds that it is on for as 1 << kind, by which clock, and above 8 bits the logarithm of rings' size. */

enum { KINDS = 1 << CHALK_COUNT | 1 << CHALK_GAUGE | 1 << CHALK_HISTOGRAM, STEADY = 1 << 7, SIZE_AT = 8 };

static uint64_t size_of(uint32_t tap) { return 1ull << (tap >> SIZE_AT & 31); }

static uint32_t switch_for(uint32_t kinds, uint32_t events) {
  uint32_t log = 0;
  if (events < CHALK_TAP_LEAST) events = CHALK_TAP_LEAST;
  if (events > CHALK_TAP_MOST) events = CHALK_TAP_MOST;
  while (1u << log < events) log++;
  return kinds & KINDS ? (kinds & KINDS) | log << SIZE_AT : 0;
}

/* Whether it was changed. */
static bool change(chalk_segment *g, uint32_t kinds, uint32_t events, bool widen) {
  uint32_t old = atomic_load(&g->head->tap), new, clock = ticks_are_steady() ? STEADY : 0;
  do {
    new = switch_for(kinds, events);
    if (widen && old) {
      uint32_t larger = size_of(old) > size_of(new) ? old : new;
      new = ((old | new) & KINDS) | (larger >> SIZE_AT << SIZE_AT);
    }
    if (new) new |= old ? (old & STEADY) : clock;
    if (new == old) return false;
  } while (!atomic_compare_exchange_weak(&g->head->tap, &old, new));
  return true;
}

void chalk_tap_switch(chalk_segment *g, uint32_t kinds, uint32_t events, int widen) {
  if (!widen && !role_enter(g)) return; /* it is its successor's, after a stop */
  if (change(g, kinds, events, widen)) segment_epoch_move(g);
  if (!widen) role_leave(g);
}

uint32_t chalk_tap_passes(chalk_segment *g) { return atomic_load(&g->head->tap_pass); }

uint32_t chalk_tap_kinds(chalk_segment *g) { return atomic_load(&g->head->tap) & KINDS; }

bool tap_wants(const chalk_segment *g, uint32_t number) {
  uint32_t tap = atomic_load(&g->head->tap);
  const metric *m = &g->metrics[number];
  return (tap >> m->kind & 1) != 0 && m->max_series != NONE;
}

/* Rings */

static uint64_t bytes_of(uint64_t size) { return sizeof(tap_ring) + size * sizeof(chalk_event); }

static bool is_size(uint64_t size) {
  return size >= CHALK_TAP_LEAST && size <= CHALK_TAP_MOST && (size & (size - 1)) == 0;
}

static tap_ring *ring_at(const chalk_segment *g, uint64_t offset) {
  tap_ring *r = offset ? segment_block(g, offset, sizeof(tap_ring)) : NULL;
  return r && is_size(r->size) && segment_block(g, offset, bytes_of(r->size)) ? r : NULL;
}

static uint64_t ring_new(chalk_segment *g, uint64_t size) {
  uint64_t offset = heap_take(g, bytes_of(size));
  if (offset) ((tap_ring *)segment_at(g, offset))->size = size;
  return offset;
}

static bool is_empty(const tap_ring *r) {
  return atomic_load((shared_u64 *)&r->head) == atomic_load((shared_u64 *)&r->tail);
}

/* The ring of a slot; a new one where there is none, or one that is too small and can be left. */
static tap_ring *ring_of(chalk_segment *g, slot *l) {
  uint32_t tap = atomic_load(&g->head->tap);
  uint64_t old = atomic_load(&l->ring);
  tap_ring *r = ring_at(g, old);
  if (!tap || (r && r->size >= size_of(tap))) return r;
  if (r && (!is_empty(r) || atomic_load(&l->ring_old))) return r;
  uint64_t new = ring_new(g, size_of(tap));
  if (!new && !r) new = ring_new(g, CHALK_TAP_LEAST);
  if (!new) return r;
  if (r) atomic_store(&((tap_ring *)segment_at(g, new))->dropped, atomic_load(&r->dropped)); /* goes on counting */
  atomic_store_explicit(&l->ring, new, memory_order_release);
  if (r) atomic_store_explicit(&l->ring_old, old, memory_order_release);
  return segment_at(g, new);
}

void tap_ready(chalk_writer *w) {
  chalk_segment *g = w->segment;
  if (w->slot == 0 || atomic_load_explicit(&g->head->tap, memory_order_relaxed) == 0) return;
  w->ring = ring_of(g, &g->slots[w->slot]);
  w->ring_limit = 0;
}

/* Writing */

/* Stores an event; `limit` is how many may have been stored before it has to be asked how many were taken. */
static inline void ring_put(tap_ring *r, uint64_t *limit, const chalk_series *s, uint32_t verb, double v) {
  uint32_t tap = atomic_load_explicit(&s->writer->segment->head->tap, memory_order_relaxed);
  if (tap == 0) return; /* nobody reads it any more, and the clock is not known */
  uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
  if (head >= *limit) {
    *limit = atomic_load_explicit(&r->tail, memory_order_acquire) + r->size;
    if (head >= *limit) {
      uint64_t dropped = atomic_load_explicit(&r->dropped, memory_order_relaxed);
      atomic_store_explicit(&r->dropped, dropped + 1, memory_order_relaxed);
      return;
    }
  }
  chalk_event *e = &r->events[head & (r->size - 1)];
  e->series = s->series;
  e->generation = s->generation;
  e->metric = s->metric;
  e->verb = verb;
  e->value = verb == CHALK_EVENT_DOWN ? -v : v;
  e->time = ticks_now(tap & STEADY);
  atomic_store_explicit(&r->head, head + 1, memory_order_release);
}

void tap_put(const chalk_series *s, uint32_t verb, double v) {
  chalk_writer *w = s->writer;
  if (!w->ring) tap_ready(w);
  if (w->ring) {
    ring_put(w->ring, &w->ring_limit, s, verb, v);
  } else {
    atomic_fetch_add(&w->segment->head->tap_lost, 1);
  }
}

void tap_put_shared(const chalk_series *s, uint32_t verb, double v) {
  chalk_segment *g = s->writer->segment;
  uint64_t limit = 0;
  segment_lock_take(&g->head->tap_lock);
  tap_ring *r = ring_of(g, &g->slots[0]);
  if (r) ring_put(r, &limit, s, verb, v);
  segment_lock_give(&g->head->tap_lock);
  if (!r) atomic_fetch_add(&g->head->tap_lost, 1);
}

/* Reading */

/* A ring of which something is to be taken in this pass. */
typedef struct source {
  tap_ring *ring;
  uint64_t at, goal;
} source;

struct chalk_tap {
  chalk_segment *segment;
  uint32_t n_sources, n_events;
  bool passing;              /* in the middle of a pass */
  uint64_t lost;             /* of the header's, told */
  uint64_t dropped[WRITERS]; /* of each slot, told */
  ticks_scale clock;
  uint64_t missed; /* overwritten before they were read, by a reader that went on after a stop */
  source sources[WRITERS];
  chalk_event events[CHALK_TAP_BATCH];
};

/* Frees what a writer has left for a larger one. */
static void ring_free_old(chalk_segment *g, slot *l) {
  uint64_t offset = atomic_load_explicit(&l->ring_old, memory_order_acquire);
  tap_ring *r = ring_at(g, offset);
  if (!offset) return;
  atomic_store(&l->ring_old, 0);
  if (r && offset != atomic_load(&l->ring)) heap_give(g, offset, bytes_of(r->size));
}

static tap_ring *ring_in(const chalk_segment *g, uint32_t slot) {
  return ring_at(g, atomic_load_explicit(&g->slots[slot].ring, memory_order_acquire));
}

static void begin(chalk_tap *t) {
  chalk_segment *g = t->segment;
  t->n_sources = 0;
  ticks_adjust(&t->clock);
  for (uint32_t i = 0; i < atomic_load(&g->head->slot_top); i++) {
    ring_free_old(g, &g->slots[i]);
    tap_ring *r = ring_in(g, i);
    if (!r) continue;
    source s = {r, atomic_load(&r->tail), atomic_load_explicit(&r->head, memory_order_acquire)};
    if (s.goal - s.at > r->size) {
      t->missed += s.goal - s.at - r->size;
      s.at = s.goal - r->size;
    }
    if (s.at != s.goal) t->sources[t->n_sources++] = s;
  }
  t->passing = true;
}

static const chalk_event *next_of(const source *s) { return &s->ring->events[s->at & (s->ring->size - 1)]; }

/* The source whose next event is the oldest; NULL when all are through. */
static source *oldest(chalk_tap *t) {
  source *found = NULL;
  for (uint32_t i = 0; i < t->n_sources; i++) {
    source *s = &t->sources[i];
    if (s->at != s->goal && (!found || next_of(s)->time < next_of(found)->time)) found = s;
  }
  return found;
}

static void take(chalk_tap *t) {
  t->n_events = 0;
  for (source *s; t->n_events < CHALK_TAP_BATCH && (s = oldest(t));) {
    chalk_event *e = &t->events[t->n_events++];
    *e = *next_of(s);
    e->time = ticks_to_wall(&t->clock, e->time);
    s->at++;
  }
}

uint32_t chalk_tap_read(chalk_tap *t) {
  chalk_segment *g = t->segment;
  t->n_events = 0;
  if (role_is_lost(g)) return 0;
  if (!t->passing) begin(t);
  take(t);
  if (role_is_lost(g)) return t->n_events = 0; /* what was read in the meantime may be anything */
  for (uint32_t i = 0; i < t->n_sources; i++) {
    atomic_store_explicit(&t->sources[i].ring->tail, t->sources[i].at, memory_order_release);
  }
  if (!oldest(t)) {
    t->passing = false;
    atomic_fetch_add(&g->head->tap_pass, 1);
  }
  return t->n_events;
}

const chalk_event *chalk_tap_events(const chalk_tap *t) { return t->events; }

uint64_t chalk_tap_dropped(chalk_tap *t) {
  chalk_segment *g = t->segment;
  uint64_t lost = atomic_load(&g->head->tap_lost), n = lost - t->lost;
  t->lost = lost;
  for (uint32_t i = 0; i < atomic_load(&g->head->slot_top); i++) {
    tap_ring *r = ring_in(g, i);
    if (!r) continue;
    uint64_t dropped = atomic_load(&r->dropped);
    n += dropped - t->dropped[i];
    t->dropped[i] = dropped;
  }
  n += t->missed;
  t->missed = 0;
  return n;
}

chalk_tap *chalk_tap_open(chalk_segment *g, int keep, char *message) {
  chalk_tap *t = calloc(1, sizeof *t);
  if (!t) {
    process_say(message, "out of memory");
    return NULL;
  }
  t->segment = g;
  t->lost = atomic_load(&g->head->tap_lost);
  uint32_t tap = atomic_load(&g->head->tap);
  ticks_begin(&t->clock, tap ? tap & STEADY : ticks_are_steady());
  for (uint32_t i = 0; i < atomic_load(&g->head->slot_top); i++) {
    tap_ring *r = ring_in(g, i);
    if (!r) continue;
    t->dropped[i] = atomic_load(&r->dropped);
    if (!keep) atomic_store(&r->tail, atomic_load(&r->head));
  }
  return t;
}

void chalk_tap_close(chalk_tap *t) { free(t); }

/* A pass may be under way, begun before the last of the events was stored: so the end of the one after it. */
bool tap_has_read(chalk_segment *g, series *s) {
  if (atomic_load(&g->head->tap) == 0) return true;
  uint32_t pass = atomic_load(&g->head->tap_pass);
  if (s->pass == 0) {
    s->pass = pass + 2 ? pass + 2 : 1;
    return false;
  }
  return (int32_t)(pass - s->pass) >= 0;
}

/* After the death of all */

static bool ring_is_sound(recovery *r, chalk_segment *g, uint64_t offset) {
  if (!offset) return true;
  tap_ring *ring = offset % 64 == 0 ? ring_at(g, offset) : NULL;
  return ring && atomic_load(&ring->head) - atomic_load(&ring->tail) <= ring->size &&
         recover_block(r, offset, bytes_of(ring->size));
}

bool tap_is_sound(recovery *r, chalk_segment *g) {
  for (uint32_t i = 0; i < WRITERS; i++) {
    if (!ring_is_sound(r, g, atomic_load(&g->slots[i].ring))) return false;
    if (!ring_is_sound(r, g, atomic_load(&g->slots[i].ring_old))) return false;
  }
  return true;
}
