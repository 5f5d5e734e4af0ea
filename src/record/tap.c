#include "record/tap.h"

#include <stdlib.h>
#include <string.h>

#include "shm/heap.h"
#include "base/peek.h"
#include "shm/process.h"
#include "shm/role.h"
#include "record/writer.h"
#include "series/number.h"
#include "base/ticks.h"
#include "value/kind.h"

/* The switch: the kinds that it is on for as 1 << kind, by which clock, and above 8 bits the logarithm of rings' size. */
enum { STEADY = 1 << 7, SIZE_AT = 8 };
enum { UNANNOUNCED = 1 << 6 }; /* no switch */
_Static_assert((int)KIND_MASK < (int)UNANNOUNCED, "each kind has a bit of the switch");

static uint64_t size_of(uint32_t tap) { return 1ull << (tap >> SIZE_AT & 31); }

static uint32_t switch_for(uint32_t kinds, uint32_t events) {
  uint32_t log = 0;
  if (events < CHALK_TAP_LEAST) events = CHALK_TAP_LEAST;
  if (events > CHALK_TAP_MOST) events = CHALK_TAP_MOST;
  while (1u << log < events) log++;
  return kinds & KIND_MASK ? (kinds & KIND_MASK) | log << SIZE_AT : 0;
}

/*
 * The epoch moves after `tap`, and `tap_announced` follows with the value that the epoch has moved for. A process that
 * dies before it moves the epoch leaves UNANNOUNCED there, so the next process that switches moves the epoch even if
 * `tap` already has the value that it wants.
 */
static void switch_to(chalk_segment *g, uint32_t kinds, uint32_t events, bool widen) {
  header *h = g->head;
  uint32_t old = atomic_load(&h->tap), new, clock = ticks_are_steady() ? STEADY : 0;
  do {
    new = switch_for(kinds, events);
    if (widen && old) {
      uint32_t larger = size_of(old) > size_of(new) ? old : new;
      new = ((old | new) & KIND_MASK) | (larger >> SIZE_AT << SIZE_AT);
    }
    if (new) new |= old ? (old & STEADY) : clock;
    if (new == old && atomic_load(&h->tap_announced) == new) return;
    atomic_store(&h->tap_announced, UNANNOUNCED);
  } while (!atomic_compare_exchange_weak(&h->tap, &old, new));
  segment_epoch_move(g);
  atomic_store(&h->tap_announced, new);
}

uint32_t chalk_tap_passes(chalk_segment *g) { return atomic_load(&g->head->tap_pass); }

uint32_t chalk_tap_kinds(chalk_segment *g) { return atomic_load(&g->head->tap) & KIND_MASK; }

bool tap_wants(const chalk_segment *g, uint32_t number) {
  uint32_t tap = atomic_load(&g->head->tap);
  const metric *m = &g->metrics[number];
  return (tap >> (m->kind & 31) & 1) != 0 && m->max_series != NONE;
}

/* Rings */

static uint64_t bytes_of(uint64_t size) { return sizeof(tap_ring) + size * sizeof(chalk_event); }

static bool is_size(uint64_t size) {
  return size >= CHALK_TAP_LEAST && size <= CHALK_TAP_MOST && (size & (size - 1)) == 0;
}

/* And how large it is, which is not asked again: anybody may store there. */
static tap_ring *ring_at(const chalk_segment *g, uint64_t offset, uint64_t *size) {
  tap_ring *r = offset % _Alignof(tap_ring) == 0 ? segment_block(g, offset, sizeof(tap_ring)) : NULL;
  *size = r ? peek_u64(&r->size) : 0;
  return r && is_size(*size) && segment_block(g, offset, bytes_of(*size)) ? r : NULL;
}

static uint64_t ring_new(chalk_segment *g, uint64_t size) {
  uint64_t offset = heap_take(g, bytes_of(size));
  if (offset % _Alignof(tap_ring) != 0) return 0;
  if (offset) ((tap_ring *)segment_at(g, offset))->size = size;
  return offset;
}

static bool is_empty(const tap_ring *r) {
  return atomic_load((shared_u64 *)&r->head) == atomic_load((shared_u64 *)&r->tail);
}

/* The ring of a slot; a new one where there is none, or one that is too small and can be left. */
static tap_ring *ring_of(chalk_segment *g, slot *l, uint64_t *size) {
  uint32_t tap = atomic_load(&g->head->tap);
  uint64_t old = atomic_load(&l->ring);
  tap_ring *r = ring_at(g, old, size);
  if (!tap || (r && *size >= size_of(tap))) return r;
  if (r && (!is_empty(r) || atomic_load(&l->ring_old))) return r;
  uint64_t new = ring_new(g, size_of(tap));
  if (!new && !r) new = ring_new(g, CHALK_TAP_LEAST);
  if (!new) return r;
  atomic_store_explicit(&l->ring, new, memory_order_release);
  if (r) atomic_store_explicit(&l->ring_old, old, memory_order_release);
  return ring_at(g, new, size);
}

void tap_ready(chalk_writer *w) {
  chalk_segment *g = w->segment;
  if (w->slot == 0 || atomic_load_explicit(&g->head->tap, memory_order_relaxed) == 0) return;
  w->ring = ring_of(g, &g->slots[w->slot], &w->ring_size);
  w->ring_limit = 0;
}

/* Writing */

/* Stores an event; `limit` is how many may have been stored before it has to be asked how many were taken. */
static inline void ring_put(tap_ring *r, uint64_t size, uint64_t *limit, const chalk_series *s, uint32_t verb, double v,
                            bool steady) {
  uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
  if (head >= *limit) {
    *limit = atomic_load_explicit(&r->tail, memory_order_acquire) + size;
    if (head >= *limit) {
      slot *l = &s->writer->segment->slots[s->writer->slot];
      uint64_t dropped = atomic_load_explicit(&l->dropped, memory_order_relaxed);
      atomic_store_explicit(&l->dropped, dropped + 1, memory_order_relaxed);
      return;
    }
  }
  chalk_event *e = &r->events[head & (size - 1)];
  e->series = s->series;
  e->generation = s->generation;
  e->metric = s->metric;
  e->verb = verb;
  e->value = verb == CHALK_EVENT_DOWN ? -v : v;
  e->time = ticks_now(steady);
  atomic_store_explicit(&r->head, head + 1, memory_order_release);
}

/* The switch; once it is off nothing is stored, for by then it does not say which clock is meant. */
static uint32_t switch_of(const chalk_series *s) {
  return atomic_load_explicit(&s->writer->segment->head->tap, memory_order_relaxed);
}

void tap_put(const chalk_series *s, uint32_t verb, double v) {
  chalk_writer *w = s->writer;
  uint32_t tap = switch_of(s);
  if (!tap || (w->is_master && !tap_wants(w->segment, s->metric))) return;
  if (!w->ring) tap_ready(w);
  if (w->ring) {
    ring_put(w->ring, w->ring_size, &w->ring_limit, s, verb, v, tap & STEADY);
  } else {
    atomic_fetch_add_explicit(&w->segment->head->tap_lost, 1, memory_order_relaxed);
  }
}

void tap_put_shared(const chalk_series *s, uint32_t verb, double v) {
  chalk_segment *g = s->writer->segment;
  uint64_t limit = 0;
  uint32_t tap = switch_of(s);
  if (!tap) return;
  uint64_t size;
  bool reached = segment_lock_reach_any(&g->head->tap_lock);
  tap_ring *r = reached ? ring_of(g, &g->slots[0], &size) : NULL;
  if (r) ring_put(r, size, &limit, s, verb, v, tap & STEADY);
  if (reached) segment_lock_give(&g->head->tap_lock);
  if (!r) atomic_fetch_add_explicit(&g->head->tap_lost, 1, memory_order_relaxed);
}

/* Reading */

/*
 * A reader's turn ends when somebody else reads, or all events are forgotten: what he noted of the rings then holds no
 * more. Rings are looked at without the lock, and what was taken out of them counts once the turn is seen to last.
 */

/* A ring of which something is to be taken in this pass. */
typedef struct source {
  tap_ring *ring;
  uint64_t mask;
  uint64_t at, goal;
} source;

struct chalk_tap {
  chalk_segment *segment;
  uint32_t turn;
  uint32_t n_sources, n_events;
  bool passing; /* in the middle of a pass */
  uint64_t batches;
  uint64_t missed; /* what is no event */
  ticks_scale clock;
  source sources[WRITERS];
  chalk_event events[CHALK_TAP_BATCH];
};

static uint32_t turn_new(chalk_segment *g) { return atomic_fetch_add(&g->head->tap_turn, 1) + 1; }

/* As role_enter, in a turn of this reader's: a new one if the last has ended. */
static bool enter(chalk_tap *t) {
  chalk_segment *g = t->segment;
  if (!role_enter(g)) return false;
  if (atomic_load(&g->head->tap_turn) != t->turn) {
    t->turn = turn_new(g);
    t->passing = false;
  }
  return true;
}

/* Frees what a writer has left for a larger one. */
static void ring_free_old(chalk_segment *g, slot *l) {
  uint64_t offset = atomic_load(&l->ring_old);
  uint64_t size;
  tap_ring *r = ring_at(g, offset, &size);
  if (!offset) return;
  atomic_store(&l->ring_old, 0);
  if (r && offset != atomic_load(&l->ring)) heap_give(g, offset, bytes_of(size));
}

static tap_ring *ring_in(const chalk_segment *g, uint32_t slot, uint64_t *size) {
  return ring_at(g, atomic_load_explicit(&g->slots[slot].ring, memory_order_acquire), size);
}

/* Empties all rings, and counts nothing of what they dropped. */
static void forget_events(chalk_segment *g) {
  header *h = g->head;
  turn_new(g);
  atomic_store(&h->tap_lost_reported, atomic_load(&h->tap_lost));
  for (uint32_t i = 0; i < segment_slots(g); i++) {
    uint64_t size;
    tap_ring *r = ring_in(g, i, &size);
    if (r) atomic_store_explicit(&r->tail, atomic_load_explicit(&r->head, memory_order_acquire), memory_order_release);
    atomic_store(&g->slots[i].dropped_reported, atomic_load(&g->slots[i].dropped));
  }
}

void chalk_tap_switch(chalk_segment *g, uint32_t kinds, uint32_t events, int widen) {
  if (widen) {
    switch_to(g, kinds, events, true);
  } else if (role_enter(g)) {
    switch_to(g, kinds, events, false);
    if (!(kinds & KIND_MASK)) forget_events(g); /* or the next reader would take them for new */
    role_leave(g);
  }
}

static void begin(chalk_tap *t) {
  chalk_segment *g = t->segment;
  t->n_sources = 0;
  ticks_adjust(&t->clock);
  for (uint32_t i = 0; i < segment_slots(g); i++) {
    ring_free_old(g, &g->slots[i]);
    uint64_t size;
    tap_ring *r = ring_in(g, i, &size);
    if (!r) continue;
    source s = {r, size - 1, atomic_load(&r->tail), atomic_load_explicit(&r->head, memory_order_acquire)};
    if (s.at != s.goal) t->sources[t->n_sources++] = s;
  }
  t->passing = true;
}

static const chalk_event *next_of(const source *s) { return &s->ring->events[s->at & s->mask]; }

/* The source whose next event is the oldest; NULL when all are through. */
static source *oldest(chalk_tap *t) {
  source *found = NULL;
  for (uint32_t i = 0; i < t->n_sources; i++) {
    source *s = &t->sources[i];
    if (s->at != s->goal && (!found || next_of(s)->time < next_of(found)->time)) found = s;
  }
  return found;
}

/* A segment may come from a file of anybody's: who takes events need not ask. */
static bool is_event(const chalk_segment *g, const chalk_event *e) {
  const double most = 9007199254740992.0;
  return e->series < series_top(g) && e->metric < segment_metrics(g) && e->verb >= CHALK_EVENT_INC &&
         e->verb <= CHALK_EVENT_RECORD && (e->verb != CHALK_EVENT_INC || (e->value >= 0 && e->value <= most));
}

static void take(chalk_tap *t) {
  t->n_events = 0;
  for (source *s; t->n_events < CHALK_TAP_BATCH && (s = oldest(t)); s->at++) {
    chalk_event *e = &t->events[t->n_events];
    *e = *next_of(s);
    e->time = ticks_to_wall(&t->clock, e->time);
    bool is = is_event(t->segment, e);
    t->n_events += is;
    t->missed += !is;
  }
}

/* Gives the writers the room of what was taken. */
static void give_room(chalk_tap *t) {
  for (uint32_t i = 0; i < t->n_sources; i++) {
    atomic_store_explicit(&t->sources[i].ring->tail, t->sources[i].at, memory_order_release);
  }
  if (oldest(t)) return;
  t->passing = false;
  atomic_fetch_add(&t->segment->head->tap_pass, 1);
}

uint32_t chalk_tap_read(chalk_tap *t) {
  t->n_events = 0;
  t->batches++;
  for (bool is_taken = false; !is_taken;) {
    uint64_t missed = t->missed;
    if (!t->passing) {
      if (!enter(t)) return 0;
      begin(t);
      role_leave(t->segment);
    }
    take(t);
    if (!enter(t)) return t->n_events = 0;
    is_taken = t->passing;
    if (is_taken) give_room(t);
    role_leave(t->segment);
    if (!is_taken) t->missed = missed;
  }
  return t->n_events;
}

const chalk_event *chalk_tap_events(const chalk_tap *t) { return t->events; }
uint32_t tap_size(const chalk_tap *t) { return t->n_events; }
uint64_t tap_batch(const chalk_tap *t) { return t->batches; }

static uint64_t unreported(shared_u64 *n, shared_u64 *reported) {
  uint64_t now = atomic_load_explicit(n, memory_order_relaxed);
  return now - atomic_exchange_explicit(reported, now, memory_order_relaxed);
}

uint64_t chalk_tap_dropped(chalk_tap *t) {
  chalk_segment *g = t->segment;
  if (!role_enter(g)) return 0;
  uint64_t n = t->missed + unreported(&g->head->tap_lost, &g->head->tap_lost_reported);
  t->missed = 0;
  for (uint32_t i = 0; i < segment_slots(g); i++) {
    n += unreported(&g->slots[i].dropped, &g->slots[i].dropped_reported);
  }
  role_leave(g);
  return n;
}

chalk_tap *chalk_tap_open(chalk_segment *g, int keep, char *message) {
  chalk_tap *t = calloc(1, sizeof *t);
  if (!t) {
    process_say(message, "out of memory");
    return NULL;
  }
  t->segment = g;
  uint32_t tap = atomic_load(&g->head->tap);
  ticks_begin(&t->clock, tap ? tap & STEADY : ticks_are_steady());
  if (!keep && role_enter(g)) {
    forget_events(g);
    role_leave(g);
  }
  t->turn = atomic_load(&g->head->tap_turn) - 1; /* the first read begins one */
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

static bool ring_is_sound(heap_ledger *blocks, chalk_segment *g, uint64_t offset) {
  if (!offset) return true;
  uint64_t size;
  tap_ring *ring = ring_at(g, offset, &size);
  return ring && atomic_load(&ring->head) - atomic_load(&ring->tail) <= size &&
         heap_note(blocks, offset, bytes_of(size));
}

static bool reported_is_sound(const shared_u64 *n, const shared_u64 *reported) {
  return atomic_load((shared_u64 *)n) - atomic_load((shared_u64 *)reported) <= 1ull << 45; /* whoever adds them up */
}

bool tap_is_sound(heap_ledger *blocks, chalk_segment *g) {
  if (!reported_is_sound(&g->head->tap_lost, &g->head->tap_lost_reported)) return false;
  for (uint32_t i = 0; i < WRITERS; i++) {
    const slot *l = &g->slots[i];
    if (!reported_is_sound(&l->dropped, &l->dropped_reported) ||
        !ring_is_sound(blocks, g, atomic_load((shared_u64 *)&l->ring)) ||
        !ring_is_sound(blocks, g, atomic_load((shared_u64 *)&l->ring_old))) {
      return false;
    }
  }
  return true;
}

/* Another boot's processor counted otherwise. */
void tap_recover(chalk_segment *g, bool rebooted) {
  atomic_store(&g->head->tap, 0);
  atomic_store(&g->head->tap_announced, 0);
  if (rebooted) forget_events(g);
}
