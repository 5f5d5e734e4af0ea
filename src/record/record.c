/*
 * Recording through a handle, and reading one series back.
 *
 * The usual record finds its handle bound and stores into the handle's cell. Any other record binds the handle first. A
 * VM that shares slot 0 binds and stores under the lock of the series' stripe.
 */
#include <math.h>

#include "record/bind.h"
#include "record/tap.h"
#include "series/cells.h"
#include "value/histogram.h"
#include "value/kind.h"

/*
 * Stores a gauge's mark, which ends each of its records. The mark says that the gauge was set, and that it was recorded
 * into since the last sweep. Value and mark are stored even if they already have these values, because another process
 * may store others between any two records.
 */
static inline void gauge_mark(shared_u64 *cell) {
  atomic_store_explicit(&cell[1], as_bits(GAUGE_TOUCHED), memory_order_release);
}

static inline void gauge_store(shared_u64 *cell, double v) {
  store_double(&cell[0], v + 0.0); /* never GAUGE_FRESH */
  gauge_mark(cell);
}

/* Adds to a gauge, or to a count of slot 0. A gauge that was GAUGE_FRESH is not so any more, even if -0.0 is added. */
static void add_atomic(shared_u64 *cell, double n) {
  uint64_t old = atomic_load(cell);
  while (!atomic_compare_exchange_weak(cell, &old, as_bits(as_double(old) + n + 0.0))) {
  }
}

/* Records a finite value into the block of a bound handle. */
static int add_value(const chalk_series *s, double v) {
  return s->writer->is_master ? histogram_add_without_shortcut(s, v) : histogram_add(s, v);
}

/*
 * A record of a VM that shares slot 0: binds and records under the lock of the series' stripe, which orders it with
 * drops and with the other VMs of slot 0. An add is a compare-and-swap all the same, because VMs with a row of their
 * own add to a gauge that all VMs share without that lock.
 */
static int record_shared(chalk_series *s, double v, uint32_t verb) {
  chalk_writer *w = s->writer;
  chalk_segment *g = w->segment;
  series_key key = bind_key_of(s);
  uint32_t id;
  if (!bind_has_metric(w, s->metric)) return bind_gone(s);
  int rc = series_hold(g, &key, &id);
  if (rc >= 0 && bind_cell(s, id) != CHALK_OK) {
    series_hold_overflow(g, &key);
    if (bind_cell(s, s->metric) != CHALK_OK) rc = CHALK_EMEMORY;
  }
  if (rc >= 0) {
    shared_u64 *cell = (shared_u64 *)s->cell;
    if (s->kind == CHALK_HISTOGRAM) {
      rc = add_value(s, v);
    } else if (verb == CHALK_EVENT_SET) {
      gauge_store(cell, v);
    } else {
      add_atomic(cell, v);
      if (s->kind == CHALK_GAUGE) gauge_mark(cell);
    }
    if (rc >= 0 && tap_wants(g, s->metric)) tap_put_shared(s, verb, v);
  }
  series_let_go(g, &key);
  return rc < 0 ? rc : CHALK_REBOUND;
}

/*
 * Binds a handle for a record. True: the record goes on through the handle, and then returns *rc. False: the record was
 * done here, for a VM that shares slot 0, or failed, and returns *rc.
 */
static __attribute__((noinline)) bool prepare(chalk_series *s, double v, uint32_t verb, int *rc) {
  chalk_writer *w = s->writer;
  if (w->pid != 0) writer_take_slot(w);
  if (w->pid != 0 && w->slot == 0) {
    *rc = record_shared(s, v, verb);
    return false;
  }
  *rc = chalk_rebind(s);
  if (*rc == CHALK_OK) *rc = CHALK_REBOUND;
  return *rc >= 0;
}

int chalk_add(chalk_series *s, double n) {
  bool whole = n >= 0 && n <= 9007199254740992.0 && n == (double)(uint64_t)n;
  if (s->kind == CHALK_HISTOGRAM) return CHALK_EVERB;
  if (s->kind == CHALK_COUNT && !whole) return CHALK_ENUMBER;
  uint32_t verb = s->kind == CHALK_COUNT ? CHALK_EVENT_INC : n < 0 ? CHALK_EVENT_DOWN : CHALK_EVENT_UP;
  int rc = CHALK_OK;
  if (!writer_is_bound(s) && !prepare(s, n, verb, &rc)) return rc;
  shared_u64 *cell = (shared_u64 *)s->cell;
  if (s->kind == CHALK_COUNT) {
    store_double(cell, load_double(cell) + n);
  } else {
    add_atomic(cell, n);
    gauge_mark(cell);
  }
  if (tap_is_on(s)) tap_put(s, verb, n);
  return rc;
}

/* A set through a handle that is not bound, or while the tap is on. */
static __attribute__((noinline)) int set_otherwise(chalk_series *s, double v) {
  if (s->kind != CHALK_GAUGE) return CHALK_EVERB;
  int rc = CHALK_OK;
  if (!writer_is_bound(s) && !prepare(s, v, CHALK_EVENT_SET, &rc)) return rc;
  gauge_store((shared_u64 *)s->cell, v);
  if (tap_is_on(s)) tap_put(s, CHALK_EVENT_SET, v);
  return rc;
}

int chalk_set(chalk_series *s, double v) {
  if (__builtin_expect(s->kind != CHALK_GAUGE || !writer_is_current(s), 0)) return set_otherwise(s, v);
  gauge_store((shared_u64 *)s->cell, v);
  return CHALK_OK;
}

/* A record of an unusual number, through a handle that is not bound, or while the tap is on. */
static __attribute__((noinline)) int record_otherwise(chalk_series *s, double v) {
  if (s->kind != CHALK_HISTOGRAM) return CHALK_EVERB;
  if (!isfinite(v)) return CHALK_ENUMBER;
  int rc = CHALK_OK;
  if (!writer_is_bound(s) && !prepare(s, v, CHALK_EVENT_RECORD, &rc)) return rc;
  int added = s->histogram ? add_value(s, v) : CHALK_EMEMORY;
  if (added == CHALK_OK && tap_is_on(s)) tap_put(s, CHALK_EVENT_RECORD, v);
  return added == CHALK_OK ? rc : added;
}

int chalk_record(chalk_series *s, double v) {
  if (__builtin_expect(!writer_is_current(s) || !s->histogram || !histogram_is_usual(v), 0))
    return record_otherwise(s, v);
  return histogram_add(s, v);
}

/* Reading back */

double chalk_value(chalk_series *s) {
  int rc;
  if (!writer_is_bound(s)) {
    rc = chalk_rebind(s);
    if (rc < 0) return NAN;
  }
  chalk_segment *g = s->writer->segment;
  double value;
  if (!kind_has_value(s->kind)) return (double)cells_total(g, s->series);
  lives alive;
  lives_begin(&alive, g);
  return cells_gauge(g, s->series, &alive, &value) ? value : 0;
}
