#include "record/bind.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "record/tap.h"
#include "series/cells.h"
#include "series/gauge.h"
#include "shm/process.h"
#include "value/histogram.h"
#include "value/kind.h"

/*
 * The offset of the writer's block for a series, which is made on first use: a histogram's if there is a plan, or else
 * a gauge's. 0: no memory.
 */
static uint64_t block_of(const chalk_writer *w, uint32_t row, uint32_t id, const histogram_plan *plan) {
  chalk_segment *g = w->segment;
  if (!plan && row == 0) return gauge_link_of(g, id, w->whose);
  shared_u64 *cell = segment_cell(g, row, id);
  uint64_t block = atomic_load_explicit(cell, memory_order_relaxed);
  if (block) return block;
  bool is_overflow = id < METRICS;
  block = plan ? histogram_new(g, plan->les, is_overflow) : gauge_block_new(g, is_overflow);
  if (block) atomic_store_explicit(cell, block, memory_order_release);
  return block;
}

/* The writer's plan for a metric, which is made on first use. NULL: no memory, or the bounds are damaged. */
static histogram_plan *plan_of(chalk_writer *w, uint32_t number) {
  const metric *m = &w->segment->metrics[number];
  uint32_t les = atomic_load((shared_u32 *)&m->les);
  const double *le = les <= CHALK_LES ? segment_block(w->segment, m->le, les * sizeof *le) : NULL;
  if (!w->plans[number] && le) w->plans[number] = histogram_plan_new(w->segment, le, les);
  return w->plans[number];
}

/*
 * Gives a plan the map of a block whose table is finer than the plan's, as after a change of the initial error. False:
 * no memory.
 */
static bool refine(chalk_writer *w, histogram_plan *plan, const histogram *h) {
  if (plan->map->scale >= histogram_start_scale(h)) return true;
  const sketch_map *finer = sketch_map_of(histogram_start_scale(h));
  if (!finer) return false;
  plan->map = finer;
  writer_unbind(w); /* the short cuts in other blocks are by the old map */
  return true;
}

static bool bind_histogram(chalk_series *s, histogram_plan *plan, uint64_t offset) {
  chalk_writer *w = s->writer;
  histogram *h = histogram_at(w->segment, offset);
  if (!h || !segment_block(w->segment, offset, histogram_size(plan->les)) || !refine(w, plan, h)) return false;
  histogram_bind(w->segment, h, plan);
  s->cell = (double *)(void *)h;
  s->histogram = h;
  s->plan = plan;
  return true;
}

int bind_cell(chalk_series *s, uint32_t id) {
  chalk_writer *w = s->writer;
  chalk_segment *g = w->segment;
  series *target = &g->series[id];
  const metric *m = &g->metrics[s->metric];
  uint32_t kind = atomic_load((shared_u32 *)&m->kind);
  kind_content holds = kind_of(kind)->holds;
  bool is_split = holds == KIND_VALUE && m->across != CHALK_LAST, own_block = is_split || holds == KIND_HISTOGRAM;
  uint32_t row = is_split && w->guest ? 0 : w->slot; /* a VM that once was a guest keeps its links */
  if (!cells_make(g, row, id)) return CHALK_EMEMORY;
  shared_u64 *cell = segment_cell(g, row, id);
  histogram_plan *plan = holds == KIND_HISTOGRAM ? plan_of(w, s->metric) : NULL;
  if (holds == KIND_HISTOGRAM && !plan) return CHALK_EMEMORY;
  uint64_t block = own_block ? block_of(w, row, id, plan) : 0, unbound = 0;
  if (own_block && !segment_block(g, block, 2 * sizeof(shared_u64))) return CHALK_EMEMORY;
  if (!own_block) atomic_compare_exchange_strong(cell, &unbound, as_bits(BOUND));
  s->cell = (double *)(holds == KIND_TOTAL ? cell : own_block ? segment_at(g, block) : (void *)&target->gauge);
  s->histogram = NULL;
  s->plan = NULL;
  if (plan && !bind_histogram(s, plan, block)) return CHALK_EMEMORY;
  s->kind = kind;
  s->series = id;
  s->generation = atomic_load(&target->generation);
  return CHALK_OK;
}

/*
 * Points a handle at the writer's spill, whose content nobody reads, because there is no memory for the overflow series
 * either.
 */
static void bind_spill(chalk_series *s) {
  s->cell = s->writer->spill;
  s->histogram = NULL;
  s->series = s->metric;
  s->kind = s->writer->segment->metrics[s->metric].kind;
}

static bool is_defined(const chalk_writer *w, uint32_t number) { return w->uses[number / 64] >> (number % 64) & 1; }

bool bind_has_metric(const chalk_writer *w, uint32_t number) {
  return is_defined(w, number) && w->generations[number] == atomic_load(&w->segment->series[number].generation);
}

int bind_gone(chalk_series *s) {
  s->epoch = s->bound = NAN;
  return CHALK_EGONE;
}

/*
 * Binds to the overflow series, because there is no memory for the series' own cell. A series without tags has no
 * overflow series beside it, because both would have the same key.
 */
static int fold(chalk_series *s, series_key *key) {
  if (s->writer->segment->metrics[s->metric].tags == 0) return CHALK_EMEMORY;
  series_hold_overflow(s->writer->segment, key);
  return bind_cell(s, s->metric) == CHALK_OK ? CHALK_FOLDED : CHALK_EMEMORY;
}

/* Binds to the series of the handle's key. `epoch` is the one that the writer has seen. */
static int bind_key(chalk_series *s, double epoch) {
  chalk_writer *w = s->writer;
  chalk_segment *g = w->segment;
  series_key key = bind_key_of(s);
  uint32_t id;
  int rc = series_hold(g, &key, &id);
  if (rc >= 0 && bind_cell(s, id) != CHALK_OK) rc = fold(s, &key);
  series_let_go(g, &key);
  if (rc == CHALK_EMEMORY) bind_spill(s);
  s->shared = (const double *)&g->head->epoch;
  s->own = &w->own;
  s->bound = rc < 0 || w->slot == 0 ? NAN : epoch + w->own;
  w->is_master = process_hands_on;
  s->epoch = w->is_master || tap_wants(g, s->metric) ? NAN : s->bound;
  return rc;
}

/* Whether the key has the values as they were given, not normalised. */
static bool is_exact(const chalk_series *s, const char *const *values, const size_t *sizes, uint32_t n) {
  uint32_t at = 0, size;
  const char *value;
  for (uint32_t i = 0; i < n && key_next(s->key, s->key_size, &at, &value, &size); i++) {
    if (size != sizes[i] || memcmp(value, values[i], size) != 0) return false;
  }
  return true;
}

/* The number of a metric's tags, by this writer's definition or else by the segment's. */
static uint32_t tags_of(const chalk_writer *w, uint32_t number) {
  if (is_defined(w, number)) return w->tags[number];
  uint32_t tags = atomic_load(&w->segment->metrics[number].tags);
  return tags < CHALK_TAGS ? tags : CHALK_TAGS;
}

int chalk_bound_as_given(const chalk_writer *w) { return w->exact; }

/* Reads the epoch, and notes in the slot that every record of this VM compares with it or a later one. */
static double see_epoch(chalk_writer *w) {
  double epoch = segment_epoch(w->segment);
  writer_note_seen(w, (uint64_t)epoch);
  return epoch;
}

int chalk_bind(chalk_writer *w, uint32_t number, const char *const *values, const size_t *sizes) {
  if (number >= METRICS) return CHALK_EINVALID;
  if (w->pid == 0) return CHALK_ECLOSED;
  writer_take_slot(w);
  tap_ready(w);
  chalk_series *s = w->scratch;
  s->writer = w;
  s->metric = number;
  s->key_size = 0;
  /* Checked before `values` is read: another metric of this number may have more tags than the caller passed. */
  if (!bind_has_metric(w, number)) return bind_gone(s);
  uint32_t tags = w->tags[number];
  s->key_size = key_encode(s->key, values, sizes, tags);
  w->exact = is_exact(s, values, sizes, tags);
  return bind_key(s, see_epoch(w));
}

chalk_series *chalk_series_new(chalk_writer *w, uint32_t number, const char *const *values, const size_t *sizes) {
  if (chalk_bind(w, number, values, sizes) < 0) return NULL;
  size_t size = offsetof(chalk_series, key) + w->scratch->key_size;
  chalk_series *s = malloc(size > sizeof *s ? size : sizeof *s);
  if (s) memcpy(s, w->scratch, size);
  return s;
}

int chalk_rebind(chalk_series *s) {
  chalk_writer *w = s->writer;
  if (w->pid == 0) return CHALK_ECLOSED;
  writer_take_slot(w);
  tap_ready(w);
  return bind_has_metric(w, s->metric) ? bind_key(s, see_epoch(w)) : bind_gone(s);
}

/* Dropping */

/* Whether the writer defined a metric of this number that has left, so another metric may have the number by now. */
static bool is_stale(chalk_writer *w, uint32_t number) {
  writer_take_slot(w);
  return is_defined(w, number) && !bind_has_metric(w, number);
}

int chalk_remove(chalk_writer *w, uint32_t number, const char *const *values, const size_t *sizes) {
  if (number >= METRICS || w->pid == 0) return 0;
  if (is_stale(w, number)) return CHALK_EGONE;
  chalk_series *s = w->scratch;
  s->metric = number;
  s->key_size = key_encode(s->key, values, sizes, tags_of(w, number));
  series_key key = bind_key_of(s);
  return series_drop_key(w->segment, &key);
}

int chalk_clear(chalk_writer *w, uint32_t number) {
  if (number >= METRICS || w->pid == 0) return 0;
  return is_stale(w, number) ? CHALK_EGONE : (int)series_drop_metric(w->segment, number);
}
