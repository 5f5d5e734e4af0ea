#include "record/writer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "series/cells.h"
#include "series/gauge.h"
#include "shm/heap.h"
#include "value/histogram.h"
#include "series/key.h"
#include "series/metric.h"
#include "shm/process.h"
#include "series/series.h"
#include "series/slot.h"
#include "record/tap.h"

enum { RETIRED = 256 };

enum { NOBODY = -1 }; /* as a writer's pid: forked, has to take a slot, even if this process's id was once the slot's */

static chalk_writer *writers; /* of this process; process lock, as the others */
static chalk_writer *kept;    /* closed ones of private segments */
static chalk_writer *retired, **retired_last = &retired;
static int n_retired;

/* Slots */

static void in_child(void) {
  for (chalk_writer *w = writers; w; w = w->next) w->own = NAN, w->pid = NOBODY, w->slot = w->guest = 0;
}

/* Makes all handles bind anew. Beyond any epoch, so that no two turns give the same sum, which stays a whole number. */
static void new_turn(chalk_writer *w) {
  w->turns = (w->turns + 1) % (1u << 20);
  w->own = (double)w->turns * 8589934592.0;
}

void writers_turn(void) {
  process_lock();
  for (chalk_writer *w = writers; w; w = w->next) {
    if (w->pid == (uint32_t)getpid()) new_turn(w);
  }
  process_unlock();
}

static bool has_process(const chalk_writer *w) { return w->pid != 0 && w->pid != (uint32_t)NOBODY; }

/* A guest that gets a row keeps its guest slot, for the gauges that it has in the row of slot 0. */
static uint32_t take_row(chalk_writer *w, bool thorough) {
  chalk_segment *g = w->segment;
  uint32_t number = slot_take(g, w->uses, thorough);
  if (!number || !w->guest) return number;
  slot *guest = &g->slots[w->guest];
  atomic_store(&guest->seen, (uint64_t)segment_epoch(g));
  for (uint32_t i = 0; i < METRICS / 64; i++) atomic_store(&guest->uses[i], 0);
  return number;
}

void writer_take_slot(chalk_writer *w) {
  chalk_segment *g = w->segment;
  bool is_new = !has_process(w);
  if (!is_new && (w->slot != 0 || !slot_may_be_free(g, &w->vacancies))) return;
  if (is_new) w->slot = w->guest = 0;
  uint32_t number = 0;
  if (segment_lock_reach_any(&g->head->registry)) {
    number = take_row(w, is_new);
    if (is_new) w->vacancies = atomic_load(&g->head->vacancies);
    if (is_new && !number) w->guest = slot_take_guest(g, w->uses);
    segment_lock_give(&g->head->registry);
  } else if (is_new) {
    atomic_store(&g->head->strangers, 1);
  }
  if (!is_new && !number) return;
  w->slot = number;
  w->whose = w->guest ? gauge_owner(g, w->guest) : GAUGE_STRANGER;
  w->ring = NULL;
  w->pid = (uint32_t)getpid();
  new_turn(w);
}

/* The slot that says what the VM uses; NULL: none does. */
static slot *slot_of(const chalk_writer *w) {
  uint32_t number = w->slot ? w->slot : w->guest;
  return number ? &w->segment->slots[number] : NULL;
}

/* Every record of this VM compares with this epoch or a later one. Without a row it is bound to nothing. */
static void tell_seen(const chalk_writer *w, uint64_t epoch) {
  slot *slots = w->segment->slots;
  if (!w->slot) return;
  atomic_store_explicit(&slots[w->slot].seen, epoch, memory_order_release);
  if (w->guest) atomic_store_explicit(&slots[w->guest].seen, epoch, memory_order_release);
}

/*
 * A series handle may outlive its writer: finalizers that run while a VM closes still record. So the struct of a
 * closed writer stays, and says that it is closed; long after, one of a named segment is used again.
 */
static void retire(chalk_writer *w) {
  w->own = NAN;
  w->pid = 0;
  free(w->scratch);
  free(w->uses);
  free(w->made);
  free(w->generations);
  free(w->tags);
  for (uint32_t m = 0; m < METRICS; m++) {
    if (w->plans[m]) free(w->plans[m]); /* a closing VM may be one a request: most are not there */
  }
  free(w->plans);
  w->plans = NULL;
  w->scratch = NULL;
  w->uses = w->made = NULL;
  w->generations = NULL;
  w->tags = NULL;
  process_lock();
  if (w->segment->name) {
    w->next = NULL;
    *retired_last = w;
    retired_last = &w->next;
    n_retired++;
  } else {
    w->next = kept;
    kept = w;
  }
  process_unlock();
}

static chalk_writer *unretire(void) {
  process_lock();
  chalk_writer *w = n_retired > RETIRED ? retired : NULL;
  if (w) retired = w->next, n_retired--;
  process_unlock();
  return w ? w : calloc(1, sizeof *w);
}

chalk_writer *chalk_writer_open(chalk_segment *g, char *message) {
  process_at_fork(in_child);
  chalk_writer *w = unretire();
  if (w) {
    w->scratch = malloc(offsetof(chalk_series, key) + KEY_MOST);
    w->uses = calloc(METRICS / 64, sizeof *w->uses);
    w->made = calloc(METRICS / 64, sizeof *w->made);
    w->generations = calloc(METRICS, sizeof *w->generations);
    w->tags = calloc(METRICS, sizeof *w->tags);
    w->plans = calloc(METRICS, sizeof *w->plans);
  }
  if (!w || !w->scratch || !w->uses || !w->made || !w->generations || !w->tags || !w->plans) {
    process_say(message, "out of memory");
    return NULL;
  }
  w->segment = g;
  w->forks = process_forks();
  writer_take_slot(w);
  process_lock();
  w->next = writers;
  writers = w;
  process_unlock();
  return w;
}

static bool has_made(const chalk_writer *w, uint32_t number) { return w->made[number / 64] >> (number % 64) & 1; }

/*
 * A server's first process reads a configuration with this VM, and ends it before any child was forked: the
 * configuration was refused, and what it defined would fill the table for the next.
 */
static void take_back_refused(chalk_writer *w) {
  if (!process_hands_on || w->forks != process_forks()) return;
  for (uint32_t m = 0; m < METRICS; m++) {
    if (has_made(w, m)) metric_take_back(w->segment, m);
  }
}

void chalk_writer_close(chalk_writer *w) {
  process_lock();
  for (chalk_writer **p = &writers; *p; p = &(*p)->next) {
    if (*p == w) {
      *p = w->next;
      break;
    }
  }
  process_unlock();
  chalk_segment *g = w->segment;
  if (w->pid == (uint32_t)getpid() && segment_lock_reach_any(&g->head->registry)) {
    if (w->slot) slot_give(g, w->slot);
    if (w->guest) slot_give(g, w->guest);
    segment_lock_give(&g->head->registry);
    take_back_refused(w);
  }
  retire(w);
}

void chalk_writer_tick(chalk_writer *w) {
  if (w->pid != (uint32_t)getpid()) return;
  writer_take_slot(w);
  tell_seen(w, (uint64_t)segment_epoch(w->segment));
}

uint32_t chalk_writer_slot(const chalk_writer *w) { return w->slot; }
chalk_series *chalk_scratch(chalk_writer *w) { return w->scratch; }

/* The writer has this metric from now on. */
static int take_up(chalk_writer *w, int number, uint32_t generation, uint32_t tags) {
  w->uses[number / 64] |= 1ull << (number % 64);
  w->generations[number] = generation;
  w->tags[number] = (uint8_t)tags;
  slot_make_overflow_cells(w->segment, w->slot, (uint32_t)number);
  slot_make_overflow_cells(w->segment, 0, (uint32_t)number); /* for those who come when nothing more is to be had */
  return number;
}

/* Where the writer's slot notes which metrics have a user. */
static shared_u64 *uses_of(chalk_writer *w) {
  slot *l = slot_of(w);
  return l ? l->uses : NULL;
}

static int closing(char *message) {
  process_say(message, "the VM is closing");
  return CHALK_ECLOSED;
}

int chalk_define(chalk_writer *w, const chalk_definition *d, char *message) {
  if (w->pid == 0) return closing(message);
  writer_take_slot(w);
  uint32_t generation;
  bool made;
  int number = metric_define(w->segment, d, uses_of(w), &generation, &made, message);
  if (number < 0) return number;
  if (made) w->made[number / 64] |= 1ull << (number % 64);
  return take_up(w, number, generation, d->tags);
}

int chalk_find(chalk_writer *w, const char *name, char *message) {
  if (w->pid == 0) return closing(message);
  writer_take_slot(w);
  uint32_t generation, tags;
  int number = metric_find(w->segment, name, uses_of(w), &generation, &tags);
  if (number >= 0) return take_up(w, number, generation, tags);
  process_say(message, "no metric is named %s", name);
  return number;
}

void chalk_undefine(chalk_writer *w, uint32_t number) {
  if (number >= METRICS || w->pid == 0) return;
  w->uses[number / 64] &= ~(1ull << (number % 64));
  new_turn(w); /* handles that still use the plan bind anew */
  free(w->plans[number]);
  w->plans[number] = NULL;
  slot *l = slot_of(w);
  if (l) atomic_fetch_and(&l->uses[number / 64], ~(1ull << (number % 64)));
}

void chalk_take_back(chalk_writer *w, uint32_t number) {
  chalk_undefine(w, number);
  if (number >= METRICS || w->pid == 0 || !has_made(w, number)) return;
  w->made[number / 64] &= ~(1ull << (number % 64));
  metric_take_back(w->segment, number);
}

/* Binding */

/*
 * The writer's block for a series, made on first touch: a histogram's by its plan, or a gauge's. 0 when the segment is
 * full.
 */
static uint64_t block_of(const chalk_writer *w, uint32_t row, uint32_t id, const histogram_plan *plan) {
  chalk_segment *g = w->segment;
  if (!plan && row == 0) return gauge_link_of(g, id, w->whose);
  shared_u64 *cell = segment_cell(g, row, id);
  uint64_t block = atomic_load_explicit(cell, memory_order_relaxed);
  if (block) return block;
  bool last = id < METRICS;
  block = plan ? histogram_new(g, plan->les, last) : gauge_block_new(g, last);
  if (block) atomic_store_explicit(cell, block, memory_order_release);
  return block;
}

static histogram_plan *plan_of(chalk_writer *w, uint32_t number) {
  const metric *m = &w->segment->metrics[number];
  uint32_t les = atomic_load((shared_u32 *)&m->les);
  const double *le = les <= CHALK_LES ? segment_block(w->segment, m->le, les * sizeof *le) : NULL;
  if (!w->plans[number] && le) w->plans[number] = histogram_plan_new(w->segment, le, les);
  return w->plans[number];
}

/* A block from before a change of the initial error may have a finer table. */
static bool refine(chalk_writer *w, histogram_plan *plan, const histogram *h) {
  if (plan->map->scale >= histogram_start_scale(h)) return true;
  const sketch_map *finer = sketch_map_of(histogram_start_scale(h));
  if (!finer) return false;
  plan->map = finer;
  new_turn(w); /* other blocks' short cuts are by the old map: their handles bind anew */
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

/* Points the handle at its cell in the writer's slot. */
static int bind_cell(chalk_series *s, uint32_t id) {
  chalk_writer *w = s->writer;
  chalk_segment *g = w->segment;
  series *e = &g->series[id];
  const metric *m = &g->metrics[s->metric];
  uint32_t kind = atomic_load((shared_u32 *)&m->kind);
  bool own_block = kind == CHALK_HISTOGRAM || (kind == CHALK_GAUGE && m->across != CHALK_LAST);
  uint32_t row = own_block && kind == CHALK_GAUGE && w->guest ? 0 : w->slot; /* once a guest, it has links for ever */
  if (segment_chunk_make(g, g->slots[row].chunks, segment_row(g, row), 8, id, id < METRICS) != CHALK_OK)
    return CHALK_EMEMORY;
  shared_u64 *cell = segment_cell(g, row, id);
  histogram_plan *plan = kind == CHALK_HISTOGRAM ? plan_of(w, s->metric) : NULL;
  if (kind == CHALK_HISTOGRAM && !plan) return CHALK_EMEMORY;
  uint64_t block = own_block ? block_of(w, row, id, plan) : 0, unbound = 0;
  if (own_block && !segment_block(g, block, 2 * sizeof(shared_u64))) return CHALK_EMEMORY;
  if (!own_block) atomic_compare_exchange_strong(cell, &unbound, as_bits(BOUND));
  s->cell = (double *)(kind == CHALK_COUNT ? cell : own_block ? segment_at(g, block) : (void *)&e->gauge);
  s->histogram = NULL;
  s->plan = NULL;
  if (plan && !bind_histogram(s, plan, block)) return CHALK_EMEMORY;
  s->kind = kind;
  s->series = id;
  s->generation = atomic_load(&e->generation);
  return CHALK_OK;
}

/* Where a record goes when not even the overflow series can be reached. */
static void bind_spill(chalk_series *s) {
  s->cell = s->writer->spill;
  s->histogram = NULL;
  s->series = s->metric;
  s->kind = s->writer->segment->metrics[s->metric].kind;
}

static series_key key_of(const chalk_series *s) {
  return (series_key){s->metric, s->key_size, s->key, key_hash(s->metric, s->key, s->key_size)};
}

static bool is_defined(const chalk_writer *w, uint32_t number) { return w->uses[number / 64] >> (number % 64) & 1; }

/*
 * Whether the number still is the metric that the writer defined. A process that was forked may find others under the
 * numbers it brought along, since its metrics were free to leave until it took a slot. From then on they stay.
 */
static bool has_metric(const chalk_writer *w, uint32_t number) {
  return is_defined(w, number) && w->generations[number] == atomic_load(&w->segment->series[number].generation);
}

/* The handle's metric has left. */
static int gone(chalk_series *s) {
  s->epoch = s->bound = NAN;
  return CHALK_EGONE;
}

/* Without memory for the series' cell. A series without tags has no overflow series beside it: they would look alike. */
static int fold(chalk_series *s, series_key *key) {
  if (s->writer->segment->metrics[s->metric].tags == 0) return CHALK_EMEMORY;
  series_hold_overflow(s->writer->segment, key);
  return bind_cell(s, s->metric) == CHALK_OK ? CHALK_FOLDED : CHALK_EMEMORY;
}

/* Binds to the series of the handle's key, under its stripe's lock, so that no drop comes in between. */
static int bind_key(chalk_series *s, double epoch) {
  chalk_writer *w = s->writer;
  chalk_segment *g = w->segment;
  series_key key = key_of(s);
  uint32_t id;
  int e = series_hold(g, &key, &id);
  if (e >= 0 && bind_cell(s, id) != CHALK_OK) e = fold(s, &key);
  series_let_go(g, &key);
  if (e == CHALK_EMEMORY) bind_spill(s);
  s->shared = (const double *)&g->head->epoch;
  s->own = &w->own;
  s->bound = e < 0 || w->slot == 0 ? NAN : epoch + w->own;
  w->wary = process_hands_on;
  s->epoch = w->wary || tap_wants(g, s->metric) ? NAN : s->bound;
  return e;
}

/* Whether the key has the values as they were given. */
static bool is_exact(const chalk_series *s, const char *const *values, const size_t *sizes, uint32_t n) {
  uint32_t at = 0, size;
  const char *value;
  for (uint32_t i = 0; i < n && key_next(s->key, s->key_size, &at, &value, &size); i++) {
    if (size != sizes[i] || memcmp(value, values[i], size) != 0) return false;
  }
  return true;
}

/* How many tags a metric has, as the writer defined it, or else as others did. */
static uint32_t tags_of(const chalk_writer *w, uint32_t number) {
  if (w->uses[number / 64] >> (number % 64) & 1) return w->tags[number];
  uint32_t tags = atomic_load(&w->segment->metrics[number].tags);
  return tags < CHALK_TAGS ? tags : CHALK_TAGS;
}

int chalk_bound_as_given(const chalk_writer *w) { return w->exact; }

/* Acts on the epoch: from here on every record of this VM compares with it or a later one. */
static double see_epoch(chalk_writer *w) {
  double epoch = segment_epoch(w->segment);
  tell_seen(w, (uint64_t)epoch);
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
  if (!has_metric(w, number)) return gone(s); /* before the values are read: another metric may have more tags */
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
  return has_metric(w, s->metric) ? bind_key(s, see_epoch(w)) : gone(s);
}

/* Recording */

/*
 * A gauge's record ends with its mark, which says that the value was recorded, and that it was since the last sweep. Both
 * are stored each time, also where they stand there already: another process may store between any two records.
 */
static inline void gauge_mark(shared_u64 *cell) {
  atomic_store_explicit(&cell[1], as_bits(GAUGE_TOUCHED), memory_order_release);
}

static inline void gauge_store(shared_u64 *cell, double v) {
  store_double(&cell[0], v + 0.0); /* never GAUGE_FRESH */
  gauge_mark(cell);
}

/* To GAUGE_FRESH too, and then it is that no more, whatever is added. */
static void add_atomic(shared_u64 *cell, double n) {
  uint64_t old = atomic_load(cell);
  while (!atomic_compare_exchange_weak(cell, &old, as_bits(as_double(old) + n + 0.0))) {
  }
}

static int add_value(const chalk_series *s, double v) {
  return s->writer->wary ? histogram_add_warily(s, v) : histogram_add(s, v);
}

/*
 * For VMs that share slot 0: binds under the lock and records before letting go. `add` is atomic where the others of
 * the slot may do the same at once; the stripe's lock orders them with drops.
 */
static int record_shared(chalk_series *s, double v, uint32_t verb) {
  chalk_writer *w = s->writer;
  chalk_segment *g = w->segment;
  series_key key = key_of(s);
  uint32_t id;
  if (!has_metric(w, s->metric)) return gone(s);
  int e = series_hold(g, &key, &id);
  if (e >= 0 && bind_cell(s, id) != CHALK_OK) {
    series_hold_overflow(g, &key);
    if (bind_cell(s, s->metric) != CHALK_OK) e = CHALK_EMEMORY;
  }
  if (e >= 0) {
    shared_u64 *cell = (shared_u64 *)s->cell;
    if (s->kind == CHALK_HISTOGRAM) {
      e = add_value(s, v);
    } else if (verb == CHALK_EVENT_SET) {
      gauge_store(cell, v);
    } else {
      add_atomic(cell, v);
      if (s->kind == CHALK_GAUGE) gauge_mark(cell);
    }
    if (e >= 0 && tap_wants(g, s->metric)) tap_put_shared(s, verb, v);
  }
  series_let_go(g, &key);
  return e < 0 ? e : CHALK_REBOUND;
}

/*
 * Of a handle that is not bound: whether the record may go on through it; if not it was done otherwise, or cannot be.
 * *e is the code.
 */
static __attribute__((noinline)) bool prepare(chalk_series *s, double v, uint32_t verb, int *e) {
  chalk_writer *w = s->writer;
  if (w->pid != 0) writer_take_slot(w);
  if (w->pid != 0 && w->slot == 0) {
    *e = record_shared(s, v, verb);
    return false;
  }
  *e = chalk_rebind(s);
  if (*e == CHALK_OK) *e = CHALK_REBOUND;
  return *e >= 0;
}

int chalk_add(chalk_series *s, double n) {
  bool whole = n >= 0 && n <= 9007199254740992.0 && n == (double)(uint64_t)n;
  if (s->kind == CHALK_HISTOGRAM) return CHALK_EVERB;
  if (s->kind == CHALK_COUNT && !whole) return CHALK_ENUMBER;
  uint32_t verb = s->kind == CHALK_COUNT ? CHALK_EVENT_INC : n < 0 ? CHALK_EVENT_DOWN : CHALK_EVENT_UP;
  int e = CHALK_OK;
  if (!writer_is_bound(s) && !prepare(s, n, verb, &e)) return e;
  shared_u64 *cell = (shared_u64 *)s->cell;
  if (s->kind == CHALK_COUNT) {
    store_double(cell, load_double(cell) + n);
  } else {
    add_atomic(cell, n);
    gauge_mark(cell);
  }
  if (tap_is_on(s)) tap_put(s, verb, n);
  return e;
}

static __attribute__((noinline)) int set_otherwise(chalk_series *s, double v) {
  if (s->kind != CHALK_GAUGE) return CHALK_EVERB;
  int e = CHALK_OK;
  if (!writer_is_bound(s) && !prepare(s, v, CHALK_EVENT_SET, &e)) return e;
  gauge_store((shared_u64 *)s->cell, v);
  if (tap_is_on(s)) tap_put(s, CHALK_EVENT_SET, v);
  return e;
}

int chalk_set(chalk_series *s, double v) {
  if (__builtin_expect(s->kind != CHALK_GAUGE || !writer_is_current(s), 0)) return set_otherwise(s, v);
  gauge_store((shared_u64 *)s->cell, v);
  return CHALK_OK;
}

static __attribute__((noinline)) int record_otherwise(chalk_series *s, double v) {
  if (s->kind != CHALK_HISTOGRAM) return CHALK_EVERB;
  if (!isfinite(v)) return CHALK_ENUMBER;
  int e = CHALK_OK;
  if (!writer_is_bound(s) && !prepare(s, v, CHALK_EVENT_RECORD, &e)) return e;
  int added = s->histogram ? add_value(s, v) : CHALK_EMEMORY;
  if (added == CHALK_OK && tap_is_on(s)) tap_put(s, CHALK_EVENT_RECORD, v);
  return added == CHALK_OK ? e : added;
}

int chalk_record(chalk_series *s, double v) {
  if (__builtin_expect(!writer_is_current(s) || !s->histogram || !histogram_is_usual(v), 0))
    return record_otherwise(s, v);
  return histogram_add(s, v);
}

/* Reading back and dropping */

double chalk_value(chalk_series *s) {
  int e;
  if (!writer_is_bound(s)) {
    e = chalk_rebind(s);
    if (e < 0) return NAN;
  }
  chalk_segment *g = s->writer->segment;
  double value;
  if (s->kind != CHALK_GAUGE) return (double)cells_total(g, s->series);
  lives alive;
  lives_begin(&alive, g);
  return cells_gauge(g, s->series, &alive, &value) ? value : 0;
}

/* Of a number that is to be dropped: whether another metric may have it by now. */
static bool is_stale(chalk_writer *w, uint32_t number) {
  writer_take_slot(w);
  return is_defined(w, number) && !has_metric(w, number);
}

int chalk_remove(chalk_writer *w, uint32_t number, const char *const *values, const size_t *sizes) {
  if (number >= METRICS || w->pid == 0) return 0;
  if (is_stale(w, number)) return CHALK_EGONE;
  chalk_series *s = w->scratch;
  s->metric = number;
  s->key_size = key_encode(s->key, values, sizes, tags_of(w, number));
  series_key key = key_of(s);
  return series_drop_key(w->segment, &key);
}

int chalk_clear(chalk_writer *w, uint32_t number) {
  if (number >= METRICS || w->pid == 0) return 0;
  return is_stale(w, number) ? CHALK_EGONE : (int)series_drop_metric(w->segment, number);
}
