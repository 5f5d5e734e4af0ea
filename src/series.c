#include "series.h"

#include <string.h>

#include "gauge.h"
#include "heap.h"
#include "histogram.h"
#include "key.h"
#include "lives.h"
#include "residue.h"
#include "stored.h"
#include "tap.h"

enum { STATE_BITS = 8 };

static uint32_t state_of(const series *s) {
  return atomic_load_explicit((shared_u32 *)&s->state, memory_order_acquire) & ((1u << STATE_BITS) - 1);
}

static uint32_t *heads_of(const chalk_segment *g, const stripe *t) { return segment_at(g, t->heads); }
static uint32_t *head_of(const chalk_segment *g, const stripe *t, uint64_t hash) {
  return &heads_of(g, t)[hash & (t->size - 1)];
}

bool series_is(const chalk_segment *g, uint32_t id, uint32_t generation) {
  const series *s = &g->series[id];
  return state_of(s) == SERIES_LIVE &&
         atomic_load_explicit((shared_u32 *)&s->generation, memory_order_acquire) == generation;
}

/* Numbers */

/* The list of free numbers, from the states, which are the truth. */
static void ids_rebuild(chalk_segment *g) {
  header *h = g->head;
  h->ids_free = NONE;
  for (uint32_t id = series_top(g); id-- > METRICS;) {
    if (state_of(&g->series[id]) != SERIES_FREE) continue;
    g->series[id].next = h->ids_free;
    h->ids_free = id;
  }
}

static void ids_lock(chalk_segment *g) {
  if (segment_lock_take(&g->head->ids_lock)) ids_rebuild(g);
}

/* Makes the structs up to and with `id` real. */
static int make_structs(chalk_segment *g, uint32_t id) {
  enum { BATCH = 512 }; /* whole pages */
  header *h = g->head;
  uint32_t real = atomic_load(&h->series_real);
  if (id < real) return CHALK_OK;
  uint32_t want = (id / BATCH + 1) * BATCH;
  if (want > h->capacity) want = h->capacity;
  int e = segment_make_real(g, h->series + (uint64_t)real * sizeof(series), (uint64_t)(want - real) * sizeof(series),
                            false);
  if (e == CHALK_OK) atomic_store(&h->series_real, want);
  return e;
}

/* A number in state RESERVED for a stripe; NONE when there is none or no memory. */
static uint32_t ids_take(chalk_segment *g, uint32_t of_stripe) {
  header *h = g->head;
  ids_lock(g);
  uint32_t id = h->ids_free, top = series_top(g);
  if (id != NONE) {
    uint32_t next = g->series[id].next;
    atomic_store(&g->series[id].state, SERIES_RESERVED | of_stripe << STATE_BITS);
    h->ids_free = next;
  } else if (top < h->capacity && make_structs(g, top) == CHALK_OK) {
    id = top;
    atomic_store(&g->series[id].state, SERIES_RESERVED | of_stripe << STATE_BITS);
    atomic_store_explicit(&h->ids_top, top + 1, memory_order_release);
  }
  segment_lock_give(&h->ids_lock);
  return id;
}

static void ids_give(chalk_segment *g, uint32_t id) {
  ids_lock(g);
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
  ids_give(g, id);
}

/* Chains anew from the series. Undoes what a dead owner left half done: a reservation, a drop. */
static void stripe_rebuild(chalk_segment *g, uint32_t number) {
  stripe *t = &g->stripes[number];
  memset(heads_of(g, t), 0xff, t->size * sizeof(uint32_t));
  t->used = 0;
  for (uint32_t id = METRICS, top = series_top(g); id < top; id++) {
    series *s = &g->series[id];
    uint32_t state = state_of(s);
    if (state == SERIES_RESERVED) {
      if (atomic_load(&s->state) >> STATE_BITS == number) give_reserved(g, id);
      continue;
    }
    if (state == SERIES_FREE || series_stripe(s->hash) != number) continue;
    if (state == SERIES_DROPPED && !series_is_settled(s)) atomic_store(&s->state, state = SERIES_LIVE);
    if (state != SERIES_LIVE) continue;
    uint32_t *head = head_of(g, t, s->hash);
    s->next = *head;
    *head = id;
    t->used++;
  }
  atomic_store(&g->head->recount, 1);
}

static void stripe_repair(chalk_segment *g, uint32_t number) {
  stripe_rebuild(g, number);
  residue_finish(g, &g->stripes[number]);
}

void series_rebuild(chalk_segment *g) {
  ids_rebuild(g);
  for (uint32_t i = 0; i < STRIPES; i++) stripe_repair(g, i);
}

static stripe *stripe_lock(chalk_segment *g, uint32_t number) {
  stripe *t = &g->stripes[number];
  if (segment_lock_take(&t->lock)) stripe_repair(g, number);
  return t;
}

static void stripe_unlock(stripe *t) { segment_lock_give(&t->lock); }

void series_repair(chalk_segment *g, uint64_t hash) { stripe_unlock(stripe_lock(g, series_stripe(hash))); }

/* Hangs the series of the old chains into the stripe's, which are empty. */
static void stripe_move(chalk_segment *g, const stripe *t, const uint32_t *heads, uint32_t n) {
  memset(heads_of(g, t), 0xff, t->size * sizeof(uint32_t));
  for (uint32_t i = 0; i < n; i++) {
    for (uint32_t id = heads[i], next; id != NONE; id = next) {
      series *s = &g->series[id];
      next = s->next;
      uint32_t *head = head_of(g, t, s->hash);
      s->next = *head;
      *head = id;
    }
  }
}

/* Twice the chains, once they have two links on average. Without memory they just stay longer. */
static void stripe_grow(chalk_segment *g, uint32_t number) {
  stripe *t = &g->stripes[number];
  if (t->used < t->size * 2) return;
  uint32_t n = t->size;
  uint64_t old = t->heads, size = n * sizeof(uint32_t), new = heap_take(g, 2 * size);
  if (!new) return;
  /* An owner that dies here leaves heads that are too long for `size`, and the next one rebuilds. */
  t->heads = new;
  atomic_signal_fence(memory_order_seq_cst);
  t->size *= 2;
  stripe_move(g, t, segment_at(g, old), n);
  heap_give(g, old, size);
}

static uint32_t stripe_search(const chalk_segment *g, const stripe *t, const series_key *key) {
  for (uint32_t id = *head_of(g, t, key->hash); id != NONE; id = g->series[id].next) {
    const series *s = &g->series[id];
    if (s->hash == key->hash && s->metric == key->metric && s->key_size == key->size &&
        memcmp(segment_at(g, s->key), key->bytes, key->size) == 0) {
      return id;
    }
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
  atomic_fetch_add(&m->folded, 1);
  atomic_fetch_add(&g->head->folded, 1);
  *id = number;
  return CHALK_FOLDED;
}

static bool is_overflow(const metric *m, const series_key *key) {
  char overflow[CHALK_TAGS * (2 + sizeof KEY_OVERFLOW)];
  if (key->size != m->tags * (2 + sizeof KEY_OVERFLOW - 1)) return false;
  return memcmp(key->bytes, overflow, key_overflow(overflow, m->tags)) == 0;
}

static int create(chalk_segment *g, stripe *t, const series_key *key, uint32_t *id) {
  metric *m = &g->metrics[key->metric];
  if (!count_live(g, m)) return fold(g, m, id, key->metric);
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
  store_double(&s->gauge, 0);
  store_double(&s->mark, GAUGE_UNSET);
  atomic_store(&s->drop_epoch, SERIES_UNSETTLED);
  uint32_t *head = head_of(g, t, key->hash);
  s->next = *head;
  atomic_store_explicit(&s->state, SERIES_LIVE, memory_order_release);
  *head = new;
  t->used++;
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

int series_hold(chalk_segment *g, series_key *key, uint32_t *id) {
  const metric *m = &g->metrics[key->metric];
  stripe *t = stripe_lock(g, series_stripe(key->hash));
  if (atomic_load(&((metric *)m)->state) == METRIC_FREE) return CHALK_EGONE;
  /* Without tags the overflow series would look like the series itself, so once in use it is the series. */
  bool overflow = m->tags ? is_overflow(m, key) : series_bound(g, key->metric);
  int e = CHALK_OK;
  *id = overflow ? key->metric : stripe_search(g, t, key);
  if (*id == NONE) e = create(g, t, key, id);
  if (*id == key->metric) series_hold_overflow(g, key);
  return e;
}

int series_find(chalk_segment *g, series_key *key, uint32_t *id) {
  int e = series_hold(g, key, id);
  series_let_go(g, key);
  return e;
}

/* Reading the cells */

static uint64_t cell_bits(const chalk_segment *g, uint32_t writer, uint32_t id) {
  const slot *w = &g->slots[writer];
  if (!segment_chunk_real(g, w->chunks, id)) return 0;
  return atomic_load_explicit(segment_cell(g, writer, id), memory_order_acquire);
}

static uint32_t slots_top(const chalk_segment *g) { return atomic_load(&g->head->slot_top); }

bool series_bound(const chalk_segment *g, uint32_t id) {
  for (uint32_t w = 0; w < slots_top(g); w++) {
    if (cell_bits(g, w, id) != 0) return true;
  }
  return false;
}

int64_t series_total(const chalk_segment *g, uint32_t id) {
  uint32_t kind = segment_metric_of(g, id)->kind;
  int64_t total = 0;
  for (uint32_t w = 0; w < slots_top(g); w++) {
    uint64_t bits = cell_bits(g, w, id);
    if (kind == CHALK_COUNT) total += (int64_t)as_double(bits);
    if (kind != CHALK_HISTOGRAM || !segment_block(g, bits, HISTOGRAM_LEAST)) continue;
    total += (int64_t)histogram_count(segment_at(g, bits));
  }
  return total;
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
  gauge_add_links(&sum, g, cell_bits(g, 0, id), alive);
  for (uint32_t w = 1; w < slots_top(g); w++) add_own_gauge(&sum, g, w, cell_bits(g, w, id), alive);
  *value = sum.value;
  return sum.any;
}

bool series_gauge_touched(chalk_segment *g, uint32_t id) {
  series *s = &g->series[id];
  bool touched = gauge_take_mark(&s->mark);
  if (segment_metric_of(g, id)->across == CHALK_LAST) return touched;
  for (uint32_t w = 0; w < slots_top(g); w++) {
    uint64_t offset = cell_bits(g, w, id);
    if (offset && gauge_touched(g, w, offset)) touched = true;
  }
  return touched;
}

/* Dropping */

static void unlink_series(chalk_segment *g, stripe *t, uint32_t id) {
  uint32_t *p = head_of(g, t, g->series[id].hash);
  while (*p != NONE && *p != id) p = &g->series[*p].next;
  if (*p == id) *p = g->series[id].next, t->used--;
}

/* Stores what the series stands at. From before that on it is seen as dropped: see series_is_settled. */
static bool settle(chalk_segment *g, uint32_t id, uint32_t kind) {
  series *s = &g->series[id];
  if (kind == CHALK_COUNT) atomic_store(&s->at_drop, (uint64_t)series_total(g, id));
  if (kind != CHALK_HISTOGRAM) return true;
  uint64_t stored = stored_take(g, id);
  if (!stored) return false;
  stored_give(g, atomic_exchange(&s->at_drop, stored)); /* of somebody who died at dropping it */
  return true;
}

/* Under the stripe's lock. The epoch is the caller's to move, then to store. */
static bool drop_one(chalk_segment *g, stripe *t, uint32_t id, bool idle) {
  series *s = &g->series[id];
  metric *m = segment_metric_of(g, id);
  if (idle && m->kind != CHALK_GAUGE && (uint64_t)series_total(g, id) != s->seen_total) return false;
  atomic_store(&s->drop_epoch, SERIES_UNSETTLED);
  atomic_store(&s->state, SERIES_DROPPED);
  if (!settle(g, id, m->kind)) {
    atomic_store(&s->state, SERIES_LIVE);
    return false;
  }
  unlink_series(g, t, id);
  count_gone(g, m);
  atomic_fetch_add(&g->head->quarantined, 1);
  return true;
}

/* Drops those of a metric, since a number may have gone to another one meanwhile; NONE: those that are idle. */
static uint32_t drop_in_stripe(chalk_segment *g, uint32_t number, const uint32_t *ids, uint32_t n, uint32_t metric) {
  uint32_t dropped = 0;
  bool idle = metric == NONE;
  stripe *t = stripe_lock(g, number);
  for (uint32_t i = 0; i < n; i++) {
    series *s = &g->series[ids[i]];
    bool meant = state_of(s) == SERIES_LIVE && series_stripe(s->hash) == number && (idle || s->metric == metric);
    if (meant) dropped += drop_one(g, t, ids[i], idle);
  }
  if (dropped) {
    uint64_t epoch = (uint64_t)segment_epoch_move(g);
    for (uint32_t i = 0; i < n; i++) {
      series *s = &g->series[ids[i]];
      bool mine = state_of(s) == SERIES_DROPPED && series_stripe(s->hash) == number && !series_is_settled(s);
      if (mine) atomic_store(&s->drop_epoch, epoch);
    }
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
  uint32_t id = stripe_search(g, t, key);
  bool dropped = id != NONE && drop_one(g, t, id, false);
  if (dropped) atomic_store(&g->series[id].drop_epoch, (uint64_t)segment_epoch_move(g));
  stripe_unlock(t);
  return dropped;
}

uint32_t series_drop_metric(chalk_segment *g, uint32_t number) {
  enum { BATCH = 1024 };
  uint32_t ids[BATCH], n = 0, dropped = 0;
  for (uint32_t id = METRICS, top = series_top(g); id < top; id++) {
    if (state_of(&g->series[id]) == SERIES_LIVE && g->series[id].metric == number) ids[n++] = id;
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
  for (uint32_t m = 0; m < atomic_load(&g->head->metric_top); m++) atomic_store(&g->metrics[m].series, 0);
  for (uint32_t id = METRICS, top = series_top(g); id < top; id++) {
    uint32_t state = state_of(&g->series[id]);
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

/* Reclaiming */

/* The dead see nothing more, which only the kernel knows: so it is asked of those who have not seen, and nobody else. */
static bool all_have_seen(const chalk_segment *g, uint32_t id, uint64_t epoch, lives *alive) {
  const metric *m = segment_metric_of(g, id);
  bool has_links = m->kind == CHALK_GAUGE && m->across != CHALK_LAST;
  if (has_links && !gauge_links_seen(g, cell_bits(g, 0, id), epoch, alive)) return false;
  for (uint32_t w = 1; w < slots_top(g); w++) {
    if (cell_bits(g, w, id) == 0) continue;
    if (atomic_load_explicit(&g->slots[w].seen, memory_order_acquire) < epoch && lives_on(alive, w)) return false;
  }
  return true;
}

/* The registry lock keeps away those who take a slot and look at the gauges in it. */
static void free_cells(chalk_segment *g, uint32_t id, const metric *m) {
  segment_lock_take(&g->head->registry);
  for (uint32_t w = 0; w < slots_top(g); w++) {
    uint64_t bits = cell_bits(g, w, id);
    if (bits == 0) continue;
    if (m->kind == CHALK_GAUGE && m->across != CHALK_LAST) gauge_free(g, w, id);
    if (m->kind == CHALK_HISTOGRAM) histogram_empty(g, bits);
    atomic_store(segment_cell(g, w, id), 0);
    if (m->kind == CHALK_HISTOGRAM) histogram_free_block(g, bits);
  }
  segment_lock_give(&g->head->registry);
}

bool series_reclaim(chalk_segment *g, uint32_t id, lives *alive) {
  series *s = &g->series[id];
  uint64_t epoch = atomic_load(&s->drop_epoch);
  if (state_of(s) != SERIES_DROPPED || epoch == SERIES_UNSETTLED || !all_have_seen(g, id, epoch, alive)) return false;
  if (!tap_has_read(g, s)) return false;
  metric *m = segment_metric_of(g, id);
  residue_pass_on(g, id);
  atomic_fetch_add_explicit(&s->generation, 1, memory_order_seq_cst);
  free_cells(g, id, m);
  stored_forget_baselines(g, id, m->kind);
  uint64_t at_drop = atomic_exchange(&s->at_drop, 0), key = s->key;
  if (m->kind == CHALK_HISTOGRAM) stored_give(g, at_drop);
  s->key = 0;
  heap_give(g, key, s->key_size);
  ids_give(g, id);
  /* Who died at dropping it may not have counted it. */
  uint32_t n = atomic_load(&g->head->quarantined);
  while (n > 0 && !atomic_compare_exchange_weak(&g->head->quarantined, &n, n - 1)) {
  }
  return true;
}
