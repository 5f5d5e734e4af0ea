#include "series/series.h"

#include <string.h>

#include "series/gauge.h"
#include "shm/heap.h"
#include "value/histogram.h"
#include "series/key.h"
#include "base/peek.h"
#include "shm/lives.h"
#include "series/pass.h"
#include "value/stored.h"

enum { STATE_BITS = 8 };

/*
 * A stripe's chains. Whoever has the segment may have stored anything there: `heads` is NULL where it cannot be theirs,
 * a link is followed where it is the number of a series, and a chain ends after as many links as there are series.
 */
typedef struct chains {
  uint32_t *heads;
  uint32_t mask;
} chains;

static inline chains chains_of(const chalk_segment *g, const stripe *t) {
  uint32_t size = peek_u32(&t->size);
  uint32_t *heads = size > 0 ? segment_block(g, t->heads, size * sizeof *heads) : NULL;
  return (chains){heads, size - 1};
}

static uint32_t *head_of(chains c, uint64_t hash) { return &c.heads[hash & c.mask]; }

static uint32_t link_at(const chalk_segment *g, const uint32_t *link) {
  uint32_t id = peek_u32(link);
  return id < g->capacity ? id : NONE;
}

bool series_is(const chalk_segment *g, uint32_t id, uint32_t generation) {
  const series *s = &g->series[id];
  return series_state(s) == SERIES_LIVE &&
         atomic_load_explicit((shared_u32 *)&s->generation, memory_order_acquire) == generation;
}

/* Numbers */

/* The list of free numbers, from the states, which are the truth. */
static void ids_rebuild(chalk_segment *g) {
  header *h = g->head;
  h->ids_free = NONE;
  for (uint32_t id = series_top(g); id-- > METRICS;) {
    if (series_state(&g->series[id]) != SERIES_FREE) continue;
    g->series[id].next = h->ids_free;
    h->ids_free = id;
  }
}

static bool ids_lock(chalk_segment *g) {
  bool orphaned;
  if (!segment_lock_reach(&g->head->ids_lock, &orphaned)) return false;
  if (orphaned) ids_rebuild(g);
  return true;
}

/* Makes the structs up to and with `id` real. */
static int make_structs(chalk_segment *g, uint32_t id) {
  enum { BATCH = 512 }; /* whole pages */
  header *h = g->head;
  uint32_t real = atomic_load(&h->series_real);
  if (id < real) return CHALK_OK;
  uint32_t want = (id / BATCH + 1) * BATCH;
  if (want > g->capacity) want = g->capacity;
  uint64_t offset = segment_offset(g, &g->series[real]);
  int e = segment_make_real(g, offset, (uint64_t)(want - real) * sizeof(series), false);
  if (e == CHALK_OK) atomic_store(&h->series_real, want);
  return e;
}

/* A number in state RESERVED for a stripe; NONE when there is none or no memory. */
static uint32_t ids_take(chalk_segment *g, uint32_t of_stripe) {
  header *h = g->head;
  if (!ids_lock(g)) return NONE;
  uint32_t id = link_at(g, &h->ids_free), top = series_top(g);
  if (id != NONE) {
    uint32_t next = g->series[id].next;
    atomic_store(&g->series[id].state, SERIES_RESERVED | of_stripe << STATE_BITS);
    h->ids_free = next;
  } else if (top < g->capacity && make_structs(g, top) == CHALK_OK) {
    id = top;
    atomic_store(&g->series[id].state, SERIES_RESERVED | of_stripe << STATE_BITS);
    atomic_store_explicit(&h->ids_top, top + 1, memory_order_release);
  }
  segment_lock_give(&h->ids_lock);
  return id;
}

void series_give_number(chalk_segment *g, uint32_t id) {
  if (!ids_lock(g)) return;
  g->series[id].next = g->head->ids_free;
  atomic_store(&g->series[id].state, SERIES_FREE);
  g->head->ids_free = id;
  segment_lock_give(&g->head->ids_lock);
}

/* Stripes */

/* What died before it became a series; its key may be there already. */
static void give_reserved(chalk_segment *g, uint32_t id) {
  series *s = &g->series[id];
  uint64_t key = s->key;
  s->key = 0;
  atomic_signal_fence(memory_order_seq_cst);
  heap_give(g, key, s->key_size);
  series_give_number(g, id);
}

/* A stripe's chains, emptied; others where what stands there cannot be chains. */
static chains chains_anew(chalk_segment *g, stripe *t) {
  enum { FEW = 32 };
  chains c = chains_of(g, t);
  uint64_t new = c.heads ? 0 : heap_take(g, FEW * sizeof(uint32_t));
  if (new) {
    t->heads = new, t->size = FEW;
    c = (chains){segment_at(g, new), FEW - 1};
  }
  if (c.heads) memset(c.heads, 0xff, (c.mask + 1ull) * sizeof *c.heads);
  return c;
}

/* Chains anew from the series. Undoes what a dead owner left half done: a reservation, a drop. */
static void stripe_rebuild(chalk_segment *g, uint32_t number) {
  stripe *t = &g->stripes[number];
  chains c = chains_anew(g, t);
  if (!c.heads) return;
  t->used = 0;
  for (uint32_t id = METRICS, top = series_top(g); id < top; id++) {
    series *s = &g->series[id];
    uint32_t state = series_state(s);
    if (state == SERIES_RESERVED) {
      if (atomic_load(&s->state) >> STATE_BITS == number) give_reserved(g, id);
      continue;
    }
    if (state == SERIES_FREE || series_stripe(s->hash) != number) continue;
    if (state == SERIES_DROPPED && !series_is_settled(s)) atomic_store(&s->state, state = SERIES_LIVE);
    if (state != SERIES_LIVE) continue;
    uint32_t *head = head_of(c, s->hash);
    s->next = *head;
    *head = id;
    t->used++;
  }
  atomic_store(&g->head->recount, 1);
}

static void stripe_repair(chalk_segment *g, uint32_t number) {
  stripe_rebuild(g, number);
  pass_finish(g, &g->stripes[number]);
}

void series_rebuild(chalk_segment *g) {
  ids_rebuild(g);
  for (uint32_t i = 0; i < STRIPES; i++) stripe_repair(g, i);
}

/* NULL: the lock was not to be had, see segment_lock_reach. */
static inline stripe *stripe_lock(chalk_segment *g, uint32_t number) {
  stripe *t = &g->stripes[number];
  bool orphaned;
  if (!segment_lock_reach(&t->lock, &orphaned)) return NULL;
  if (orphaned) stripe_repair(g, number);
  return t;
}

static void stripe_unlock(stripe *t) { segment_lock_give(&t->lock); }

void series_repair(chalk_segment *g, uint64_t hash) {
  stripe *t = stripe_lock(g, series_stripe(hash));
  if (t) stripe_unlock(t);
}

/* Hangs the series of the old chains into the stripe's, which are empty. */
static void stripe_move(chalk_segment *g, chains to, chains from) {
  uint32_t left = series_top(g);
  memset(to.heads, 0xff, (to.mask + 1ull) * sizeof *to.heads);
  for (uint32_t i = 0; i <= from.mask; i++) {
    for (uint32_t id = link_at(g, &from.heads[i]), next; id != NONE && left-- > 0; id = next) {
      series *s = &g->series[id];
      next = link_at(g, &s->next);
      uint32_t *head = head_of(to, s->hash);
      s->next = *head;
      *head = id;
    }
  }
}

/* Twice the chains, once they have two links on average. Without memory they just stay longer. */
static void stripe_grow(chalk_segment *g, uint32_t number) {
  stripe *t = &g->stripes[number];
  if (t->used < t->size * 2) return;
  chains from = chains_of(g, t);
  uint64_t n = from.mask + 1ull, size = n * sizeof(uint32_t), new = from.heads ? heap_take(g, 2 * size) : 0;
  if (!new) return;
  /* An owner that dies here leaves heads that are too long for `size`, and the next one rebuilds. */
  t->heads = new;
  atomic_signal_fence(memory_order_seq_cst);
  t->size = (uint32_t)(2 * n);
  stripe_move(g, (chains){segment_at(g, new), (uint32_t)(2 * n) - 1}, from);
  heap_give(g, segment_offset(g, from.heads), size);
}

static inline bool has_key(const chalk_segment *g, const series *s, const series_key *key) {
  if (s->key_size != key->size) return false;
  if (key->size == 0) return true;
  const void *bytes = segment_block(g, s->key, key->size);
  return bytes && memcmp(bytes, key->bytes, key->size) == 0;
}

static inline uint32_t stripe_search(const chalk_segment *g, chains c, const series_key *key) {
  uint32_t left = series_top(g);
  if (!c.heads) return NONE;
  for (uint32_t id = link_at(g, head_of(c, key->hash)); id != NONE && left-- > 0;) {
    const series *s = &g->series[id];
    if (s->hash == key->hash && s->metric == key->metric && has_key(g, s, key)) return id;
    id = link_at(g, &s->next);
  }
  return NONE;
}

/* Creating */

static bool count_up(shared_u32 *count, uint32_t most) {
  uint32_t n = atomic_load(count);
  while (n < most) {
    if (atomic_compare_exchange_weak(count, &n, n + 1)) return true;
  }
  return false;
}

/*
 * Counts a series that is about to live; false: a limit is reached. Others may create some in other stripes meanwhile.
 * chalk's own metrics have max_series NONE: they neither count against the limits nor obey them.
 */
static bool count_live(chalk_segment *g, metric *m) {
  if (m->max_series == NONE) return true;
  if (!count_up(&g->head->live, atomic_load(&g->head->max_series))) return false;
  if (count_up(&m->series, m->max_series ? m->max_series : UINT32_MAX)) return true;
  atomic_fetch_sub(&g->head->live, 1);
  return false;
}

static void count_gone(chalk_segment *g, metric *m) {
  if (m->max_series == NONE) return;
  atomic_fetch_sub(&g->head->live, 1);
  atomic_fetch_sub(&m->series, 1);
}

static int fold(chalk_segment *g, metric *m, uint32_t *id, uint32_t number) {
  atomic_fetch_add_explicit(&m->folded, 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&g->head->folded, 1, memory_order_relaxed);
  *id = number;
  return CHALK_FOLDED;
}

static inline bool is_overflow(uint32_t tags, const series_key *key) {
  char overflow[CHALK_TAGS * (2 + sizeof KEY_OVERFLOW)];
  if (key->size != tags * (2 + sizeof KEY_OVERFLOW - 1) || tags > CHALK_TAGS) return false;
  return memcmp(key->bytes, overflow, key_overflow(overflow, tags)) == 0;
}

/* Publishes it as live, in its chain. */
static void link_series(chalk_segment *g, stripe *t, chains c, uint32_t id) {
  series *s = &g->series[id];
  uint32_t *head = head_of(c, s->hash);
  s->next = *head;
  atomic_store_explicit(&s->state, SERIES_LIVE, memory_order_release);
  *head = id;
  t->used++;
}

static int create(chalk_segment *g, stripe *t, chains c, const series_key *key, uint32_t *id) {
  metric *m = &g->metrics[key->metric];
  if (!c.heads || !count_live(g, m)) return fold(g, m, id, key->metric);
  uint64_t bytes = key->size ? heap_take(g, key->size) : 0;
  uint32_t new = key->size && !bytes ? NONE : ids_take(g, series_stripe(key->hash));
  if (new == NONE) {
    heap_give(g, bytes, key->size);
    count_gone(g, m);
    return fold(g, m, id, key->metric);
  }
  series *s = &g->series[new];
  if (key->size) memcpy(segment_at(g, bytes), key->bytes, key->size);
  atomic_store_explicit(&s->metric, key->metric, memory_order_relaxed);
  atomic_store_explicit(&s->hash, key->hash, memory_order_relaxed);
  atomic_store_explicit(&s->key_size, key->size, memory_order_relaxed);
  atomic_signal_fence(memory_order_seq_cst);
  s->key = bytes;
  s->active = 0;
  s->pass = 0;
  s->seen_total = 0;
  s->seen_time = 0;
  atomic_store(&s->at_drop, 0);
  store_double(&s->gauge, GAUGE_FRESH);
  store_double(&s->mark, GAUGE_UNSET);
  atomic_store(&s->drop_epoch, SERIES_UNSETTLED);
  link_series(g, t, c, new);
  *id = new;
  stripe_grow(g, series_stripe(key->hash));
  return CHALK_OK;
}

void series_let_go(chalk_segment *g, const series_key *key) { stripe_unlock(&g->stripes[series_stripe(key->hash)]); }

void series_hold_overflow(chalk_segment *g, series_key *key) {
  series_let_go(g, key);
  key->hash = key_overflow_hash(key->metric);
  stripe_lock(g, series_stripe(key->hash));
}

/* Where there are none, from the series. */
static chains chains_again(chalk_segment *g, const stripe *t) {
  stripe_repair(g, (uint32_t)(t - g->stripes));
  return chains_of(g, t);
}

int series_hold(chalk_segment *g, series_key *key, uint32_t *id) {
  const metric *m = &g->metrics[key->metric];
  stripe *t = stripe_lock(g, series_stripe(key->hash));
  if (!t) return CHALK_EMEMORY;
  if (atomic_load(&((metric *)m)->state) == METRIC_FREE) return CHALK_EGONE;
  uint32_t tags = m->tags;
  /* Without tags the overflow series would look like the series itself, so once in use it is the series. */
  bool overflow = tags ? is_overflow(tags, key) : series_bound(g, key->metric);
  int e = CHALK_OK;
  chains c = chains_of(g, t);
  if (!c.heads) c = chains_again(g, t);
  *id = overflow ? key->metric : stripe_search(g, c, key);
  if (*id == NONE) e = create(g, t, c, key, id);
  if (*id == key->metric) series_hold_overflow(g, key);
  return e;
}

int series_find(chalk_segment *g, series_key *key, uint32_t *id) {
  int e = series_hold(g, key, id);
  series_let_go(g, key);
  return e;
}

/* Reading the cells */

bool series_bound(const chalk_segment *g, uint32_t id) {
  for (uint32_t w = 0; w < segment_slots(g); w++) {
    if (series_cell(g, w, id) != 0) return true;
  }
  return false;
}

int64_t series_total(const chalk_segment *g, uint32_t id) {
  uint32_t kind = segment_metric_of(g, id)->kind;
  uint64_t total = 0;
  for (uint32_t w = 0; w < segment_slots(g); w++) {
    uint64_t bits = series_cell(g, w, id);
    if (kind == CHALK_COUNT) total += (uint64_t)(int64_t)as_double(bits);
    const histogram *h = kind == CHALK_HISTOGRAM ? histogram_at(g, bits) : NULL;
    if (h) total += histogram_count(g, h);
  }
  return (int64_t)total;
}

/* Another owner forgets the block's value, takes the slot, which moves its turn, and only then sets the gauge. */
static void add_own_gauge(gauge_sum *sum, const chalk_segment *g, uint32_t w, uint64_t offset, lives *alive) {
  const gauge_link *block = segment_block(g, offset, GAUGE_BLOCK);
  shared_u32 *turn = &g->slots[w].turn;
  uint32_t before = atomic_load(turn);
  if (!block || !lives_on(alive, w)) return;
  gauge_sum more = *sum;
  gauge_add(&more, block);
  if (atomic_load(turn) == before) *sum = more;
}

bool series_gauge(const chalk_segment *g, uint32_t id, lives *alive, double *value) {
  series *s = &g->series[id];
  uint32_t across = segment_metric_of(g, id)->across;
  if (across == CHALK_LAST) {
    /* Before the value is read, or a reader would take the zero from before the first set for a value. */
    bool set = as_double(atomic_load_explicit(&s->mark, memory_order_acquire)) != GAUGE_UNSET;
    *value = load_double(&s->gauge);
    return set;
  }
  gauge_sum sum = {.across = across};
  gauge_add_links(&sum, g, series_cell(g, 0, id), alive);
  for (uint32_t w = 1; w < segment_slots(g); w++) add_own_gauge(&sum, g, w, series_cell(g, w, id), alive);
  *value = sum.value;
  return sum.any;
}

static bool is_marked(shared_u64 *mark) {
  return as_double(atomic_load_explicit(mark, memory_order_acquire)) == GAUGE_TOUCHED;
}

static bool take_mark(shared_u64 *mark) {
  uint64_t touched = as_bits(GAUGE_TOUCHED);
  return atomic_compare_exchange_strong(mark, &touched, as_bits(GAUGE_SET));
}

/* Asks it of each of a gauge's marks. */
static bool ask_marks(const chalk_segment *g, uint32_t id, bool (*ask)(shared_u64 *mark)) {
  if (segment_metric_of(g, id)->across == CHALK_LAST) return ask(&g->series[id].mark);
  bool any = false;
  for (uint32_t w = 0; w < segment_slots(g); w++) {
    if (gauge_ask(g, w, series_cell(g, w, id), ask)) any = true;
  }
  return any;
}

bool series_gauge_touched(const chalk_segment *g, uint32_t id) { return ask_marks(g, id, is_marked); }
bool series_gauge_take(chalk_segment *g, uint32_t id) { return ask_marks(g, id, take_mark); }

/* Dropping */

static void unlink_series(chalk_segment *g, stripe *t, uint32_t id) {
  chains c = chains_of(g, t);
  if (!c.heads) return;
  uint32_t *p = head_of(c, g->series[id].hash), at = link_at(g, p);
  for (uint32_t left = series_top(g); at != NONE && at != id && left-- > 0; at = link_at(g, p)) p = &g->series[at].next;
  if (at == id) *p = g->series[id].next, t->used--;
}

/* Stores what the series stands at. From before that on it is seen as dropped: see series_is_settled. */
static bool settle(chalk_segment *g, uint32_t id, uint32_t kind, bool idle) {
  series *s = &g->series[id];
  if (kind == CHALK_GAUGE) atomic_store(&s->at_drop, idle);
  if (kind == CHALK_COUNT) atomic_store(&s->at_drop, (uint64_t)series_total(g, id));
  if (kind != CHALK_HISTOGRAM) return true;
  uint64_t stored = stored_take(g, id);
  if (!stored) return false;
  stored_give(g, atomic_exchange(&s->at_drop, stored)); /* of somebody who died at dropping it */
  return true;
}

/*
 * Under the stripe's lock, which was taken before the epoch was moved to `epoch`. So whoever compares with that one waits
 * for the lock, and what others can still store is theirs who compared before.
 */
static bool drop_one(chalk_segment *g, stripe *t, uint32_t id, uint64_t epoch, bool idle) {
  series *s = &g->series[id];
  metric *m = segment_metric_of(g, id);
  atomic_store(&s->drop_epoch, SERIES_UNSETTLED);
  atomic_store(&s->state, SERIES_DROPPED);
  if (!settle(g, id, m->kind, idle)) {
    atomic_store(&s->state, SERIES_LIVE);
    return false;
  }
  unlink_series(g, t, id);
  count_gone(g, m);
  atomic_fetch_add(&g->head->quarantined, 1);
  atomic_store(&s->drop_epoch, epoch);
  return true;
}

/* Whether nobody has recorded into it since the holder found it idle. */
static bool is_idle_still(const chalk_segment *g, uint32_t id) {
  if (segment_metric_of(g, id)->kind == CHALK_GAUGE) return !series_gauge_touched(g, id);
  return (uint64_t)series_total(g, id) == g->series[id].seen_total;
}

/* Whether one of those to be dropped is, in this stripe: a number may have gone to another series meanwhile. */
static bool is_meant(const chalk_segment *g, uint32_t number, uint32_t id, uint32_t metric) {
  const series *s = &g->series[id];
  if (series_state(s) != SERIES_LIVE || series_stripe(s->hash) != number) return false;
  return metric == NONE ? is_idle_still(g, id) : s->metric == metric;
}

/* Drops those of a metric; NONE: those that are idle. These are looked at again once the epoch has moved. */
static uint32_t drop_in_stripe(chalk_segment *g, uint32_t number, const uint32_t *ids, uint32_t n, uint32_t metric) {
  uint32_t dropped = 0, first = 0;
  stripe *t = stripe_lock(g, number);
  if (!t) return 0;
  while (first < n && !is_meant(g, number, ids[first], metric)) first++;
  uint64_t epoch = first < n ? (uint64_t)segment_epoch_move(g) : 0;
  for (uint32_t i = first; i < n; i++) {
    if (is_meant(g, number, ids[i], metric)) dropped += drop_one(g, t, ids[i], epoch, metric == NONE);
  }
  stripe_unlock(t);
  return dropped;
}

static uint32_t drop(chalk_segment *g, const uint32_t *ids, uint32_t n, uint32_t metric) {
  uint32_t dropped = 0;
  for (uint32_t number = 0; number < STRIPES; number++) {
    bool any = false;
    for (uint32_t i = 0; i < n && !any; i++) any = series_stripe(g->series[ids[i]].hash) == number;
    if (any) dropped += drop_in_stripe(g, number, ids, n, metric);
  }
  return dropped;
}

uint32_t series_drop_idle(chalk_segment *g, const uint32_t *ids, uint32_t n) { return drop(g, ids, n, NONE); }

bool series_drop_key(chalk_segment *g, const series_key *key) {
  uint32_t number = series_stripe(key->hash);
  stripe *t = stripe_lock(g, number);
  if (!t) return false;
  uint32_t id = stripe_search(g, chains_of(g, t), key);
  bool dropped = id != NONE && drop_one(g, t, id, (uint64_t)segment_epoch_move(g), false);
  stripe_unlock(t);
  return dropped;
}

uint32_t series_drop_metric(chalk_segment *g, uint32_t number) {
  enum { BATCH = 1024 };
  uint32_t ids[BATCH], n = 0, dropped = 0;
  for (uint32_t id = METRICS, top = series_top(g); id < top; id++) {
    if (series_state(&g->series[id]) == SERIES_LIVE && g->series[id].metric == number) ids[n++] = id;
    if (n == BATCH || (id + 1 == top && n > 0)) {
      dropped += drop(g, ids, n, number);
      n = 0;
    }
  }
  return dropped;
}

/* Takes each lock that is not busy, for the sake of those whose owner died: nobody else may want them for long. */
static void look_for_deaths(chalk_segment *g) {
  for (uint32_t i = 0; i < STRIPES; i++) {
    bool orphaned;
    if (!segment_lock_try(&g->stripes[i].lock, &orphaned)) continue;
    if (orphaned) stripe_repair(g, i);
    stripe_unlock(&g->stripes[i]);
  }
}

void series_recount(chalk_segment *g) {
  look_for_deaths(g);
  if (!atomic_exchange(&g->head->recount, 0)) return;
  for (uint32_t i = 0; i < STRIPES; i++) stripe_lock(g, i);
  uint32_t live = 0, quarantined = 0;
  for (uint32_t m = 0; m < segment_metrics(g); m++) atomic_store(&g->metrics[m].series, 0);
  for (uint32_t id = METRICS, top = series_top(g); id < top; id++) {
    uint32_t state = series_state(&g->series[id]);
    metric *m = segment_metric_of(g, id);
    quarantined += state == SERIES_DROPPED;
    if (state != SERIES_LIVE || m->max_series == NONE) continue;
    live++;
    atomic_fetch_add(&m->series, 1);
  }
  bool room = live < atomic_exchange(&g->head->live, live);
  atomic_store(&g->head->quarantined, quarantined);
  if (room) segment_epoch_move(g); /* for the handles that were folded meanwhile */
  for (uint32_t i = 0; i < STRIPES; i++) stripe_unlock(&g->stripes[i]);
}

void series_count_reclaimed(chalk_segment *g) {
  /* Who died at dropping it may not have counted it. */
  uint32_t n = atomic_load(&g->head->quarantined);
  while (n > 0 && !atomic_compare_exchange_weak(&g->head->quarantined, &n, n - 1)) {
  }
}

/* Undoing a drop */

/*
 * Undoes the drop of a gauge that was idle, and then was set by a writer that had compared the epoch before: as if it
 * had not been dropped. Not where the key has a successor, or a limit was reached: then the value is a residue.
 */
bool series_revive(chalk_segment *g, uint32_t id) {
  series *s = &g->series[id];
  metric *m = segment_metric_of(g, id);
  if (m->kind != CHALK_GAUGE || !atomic_load(&s->at_drop) || !series_gauge_touched(g, id)) return false;
  series_key key = {s->metric, s->key_size, segment_at(g, s->key), s->hash};
  stripe *t = stripe_lock(g, series_stripe(s->hash));
  if (!t) return false;
  chains c = chains_of(g, t);
  bool revived = series_state(s) == SERIES_DROPPED && stripe_search(g, c, &key) == NONE && count_live(g, m);
  if (revived) {
    atomic_store(&s->drop_epoch, SERIES_UNSETTLED); /* who dies here has undone the drop */
    s->pass = 0;
    link_series(g, t, c, id);
    series_count_reclaimed(g);
  }
  stripe_unlock(t);
  return revived;
}
