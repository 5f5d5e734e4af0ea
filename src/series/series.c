#include "series/series.h"

#include <string.h>

#include "series/cells.h"
#include "shm/heap.h"
#include "value/histogram.h"
#include "value/kind.h"
#include "value/stored.h"

void series_rebuild(chalk_segment *g) {
  number_rebuild(g);
  for (uint32_t i = 0; i < STRIPES; i++) stripe_repair(g, i);
}

void series_repair(chalk_segment *g, uint64_t hash) {
  stripe *stripe = stripe_lock(g, series_stripe(hash));
  if (stripe) stripe_unlock(stripe);
}

/* Creating */

static inline bool count_up(shared_u32 *count, uint32_t most) {
  uint32_t n = atomic_load(count);
  while (n < most) {
    if (atomic_compare_exchange_weak(count, &n, n + 1)) return true;
  }
  return false;
}

/*
 * Counts a series that is about to live. False: a limit is reached. Processes that create series in other stripes count
 * at the same time. chalk's own metrics have a max_series of NONE: they neither count towards the limits nor obey them.
 */
static inline bool count_live(chalk_segment *g, metric *m) {
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

/* Counts a lookup that ends at the overflow series. */
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

/*
 * Makes a series live and puts it into its chain. An owner that dies between the two leaves a live series without a
 * chain, which the repair of the stripe puts there.
 */
static void link_series(chalk_segment *g, stripe *stripe, chains c, uint32_t id) {
  series *s = &g->series[id];
  uint32_t *head = chains_head(c, s->hash);
  s->next = *head;
  atomic_store_explicit(&s->state, SERIES_LIVE, memory_order_release);
  *head = id;
  stripe->used++;
}

/* Creates the series of a key that has none. If a limit is reached or there is no memory, the lookup is folded. */
static int create(chalk_segment *g, stripe *stripe, chains c, const series_key *key, uint32_t *id) {
  metric *m = &g->metrics[key->metric];
  if (!c.heads || !count_live(g, m)) return fold(g, m, id, key->metric);
  uint64_t bytes = key->size ? heap_take(g, key->size) : 0;
  uint32_t new = key->size && !bytes ? NONE : number_take(g, series_stripe(key->hash));
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
  link_series(g, stripe, c, new);
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

/* Rebuilds the chains of a stripe that has none. */
static chains chains_again(chalk_segment *g, const stripe *stripe) {
  stripe_repair(g, (uint32_t)(stripe - g->stripes));
  return chains_of(g, stripe);
}

int series_hold(chalk_segment *g, series_key *key, uint32_t *id) {
  const metric *m = &g->metrics[key->metric];
  stripe *stripe = stripe_lock(g, series_stripe(key->hash));
  if (!stripe) return CHALK_EMEMORY;
  if (atomic_load(&((metric *)m)->state) == METRIC_FREE) return CHALK_EGONE;
  uint32_t tags = m->tags;
  /* Without tags, the overflow series has the key of the series itself. So once it is in use, it is the series. */
  bool overflow = tags ? is_overflow(tags, key) : cells_bound(g, key->metric);
  int rc = CHALK_OK;
  chains c = chains_of(g, stripe);
  if (!c.heads) c = chains_again(g, stripe);
  *id = overflow ? key->metric : stripe_search(g, c, key);
  if (*id == NONE) rc = create(g, stripe, c, key, id);
  if (*id == key->metric) series_hold_overflow(g, key);
  return rc;
}

/* Dropping */

/*
 * Stores into `at_drop` what a series stands at that is being dropped. Its state already is DROPPED and the drop is not
 * settled, so readers know that `at_drop` does not count yet, see series_is_settled. False: there is no memory for a
 * stored sketch.
 */
static bool store_at_drop(chalk_segment *g, uint32_t id, uint32_t kind, bool idle) {
  series *s = &g->series[id];
  if (kind_has_value(kind)) atomic_store(&s->at_drop, idle);
  if (kind_has_total(kind)) atomic_store(&s->at_drop, (uint64_t)cells_total(g, id));
  if (!kind_has_histogram(kind)) return true;
  uint64_t stored = stored_take(g, id);
  if (!stored) return false;
  stored_give(g, atomic_exchange(&s->at_drop, stored)); /* left by a process that died while it dropped the series */
  return true;
}

/*
 * Drops a series. The caller took the stripe's lock and then moved the epoch to `epoch`. A writer that compares with
 * the new epoch has to bind again, for which it waits for the lock. So only writers that compared before can still
 * store into the series. False: there is no memory, and the series stays live.
 */
static bool drop_one(chalk_segment *g, stripe *stripe, uint32_t id, uint64_t epoch, bool idle) {
  series *s = &g->series[id];
  metric *m = segment_metric_of(g, id);
  atomic_store(&s->drop_epoch, SERIES_UNSETTLED);
  atomic_store(&s->state, SERIES_DROPPED);
  if (!store_at_drop(g, id, m->kind, idle)) {
    atomic_store(&s->state, SERIES_LIVE);
    return false;
  }
  stripe_unlink(g, stripe, id);
  count_gone(g, m);
  atomic_fetch_add(&g->head->quarantined, 1);
  atomic_store(&s->drop_epoch, epoch);
  return true;
}

/* Whether nothing was recorded into the series since the holder found it idle. */
static bool is_idle_still(const chalk_segment *g, uint32_t id) {
  if (kind_has_value(segment_metric_of(g, id)->kind)) return !cells_gauge_touched(g, id);
  return (uint64_t)cells_total(g, id) == g->series[id].seen_total;
}

/*
 * Whether the series of a number is to be dropped and is in this stripe. It is asked under the stripe's lock, because
 * the number may belong to another series by then.
 */
static bool is_meant(const chalk_segment *g, uint32_t number, uint32_t id, uint32_t metric) {
  const series *s = &g->series[id];
  if (series_state(s) != SERIES_LIVE || series_stripe(s->hash) != number) return false;
  return metric == NONE ? is_idle_still(g, id) : s->metric == metric;
}

/*
 * Drops the series of a metric that are in this stripe; metric NONE: those that are idle. Whether a series is idle is
 * asked once more after the epoch has moved, because a writer may have recorded into it in between.
 */
static uint32_t drop_in_stripe(chalk_segment *g, uint32_t number, const uint32_t *ids, uint32_t n, uint32_t metric) {
  uint32_t dropped = 0, first = 0;
  stripe *stripe = stripe_lock(g, number);
  if (!stripe) return 0;
  while (first < n && !is_meant(g, number, ids[first], metric)) first++;
  uint64_t epoch = first < n ? (uint64_t)segment_epoch_move(g) : 0;
  for (uint32_t i = first; i < n; i++) {
    if (is_meant(g, number, ids[i], metric)) dropped += drop_one(g, stripe, ids[i], epoch, metric == NONE);
  }
  stripe_unlock(stripe);
  return dropped;
}

/* Drops the series of these numbers, stripe by stripe. */
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
  stripe *stripe = stripe_lock(g, number);
  if (!stripe) return false;
  uint32_t id = stripe_search(g, chains_of(g, stripe), key);
  bool dropped = id != NONE && drop_one(g, stripe, id, (uint64_t)segment_epoch_move(g), false);
  stripe_unlock(stripe);
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

/*
 * Tries the lock of every stripe, because otherwise a death would stay unnoticed until the next use of the stripe. It
 * does not wait for a busy lock.
 */
static void repair_orphaned(chalk_segment *g) {
  for (uint32_t i = 0; i < STRIPES; i++) {
    bool orphaned;
    if (!segment_lock_try(&g->stripes[i].lock, &orphaned)) continue;
    if (orphaned) stripe_repair(g, i);
    stripe_unlock(&g->stripes[i]);
  }
}

void series_recount(chalk_segment *g) {
  repair_orphaned(g);
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
  bool has_space = live < atomic_exchange(&g->head->live, live);
  atomic_store(&g->head->quarantined, quarantined);
  if (has_space) segment_epoch_move(g); /* handles that were folded look for their series again */
  for (uint32_t i = 0; i < STRIPES; i++) stripe_unlock(&g->stripes[i]);
}

void series_count_reclaimed(chalk_segment *g) {
  /* Never below 0: a process that died while it dropped the series may not have counted it. */
  uint32_t n = atomic_load(&g->head->quarantined);
  while (n > 0 && !atomic_compare_exchange_weak(&g->head->quarantined, &n, n - 1)) {
  }
}

/* Undoing a drop */

/*
 * The gauge was idle when it was dropped, and a writer that had compared the epoch before then set it. So it becomes
 * live again, as if it had not been dropped. If the key has a successor, or a limit was reached, the value is a
 * residue.
 */
bool series_revive(chalk_segment *g, uint32_t id) {
  series *s = &g->series[id];
  metric *m = segment_metric_of(g, id);
  if (!kind_has_value(m->kind) || !atomic_load(&s->at_drop) || !cells_gauge_touched(g, id)) return false;
  series_key key = {s->metric, s->key_size, segment_at(g, s->key), s->hash};
  stripe *stripe = stripe_lock(g, series_stripe(s->hash));
  if (!stripe) return false;
  chains c = chains_of(g, stripe);
  bool revived = series_state(s) == SERIES_DROPPED && stripe_search(g, c, &key) == NONE && count_live(g, m);
  if (revived) {
    atomic_store(&s->drop_epoch, SERIES_UNSETTLED); /* the repair of a stripe takes an unsettled drop for undone */
    s->pass = 0;
    link_series(g, stripe, c, id);
    series_count_reclaimed(g);
  }
  stripe_unlock(stripe);
  return revived;
}
