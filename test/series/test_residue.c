/* What is lost when these fail: a value that a VM records at the moment at which its series is dropped is gone, counts
   twice, or replaces a newer one. */

#include "common.h"

#include "series/series.h"

static int64_t value_of(chalk_writer *w, int metric, const char *tag) {
  chalk_series *s = bind(w, metric, tag);
  int64_t value = (int64_t)chalk_value(s);
  free(s);
  return value;
}

/* A writer compares the epoch before the drop and stores after it. */
static void test_residue_goes_to_the_successor(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g), *other = open_writer(g);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), latency = define(w, "latency", CHALK_HISTOGRAM, 1, 5);
  define(other, "requests", CHALK_COUNT, 1, 0), define(other, "latency", CHALK_HISTOGRAM, 1, 5);
  chalk_series *late = bind(w, count, "a"), *slow = bind(w, latency, "a");
  chalk_add(late, 5), chalk_record(slow, 1);
  uint32_t ids[2] = {late->series, slow->series};
  drop(other, count, "a"), drop(other, latency, "a");
  *late->cell += 3;
  slow->bound = slow->epoch = *late->shared + *late->own; /* as if it had compared before the drop */
  chalk_record(slow, 50), chalk_record(slow, -2), chalk_record(slow, 0);
  assert_int_equal(total_of(g, count), 0);
  sweep(g, 1000, 0);
  assert_int_equal(info_of(g).quarantined, 2);
  chalk_writer_tick(w), chalk_writer_tick(other);
  sweep(g, 1001, 0);
  assert_int_equal(info_of(g).quarantined, 0);
  assert_int_equal(total_of(g, count), 3);
  assert_int_equal(total_of(g, latency), 3);
  assert_int_equal(value_of(other, count, "a"), 3);
  chalk_series *successor = bind(other, latency, "a");
  chalk_sketch *k = chalk_series_sketch(successor);
  assert_int_equal(chalk_sketch_count(k), 3);
  assert_true(chalk_sketch_sum(k) == 48);
  assert_true(fabs(chalk_sketch_quantile(k, 1) / 50 - 1) < 0.01);
  chalk_sketch_free(k);
  chalk_series *new = bind(other, count, "new");
  assert_true(new->series == ids[0] || new->series == ids[1]);
  assert_true(chalk_value(new) == 0);
  free(late), free(slow), free(successor), free(new);
  chalk_writer_close(w), chalk_writer_close(other);
  chalk_segment_close(g);
}

/* Two VMs with the same gauge. The first has set it to 3, and the second, if each VM has its own value, to 4. */
typedef struct gauges {
  chalk_segment *g;
  chalk_writer *w[2];
  chalk_series *s[2];
  int metric;
  double now;
} gauges;

enum { IDLE = 5 };

static gauges two_gauges(uint32_t across) {
  gauges t = {.g = open_segment(NULL), .now = 100};
  for (int i = 0; i < 2; i++) {
    t.w[i] = open_writer(t.g);
    t.metric = define_across(t.w[i], "load", across);
    t.s[i] = bind(t.w[i], t.metric, "x");
  }
  assert_int_equal(chalk_set(t.s[0], 3), CHALK_OK);
  if (across != CHALK_LAST) assert_int_equal(chalk_set(t.s[1], 4), CHALK_OK);
  sweep(t.g, t.now, IDLE);
  return t;
}

static void tick_both(gauges *t) {
  for (int i = 0; i < 2; i++) chalk_writer_tick(t->w[i]);
}

/* Sweeps after series that were not recorded into have become idle. Both VMs have seen the drops before. */
static int sweep_idle(gauges *t) {
  tick_both(t);
  return sweep(t->g, t->now += 3 * IDLE, IDLE);
}

/* A VM that compared the epoch before the drop stores now. */
static void set_late(chalk_series *s, double v) {
  s->bound = s->epoch = *s->shared + *s->own;
  assert_int_equal(chalk_set(s, v), CHALK_OK);
}

/* The value of the gauge in a scrape; NAN: it is not there. */
static double shown(const gauges *t) {
  chalk_snapshot *s = take(t->g, 0);
  uint32_t n;
  const chalk_entry *e = chalk_snapshot_entries(s, &n);
  double value = NAN;
  for (uint32_t i = 0; i < n; i++) {
    assert_true(isnan(value));
    value = e[i].value;
  }
  chalk_snapshot_free(s);
  return value;
}

static void close_gauges(gauges *t) {
  for (int i = 0; i < 2; i++) free(t->s[i]), chalk_writer_close(t->w[i]);
  chalk_segment_close(t->g);
}

/* What a scrape shows once the first VM has set 7. The second has set 4, except with CHALK_LAST. */
static const struct {
  uint32_t across;
  double both;
} COMBINED[] = {{CHALK_LAST, 7}, {CHALK_SUM, 11}, {CHALK_MIN, 4}, {CHALK_MAX, 7}};
enum { COMBINATIONS = sizeof COMBINED / sizeof *COMBINED };

/* A VM sets the gauge after the holder has found it idle, and before the holder drops it. */
static void test_a_gauge_set_before_its_drop_stays(void **state) {
  (void)state;
  for (int i = 0; i < COMBINATIONS; i++) {
    gauges t = two_gauges(COMBINED[i].across);
    double before = info_of(t.g).epoch;
    assert_int_equal(chalk_set(t.s[0], 7), CHALK_OK);
    assert_int_equal(series_drop_idle(t.g, &t.s[0]->series, 1), 0);
    assert_true(info_of(t.g).epoch == before);
    assert_true(shown(&t) == COMBINED[i].both);
    assert_int_equal(sweep_idle(&t), 0);
    assert_int_equal(sweep_idle(&t), 1);
    assert_true(isnan(shown(&t)));
    close_gauges(&t);
  }
}

/* A late set undoes the drop with the next sweep. The gauge then stays until it is idle again. */
static void test_a_late_gauge_comes_back(void **state) {
  (void)state;
  for (int i = 0; i < COMBINATIONS; i++) {
    gauges t = two_gauges(COMBINED[i].across);
    assert_int_equal(sweep_idle(&t), 1);
    assert_true(isnan(shown(&t)));
    set_late(t.s[0], 7);
    sweep(t.g, t.now, IDLE); /* before either has noticed the drop */
    assert_true(shown(&t) == COMBINED[i].both);
    assert_int_equal(info_of(t.g).quarantined, 0);
    assert_int_equal(info_of(t.g).series, 1);
    set_late(t.s[0], 8);
    assert_true(chalk_value(t.s[1]) == (COMBINED[i].across == CHALK_MIN ? 4 : COMBINED[i].both + 1));
    assert_int_equal(sweep_idle(&t), 0);
    assert_int_equal(sweep_idle(&t), 1);
    assert_true(isnan(shown(&t)));
    close_gauges(&t);
  }
}

/*
 * The other VM has set the successor before the late set. If each VM has its own value, both count. If all share one,
 * the successor's counts, because that set began after the drop.
 */
static void test_a_late_gauge_beside_its_successor(void **state) {
  (void)state;
  for (int i = 0; i < COMBINATIONS; i++) {
    gauges t = two_gauges(COMBINED[i].across);
    assert_int_equal(sweep_idle(&t), 1);
    assert_int_equal(chalk_set(t.s[1], 4), CHALK_REBOUND);
    set_late(t.s[0], 7);
    sweep(t.g, t.now, IDLE); /* other late sets may still come */
    assert_true(shown(&t) == 4);
    tick_both(&t);
    sweep(t.g, t.now, IDLE);
    assert_int_equal(info_of(t.g).quarantined, 0);
    assert_true(shown(&t) == (COMBINED[i].across == CHALK_LAST ? 4 : COMBINED[i].both));
    /* The next set of the same VM replaces the late value. */
    assert_int_equal(chalk_set(t.s[0], 8), CHALK_REBOUND);
    assert_true(shown(&t) == (COMBINED[i].across == CHALK_MIN ? 4 : COMBINED[i].both + 1));
    close_gauges(&t);
  }
}

/*
 * The successor exists but is not set, so it gets the late value. Once a set has begun there, even to zero, that
 * counts.
 */
static void test_a_late_gauge_goes_to_a_successor_that_is_not_set(void **state) {
  (void)state;
  for (int zero = 0; zero < 2; zero++) {
    gauges t = two_gauges(CHALK_LAST);
    assert_int_equal(sweep_idle(&t), 1);
    assert_int_equal(chalk_rebind(t.s[1]), CHALK_OK);
    set_late(t.s[0], 7);
    tick_both(&t);
    if (zero) *t.s[1]->cell = 0; /* stopped between value and mark */
    sweep(t.g, t.now, IDLE);
    assert_int_equal(info_of(t.g).quarantined, 0);
    if (zero) t.s[1]->cell[1] = GAUGE_TOUCHED;
    assert_true(shown(&t) == (zero ? 0 : 7));
    close_gauges(&t);
  }
}

/* A set to -0.0 stores 0.0, because -0.0 means that the gauge was never set. */
static void test_a_gauge_never_stores_negative_zero(void **state) {
  (void)state;
  gauges t = two_gauges(CHALK_LAST);
  assert_int_equal(chalk_set(t.s[0], -0.0), CHALK_OK);
  assert_true(shown(&t) == 0 && !signbit(shown(&t)));
  assert_int_equal(drop(t.w[1], t.metric, "x"), 1);
  assert_int_equal(chalk_add(t.s[0], -0.0), CHALK_REBOUND); /* dec(0) of a gauge that was never set */
  assert_true(shown(&t) == 0 && !signbit(shown(&t)));
  close_gauges(&t);
}

/* A gauge that was removed does not come back, nor does one of a VM that has ended and whose slot has another owner. */
static void test_a_removed_gauge_and_that_of_an_ended_vm_are_not_owed(void **state) {
  (void)state;
  gauges t = two_gauges(CHALK_LAST);
  assert_int_equal(drop(t.w[1], t.metric, "x"), 1);
  set_late(t.s[0], 7);
  for (int i = 0; i < 3; i++) sweep_idle(&t);
  assert_true(isnan(shown(&t)));
  assert_int_equal(info_of(t.g).quarantined, 0);
  close_gauges(&t);

  t = two_gauges(CHALK_SUM);
  assert_int_equal(sweep_idle(&t), 1);
  set_late(t.s[0], 7);
  chalk_writer_close(t.w[0]);
  t.w[0] = open_writer(t.g);
  assert_int_equal(chalk_writer_slot(t.w[0]), 1);
  for (int i = 0; i < 3; i++) sweep_idle(&t);
  assert_true(isnan(shown(&t)));
  close_gauges(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_residue_goes_to_the_successor),
      cmocka_unit_test(test_a_gauge_set_before_its_drop_stays),
      cmocka_unit_test(test_a_late_gauge_comes_back),
      cmocka_unit_test(test_a_late_gauge_beside_its_successor),
      cmocka_unit_test(test_a_late_gauge_goes_to_a_successor_that_is_not_set),
      cmocka_unit_test(test_a_gauge_never_stores_negative_zero),
      cmocka_unit_test(test_a_removed_gauge_and_that_of_an_ended_vm_are_not_owed),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
