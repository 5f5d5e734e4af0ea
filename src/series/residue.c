#include "series/residue.h"

#include "base/peek.h"
#include "series/cells.h"
#include "series/gauge.h"
#include "series/handover.h"
#include "series/key.h"
#include "series/series.h"
#include "value/histogram.h"
#include "value/kind.h"
#include "value/stored.h"

/* Adds what a count got since its drop to the successor's cell of slot 0. Under the lock of the successor's stripe. */
static void hand_over_count(chalk_segment *g, stripe *stripe, uint32_t from, uint32_t to) {
  int64_t total = cells_total(g, from), known = (int64_t)stored_known(g, from, segment_metric_of(g, from)->kind);
  double had = as_double(atomic_load(segment_cell(g, 0, to)));
  if (total > known) handover_publish(g, stripe, from, to, as_bits(had + (double)(total - known)), (uint64_t)total);
}

/*
 * The cumulative counts of bounds that `now` has more than `before`. A cursor that has sent only some of a histogram's
 * bounds may be ahead in those, so a difference may be too small: it is raised to that of the bound below.
 */
static void subtract_les(const histogram_sum *now, const histogram_sum *before, uint64_t *les) {
  for (uint32_t i = 0; i <= now->les; i++) {
    uint64_t least = i > 0 ? les[i - 1] : 0, more = now->le[i] > before->le[i] ? now->le[i] - before->le[i] : 0;
    les[i] = more > least ? more : least;
  }
}

/*
 * A new block with what `h`, the successor's block, holds and what the series `from` got since its drop. `now` and
 * `all` are what `from` holds. 0: no memory.
 */
static uint64_t joined(chalk_segment *g, const histogram *h, const histogram_sum *now, chalk_sketch *all, uint32_t from,
                       bool is_overflow) {
  uint32_t buckets = atomic_load(&g->head->max_buckets);
  uint32_t bounds = histogram_les(g, h);
  uint64_t known = stored_known(g, from, segment_metric_of(g, from)->kind),
           block = histogram_new(g, bounds, is_overflow);
  chalk_sketch *then = sketch_new(SKETCH_MOST_SCALE, buckets), *had = sketch_new(SKETCH_MOST_SCALE, buckets),
               *more = NULL;
  histogram_sum before = {0}, own = {.les = bounds};
  histogram_read(g, h, &own);
  if (block && then && had && histogram_read_sketch(g, h, had) == CHALK_OK &&
      (!known || stored_load(g, known, &before, then) == CHALK_OK)) {
    more = sketch_difference(all, then);
  }
  bool done = more != NULL;
  if (done) {
    uint64_t les[CHALK_LES + 1];
    subtract_les(now, &before, les);
    more->sum = now->sum - before.sum;
    done = histogram_merge(g, histogram_at(g, block), had, own.le) == CHALK_OK &&
           histogram_merge(g, histogram_at(g, block), more, les) == CHALK_OK;
  }
  if (block && !done) histogram_free(g, block);
  chalk_sketch_free(then), chalk_sketch_free(had), chalk_sketch_free(more);
  return done ? block : 0;
}

/* The same for a histogram. Its successor's block is replaced by one that holds both. */
static void hand_over_histogram(chalk_segment *g, stripe *stripe, uint32_t from, uint32_t to) {
  shared_u64 *cell = segment_cell(g, 0, to);
  bool is_overflow = to < METRICS;
  if (!atomic_load(cell)) {
    uint64_t new = histogram_new(g, segment_metric_of(g, from)->les, is_overflow);
    if (!new) return;
    atomic_store(cell, new);
  }
  chalk_sketch *all = sketch_new(SKETCH_MOST_SCALE, atomic_load(&g->head->max_buckets));
  histogram_sum now = {0};
  if (all && stored_read(g, from, &now, all) == CHALK_OK) {
    const histogram *h = histogram_at(g, atomic_load(cell));
    uint64_t block = h ? joined(g, h, &now, all, from, is_overflow) : 0;
    uint64_t at_drop = block ? stored_write(g, &now, all, true) : 0;
    if (at_drop) {
      handover_publish(g, stripe, from, to, block, at_drop);
    } else if (block) {
      histogram_free(g, block);
    }
  }
  chalk_sketch_free(all);
}

/*
 * Stores a value into a gauge that was never set. A call that a death cut short is completed by the same call again:
 * then the gauge already has the value, and its mark follows.
 */
static void gauge_adopt(shared_u64 *cell, double v) {
  uint64_t fresh = as_bits(GAUGE_FRESH), unset = as_bits(GAUGE_UNSET), value = as_bits(v + 0.0);
  if (atomic_compare_exchange_strong(&cell[0], &fresh, value) || fresh == value) {
    atomic_compare_exchange_strong(&cell[1], &unset, as_bits(GAUGE_TOUCHED));
  }
}

/*
 * Hands a late value over from gauge to gauge, each a value and a mark. The old mark says that the value is owed, so it
 * changes last: a holder that dies before leaves the value owed.
 */
static void hand_over_gauge(shared_u64 *from, shared_u64 *to) {
  uint64_t touched = as_bits(GAUGE_TOUCHED);
  if (atomic_load_explicit(&from[1], memory_order_acquire) != touched) return;
  gauge_adopt(to, load_double(&from[0]));
  atomic_compare_exchange_strong(&from[1], &touched, as_bits(GAUGE_SET));
}

/* The block of an `across` gauge of series `to` in a slot's row, which is made if there is none. NULL: no memory. */
static shared_u64 *gauge_block(chalk_segment *g, uint32_t row, uint32_t to) {
  if (!cells_make(g, row, to)) return NULL;
  shared_u64 *cell = segment_cell(g, row, to);
  if (!atomic_load(cell)) atomic_store_explicit(cell, gauge_block_new(g, to < METRICS), memory_order_release);
  return segment_block(g, atomic_load(cell), GAUGE_BLOCK);
}

static bool is_touched(const gauge_link *link) { return as_double(peek_u64(&link->mark)) == GAUGE_TOUCHED; }

/* Late values of VMs that share slot 0, or once did: each goes to the same VM's link of the successor. */
static void hand_over_links(chalk_segment *g, uint32_t from, uint32_t to) {
  if (!segment_chunk_real(g, g->slots[0].chunks, from)) return;
  if (!cells_make(g, 0, to)) return;
  for (gauge_link *link = gauge_first(g, atomic_load(segment_cell(g, 0, from))); link; link = gauge_next(g, link)) {
    if (!is_touched(link) || gauge_is_vacant(g, link)) continue;
    uint64_t own = gauge_link_of(g, to, atomic_load(&link->whose));
    if (own) hand_over_gauge(&link->value, segment_at(g, own));
  }
}

/* Late values of an `across` gauge: each goes to the same VM's block or link of the successor. */
static void hand_over_across(chalk_segment *g, uint32_t from, uint32_t to) {
  hand_over_links(g, from, to);
  for (uint32_t row = 1; row < segment_slots(g); row++) {
    if (!segment_chunk_real(g, g->slots[row].chunks, from)) continue;
    gauge_link *block = segment_block(g, atomic_load(segment_cell(g, row, from)), GAUGE_BLOCK);
    if (!block || !is_touched(block)) continue;
    shared_u64 *own = gauge_block(g, row, to);
    if (own) hand_over_gauge(&block->value, own);
  }
}

/*
 * Late values of a gauge that was dropped as idle and has a successor. The registry lock keeps processes from taking a
 * slot meanwhile: a new owner resets the slot's gauges, because a value of the owner before is not owed any more.
 */
static void hand_over_gauges(chalk_segment *g, uint32_t id) {
  series *s = &g->series[id];
  if (!atomic_load(&s->at_drop) || !cells_gauge_touched(g, id)) return;
  series_key key = {s->metric, s->key_size, segment_at(g, s->key), s->hash};
  uint32_t to;
  segment_lock_take(&g->head->registry);
  int rc = series_hold(g, &key, &to);
  bool is_one = segment_metric_of(g, id)->across == CHALK_LAST;
  if (rc >= 0 && is_one) hand_over_gauge(&s->gauge, &g->series[to].gauge);
  if (rc >= 0 && !is_one) hand_over_across(g, id, to);
  series_let_go(g, &key);
  segment_lock_give(&g->head->registry);
}

/*
 * Whether a count or a histogram has a residue. A histogram has two counts, of its bounds and of its sketch. If a
 * record was under way at the drop, only one of them had it, so either of them may say that something is owed.
 */
static bool is_owed(const chalk_segment *g, uint32_t id, uint32_t kind) {
  uint64_t known = stored_known(g, id, kind);
  if (cells_total(g, id) > stored_total(g, known, kind)) return true;
  uint32_t buckets = atomic_load(&g->head->max_buckets);
  chalk_sketch *k = kind_has_histogram(kind) ? sketch_new(SKETCH_MOST_SCALE, buckets) : NULL;
  histogram_sum sum = {0};
  bool owed = k && stored_read(g, id, &sum, k) == CHALK_OK && k->count > stored_sketched(g, known, kind);
  chalk_sketch_free(k);
  return owed;
}

void residue_hand_over(chalk_segment *g, uint32_t id) {
  series *s = &g->series[id];
  metric *m = segment_metric_of(g, id);
  if (atomic_load(&m->state) == METRIC_FREE) return;
  if (kind_has_value(m->kind)) {
    hand_over_gauges(g, id);
    return;
  }
  /* A holder before this one may have died in the middle of this handover. */
  series_repair(g, s->hash);
  series_repair(g, key_overflow_hash(s->metric));
  if (!is_owed(g, id, m->kind)) return;
  series_key key = {s->metric % METRICS, s->key_size, NULL, s->hash};
  if (key.size > 0 && !(key.bytes = segment_block(g, s->key, key.size))) return;
  uint32_t to;
  int rc = series_hold(g, &key, &to);
  if (rc >= 0 && !cells_make(g, 0, to)) rc = CHALK_EMEMORY;
  stripe *stripe = &g->stripes[series_stripe(key.hash)];
  if (rc >= 0 && kind_has_total(m->kind)) hand_over_count(g, stripe, id, to);
  if (rc >= 0 && kind_has_histogram(m->kind)) hand_over_histogram(g, stripe, id, to);
  series_let_go(g, &key);
}
