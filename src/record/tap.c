#include "record/tap.h"

#include <stdlib.h>
#include <string.h>

#include "base/peek.h"
#include "base/ticks.h"
#include "record/writer.h"
#include "series/number.h"
#include "shm/heap.h"
#include "shm/process.h"
#include "shm/role.h"
#include "value/kind.h"

/*
 * The setting, header.tap: a bit 1 << kind for each kind that the tap is on for; STEADY if the times of events are
 * ticks of the steady counter, see ticks.h; and from bit SIZE_AT on the logarithm of the rings' size. 0: the tap is
 * off.
 */
enum { STEADY = 1 << 7, SIZE_AT = 8 };
enum { UNANNOUNCED = 1 << 6 }; /* as header.tap_announced: differs from every setting */
_Static_assert((int)KIND_MASK < (int)UNANNOUNCED, "each kind has a bit of the setting");

static uint64_t size_of(uint32_t setting) { return 1ull << (setting >> SIZE_AT & 31); }

/* The setting for these kinds and rings of at least so many events, without a clock. */
static uint32_t setting_for(uint32_t kinds, uint32_t events) {
  uint32_t log = 0;
  if (events < CHALK_TAP_LEAST) events = CHALK_TAP_LEAST;
  if (events > CHALK_TAP_MOST) events = CHALK_TAP_MOST;
  while (1u << log < events) log++;
  return kinds & KIND_MASK ? (kinds & KIND_MASK) | log << SIZE_AT : 0;
}

/*
 * Switches the tap. `widen`: only adds kinds and enlarges rings. The clock stays the same while the tap is on.
 *
 * The epoch moves after `tap`, and `tap_announced` follows with the setting that the epoch has moved for. A process
 * that dies before it moves the epoch leaves UNANNOUNCED there, so the next process that switches moves the epoch even
 * if `tap` already has the setting that it wants.
 */
static void switch_to(chalk_segment *g, uint32_t kinds, uint32_t events, bool widen) {
  header *head = g->head;
  uint32_t old = atomic_load(&head->tap), new, clock = ticks_are_steady() ? STEADY : 0;
  do {
    new = setting_for(kinds, events);
    if (widen && old) {
      uint32_t larger = size_of(old) > size_of(new) ? old : new;
      new = ((old | new) & KIND_MASK) | (larger >> SIZE_AT << SIZE_AT);
    }
    if (new) new |= old ? (old & STEADY) : clock;
    if (new == old && atomic_load(&head->tap_announced) == new) return;
    atomic_store(&head->tap_announced, UNANNOUNCED);
  } while (!atomic_compare_exchange_weak(&head->tap, &old, new));
  segment_epoch_move(g);
  atomic_store(&head->tap_announced, new);
}

uint32_t chalk_tap_passes(chalk_segment *g) { return atomic_load(&g->head->tap_pass); }

uint32_t chalk_tap_kinds(chalk_segment *g) { return atomic_load(&g->head->tap) & KIND_MASK; }

bool tap_wants(const chalk_segment *g, uint32_t number) {
  uint32_t setting = atomic_load(&g->head->tap);
  const metric *m = &g->metrics[number];
  return (setting >> (m->kind & 31) & 1) != 0 && m->max_series != NONE;
}

/* Rings */

static uint64_t bytes_of(uint64_t size) { return sizeof(tap_ring) + size * sizeof(chalk_event); }

static bool is_size(uint64_t size) {
  return size >= CHALK_TAP_LEAST && size <= CHALK_TAP_MOST && (size & (size - 1)) == 0;
}

/*
 * The ring at an offset; NULL: no ring can stand there. Its size is read and checked once, into *size, because any
 * process may store another size into the ring later.
 */
static tap_ring *ring_at(const chalk_segment *g, uint64_t offset, uint64_t *size) {
  tap_ring *ring = offset % _Alignof(tap_ring) == 0 ? segment_block(g, offset, sizeof(tap_ring)) : NULL;
  *size = ring ? peek_u64(&ring->size) : 0;
  return ring && is_size(*size) && segment_block(g, offset, bytes_of(*size)) ? ring : NULL;
}

static uint64_t ring_new(chalk_segment *g, uint64_t size) {
  uint64_t offset = heap_take(g, bytes_of(size));
  if (offset % _Alignof(tap_ring) != 0) return 0;
  if (offset) ((tap_ring *)segment_at(g, offset))->size = size;
  return offset;
}

static bool is_empty(const tap_ring *ring) {
  return atomic_load((shared_u64 *)&ring->head) == atomic_load((shared_u64 *)&ring->tail);
}

/*
 * The ring of a slot. If there is none, or if it is too small and empty, the slot gets a new one. NULL: no memory, or
 * the tap is off and the slot has none.
 */
static tap_ring *ring_of(chalk_segment *g, slot *slot, uint64_t *size) {
  uint32_t setting = atomic_load(&g->head->tap);
  uint64_t old = atomic_load(&slot->ring);
  tap_ring *ring = ring_at(g, old, size);
  if (!setting || (ring && *size >= size_of(setting))) return ring;
  if (ring && (!is_empty(ring) || atomic_load(&slot->ring_old))) return ring;
  uint64_t new = ring_new(g, size_of(setting));
  if (!new && !ring) new = ring_new(g, CHALK_TAP_LEAST);
  if (!new) return ring;
  atomic_store_explicit(&slot->ring, new, memory_order_release);
  if (ring) atomic_store_explicit(&slot->ring_old, old, memory_order_release);
  return ring_at(g, new, size);
}

void tap_ready(chalk_writer *w) {
  chalk_segment *g = w->segment;
  if (w->slot == 0 || atomic_load_explicit(&g->head->tap, memory_order_relaxed) == 0) return;
  w->ring = ring_of(g, &g->slots[w->slot], &w->ring_size);
  w->ring_limit = 0;
}

/* Writing */

/* Stores an event. The ring's tail is read only when the head has reached *limit, the head at which it may be full. */
static inline void ring_put(tap_ring *ring, uint64_t size, uint64_t *limit, const chalk_series *s, uint32_t verb,
                            double v, bool steady) {
  uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
  if (head >= *limit) {
    *limit = atomic_load_explicit(&ring->tail, memory_order_acquire) + size;
    if (head >= *limit) {
      slot *slot = &s->writer->segment->slots[s->writer->slot];
      uint64_t dropped = atomic_load_explicit(&slot->dropped, memory_order_relaxed);
      atomic_store_explicit(&slot->dropped, dropped + 1, memory_order_relaxed);
      return;
    }
  }
  chalk_event *event = &ring->events[head & (size - 1)];
  event->series = s->series;
  event->generation = s->generation;
  event->metric = s->metric;
  event->verb = verb;
  event->value = verb == CHALK_EVENT_DOWN ? -v : v;
  event->time = ticks_now(steady);
  atomic_store_explicit(&ring->head, head + 1, memory_order_release);
}

/*
 * The setting at a record. If it is off by then, no event is stored, because the setting does not say any more which
 * clock the events have.
 */
static uint32_t setting_of(const chalk_series *s) {
  return atomic_load_explicit(&s->writer->segment->head->tap, memory_order_relaxed);
}

void tap_put(const chalk_series *s, uint32_t verb, double v) {
  chalk_writer *w = s->writer;
  uint32_t setting = setting_of(s);
  if (!setting || (w->is_master && !tap_wants(w->segment, s->metric))) return;
  if (!w->ring) tap_ready(w);
  if (w->ring) {
    ring_put(w->ring, w->ring_size, &w->ring_limit, s, verb, v, setting & STEADY);
  } else {
    atomic_fetch_add_explicit(&w->segment->head->tap_lost, 1, memory_order_relaxed);
  }
}

void tap_put_shared(const chalk_series *s, uint32_t verb, double v) {
  chalk_segment *g = s->writer->segment;
  uint64_t limit = 0;
  uint32_t setting = setting_of(s);
  if (!setting) return;
  uint64_t size;
  bool reached = segment_lock_reach_any(&g->head->tap_lock);
  tap_ring *ring = reached ? ring_of(g, &g->slots[0], &size) : NULL;
  if (ring) ring_put(ring, size, &limit, s, verb, v, setting & STEADY);
  if (reached) segment_lock_give(&g->head->tap_lock);
  if (!ring) atomic_fetch_add_explicit(&g->head->tap_lost, 1, memory_order_relaxed);
}

/* Reading */

/*
 * A pass reads every ring up to the head that it had when the pass began, in as many batches as that takes. A reader's
 * turn ends when another reader reads or all events are forgotten: then the tails have moved, and the positions that
 * this reader has are of no use. So it copies a batch without the lock, then takes `acting` and, if its turn has not
 * ended, moves the tails; otherwise it begins again.
 */

/* A ring that has events for this pass. */
typedef struct source {
  tap_ring *ring;
  uint64_t mask;     /* its size less 1 */
  uint64_t at, goal; /* the number of the next event, and of the first one after this pass */
} source;

struct chalk_tap {
  chalk_segment *segment;
  uint32_t turn; /* header.tap_turn in its turn */
  uint32_t n_sources, n_events;
  bool in_pass; /* a pass has begun and not ended */
  uint64_t batches;
  uint64_t missed; /* items of rings that are no valid events, not reported yet */
  ticks_scale clock;
  source sources[WRITERS];
  chalk_event events[CHALK_TAP_BATCH];
};

static uint32_t turn_new(chalk_segment *g) { return atomic_fetch_add(&g->head->tap_turn, 1) + 1; }

/* Enters the role, as role_enter does, and begins a new turn if this reader's last one has ended. */
static bool enter_turn(chalk_tap *tap) {
  chalk_segment *g = tap->segment;
  if (!role_enter(g)) return false;
  if (atomic_load(&g->head->tap_turn) != tap->turn) {
    tap->turn = turn_new(g);
    tap->in_pass = false;
  }
  return true;
}

/* Frees the ring that a slot's owner has replaced by a larger one. */
static void ring_free_old(chalk_segment *g, slot *slot) {
  uint64_t offset = atomic_load(&slot->ring_old);
  uint64_t size;
  tap_ring *ring = ring_at(g, offset, &size);
  if (!offset) return;
  atomic_store(&slot->ring_old, 0);
  if (ring && offset != atomic_load(&slot->ring)) heap_give(g, offset, bytes_of(size));
}

/* The ring of a slot and its size; NULL: the slot has none. */
static tap_ring *ring_in(const chalk_segment *g, uint32_t slot, uint64_t *size) {
  return ring_at(g, atomic_load_explicit(&g->slots[slot].ring, memory_order_acquire), size);
}

/* Empties all rings, and takes all dropped events for reported. */
static void forget_events(chalk_segment *g) {
  header *head = g->head;
  turn_new(g);
  atomic_store(&head->tap_lost_reported, atomic_load(&head->tap_lost));
  for (uint32_t i = 0; i < segment_slots(g); i++) {
    uint64_t size;
    tap_ring *ring = ring_in(g, i, &size);
    uint64_t stored = ring ? atomic_load_explicit(&ring->head, memory_order_acquire) : 0;
    if (ring) atomic_store_explicit(&ring->tail, stored, memory_order_release);
    atomic_store(&g->slots[i].dropped_reported, atomic_load(&g->slots[i].dropped));
  }
}

void chalk_tap_switch(chalk_segment *g, uint32_t kinds, uint32_t events, int widen) {
  if (widen) {
    switch_to(g, kinds, events, true);
  } else if (role_enter(g)) {
    switch_to(g, kinds, events, false);
    if (!(kinds & KIND_MASK)) forget_events(g); /* otherwise the next reader would take old events for new ones */
    role_leave(g);
  }
}

/* Begins a pass: notes the rings that have events, and how far to read them. */
static void begin_pass(chalk_tap *tap) {
  chalk_segment *g = tap->segment;
  tap->n_sources = 0;
  ticks_adjust(&tap->clock);
  for (uint32_t i = 0; i < segment_slots(g); i++) {
    ring_free_old(g, &g->slots[i]);
    uint64_t size;
    tap_ring *ring = ring_in(g, i, &size);
    if (!ring) continue;
    source from = {ring, size - 1, atomic_load(&ring->tail), atomic_load_explicit(&ring->head, memory_order_acquire)};
    if (from.at != from.goal) tap->sources[tap->n_sources++] = from;
  }
  tap->in_pass = true;
}

static const chalk_event *next_of(const source *from) { return &from->ring->events[from->at & from->mask]; }

/* The source whose next event is the oldest. NULL: all are at their goals, so the pass ends. */
static source *oldest(chalk_tap *tap) {
  source *found = NULL;
  for (uint32_t i = 0; i < tap->n_sources; i++) {
    source *from = &tap->sources[i];
    if (from->at != from->goal && (!found || next_of(from)->time < next_of(found)->time)) found = from;
  }
  return found;
}

/*
 * Whether an item of a ring is a valid event. The file of a segment may have any content, and consumers of events do
 * not check them again.
 */
static bool is_event(const chalk_segment *g, const chalk_event *event) {
  const double most = 9007199254740992.0;
  return event->series < series_top(g) && event->metric < segment_metrics(g) && event->verb >= CHALK_EVENT_INC &&
         event->verb <= CHALK_EVENT_RECORD &&
         (event->verb != CHALK_EVENT_INC || (event->value >= 0 && event->value <= most));
}

/* Copies the next events, oldest first, into the batch. Moves no tail. */
static void take_batch(chalk_tap *tap) {
  tap->n_events = 0;
  for (source *from; tap->n_events < CHALK_TAP_BATCH && (from = oldest(tap)); from->at++) {
    chalk_event *event = &tap->events[tap->n_events];
    *event = *next_of(from);
    event->time = ticks_to_wall(&tap->clock, event->time);
    bool valid = is_event(tap->segment, event);
    tap->n_events += valid;
    tap->missed += !valid;
  }
}

/* Moves the tails behind the events of the batch, which frees that space of the rings. Notes the end of a pass. */
static void release_taken(chalk_tap *tap) {
  for (uint32_t i = 0; i < tap->n_sources; i++) {
    atomic_store_explicit(&tap->sources[i].ring->tail, tap->sources[i].at, memory_order_release);
  }
  if (oldest(tap)) return;
  tap->in_pass = false;
  atomic_fetch_add(&tap->segment->head->tap_pass, 1);
}

uint32_t chalk_tap_read(chalk_tap *tap) {
  tap->n_events = 0;
  tap->batches++;
  for (bool done = false; !done;) {
    uint64_t missed = tap->missed;
    if (!tap->in_pass) {
      if (!enter_turn(tap)) return 0;
      begin_pass(tap);
      role_leave(tap->segment);
    }
    take_batch(tap);
    if (!enter_turn(tap)) return tap->n_events = 0;
    done = tap->in_pass;
    if (done) release_taken(tap);
    role_leave(tap->segment);
    if (!done) tap->missed = missed;
  }
  return tap->n_events;
}

const chalk_event *chalk_tap_events(const chalk_tap *tap) { return tap->events; }
uint32_t tap_size(const chalk_tap *tap) { return tap->n_events; }
uint64_t tap_batch(const chalk_tap *tap) { return tap->batches; }

/* What a counter has grown by since the last report, which is reported with this call. */
static uint64_t unreported(shared_u64 *counter, shared_u64 *reported) {
  uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
  return now - atomic_exchange_explicit(reported, now, memory_order_relaxed);
}

uint64_t chalk_tap_dropped(chalk_tap *tap) {
  chalk_segment *g = tap->segment;
  if (!role_enter(g)) return 0;
  uint64_t n = tap->missed + unreported(&g->head->tap_lost, &g->head->tap_lost_reported);
  tap->missed = 0;
  for (uint32_t i = 0; i < segment_slots(g); i++) {
    n += unreported(&g->slots[i].dropped, &g->slots[i].dropped_reported);
  }
  role_leave(g);
  return n;
}

chalk_tap *chalk_tap_open(chalk_segment *g, int keep, char *message) {
  chalk_tap *tap = calloc(1, sizeof *tap);
  if (!tap) {
    process_say(message, "out of memory");
    return NULL;
  }
  tap->segment = g;
  uint32_t setting = atomic_load(&g->head->tap);
  ticks_begin(&tap->clock, setting ? setting & STEADY : ticks_are_steady());
  if (!keep && role_enter(g)) {
    forget_events(g);
    role_leave(g);
  }
  tap->turn = atomic_load(&g->head->tap_turn) - 1; /* the first read begins one */
  return tap;
}

void chalk_tap_close(chalk_tap *tap) { free(tap); }

/* A pass that is under way may have begun before the last event was stored, so it takes the end of the next pass. */
bool tap_has_read(chalk_segment *g, series *s) {
  if (atomic_load(&g->head->tap) == 0) return true;
  uint32_t pass = atomic_load(&g->head->tap_pass);
  if (s->pass == 0) {
    s->pass = pass + 2 ? pass + 2 : 1;
    return false;
  }
  return (int32_t)(pass - s->pass) >= 0;
}

/* Recovery: no other process has the segment */

static bool ring_is_sound(heap_ledger *blocks, chalk_segment *g, uint64_t offset) {
  if (!offset) return true;
  uint64_t size;
  tap_ring *ring = ring_at(g, offset, &size);
  return ring && atomic_load(&ring->head) - atomic_load(&ring->tail) <= size &&
         heap_note(blocks, offset, bytes_of(size));
}

/* Whether a counter is not below what was reported of it, nor so far above that the sum over all slots overflows. */
static bool reported_is_sound(const shared_u64 *counter, const shared_u64 *reported) {
  return atomic_load((shared_u64 *)counter) - atomic_load((shared_u64 *)reported) <= 1ull << 45;
}

bool tap_is_sound(heap_ledger *blocks, chalk_segment *g) {
  if (!reported_is_sound(&g->head->tap_lost, &g->head->tap_lost_reported)) return false;
  for (uint32_t i = 0; i < WRITERS; i++) {
    const slot *slot = &g->slots[i];
    if (!reported_is_sound(&slot->dropped, &slot->dropped_reported) ||
        !ring_is_sound(blocks, g, atomic_load((shared_u64 *)&slot->ring)) ||
        !ring_is_sound(blocks, g, atomic_load((shared_u64 *)&slot->ring_old))) {
      return false;
    }
  }
  return true;
}

/* Ticks from before a reboot cannot be converted to times, because the counter has started again. */
void tap_recover(chalk_segment *g, bool rebooted) {
  atomic_store(&g->head->tap, 0);
  atomic_store(&g->head->tap_announced, 0);
  if (rebooted) forget_events(g);
}
