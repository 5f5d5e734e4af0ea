/*
 * What is lost when these fail: histograms in shared memory report a wrong error, lose values, or take more memory than
 * the documentation says.
 */

#include "common.h"

#include "samples.h"
#include "shm/heap.h"
#include "value/histogram.h"

enum { VALUES = 1000000 };

typedef struct fixture {
  chalk_segment *g;
  chalk_writer *w;
  chalk_series *s;
} fixture;

static fixture open_histogram(uint32_t max_buckets, uint32_t les) {
  chalk_options o = {.max_buckets = max_buckets};
  fixture f = {.g = open_segment(&o)};
  f.w = open_writer(f.g);
  f.s = bind(f.w, define(f.w, "latency", CHALK_HISTOGRAM, 1, les), "a");
  return f;
}

static void close_histogram(fixture f) {
  free(f.s);
  chalk_writer_close(f.w);
  chalk_segment_close(f.g);
}

/* The bytes of the heap that the block and its tables take. */
static uint64_t footprint(const fixture *f) {
  const histogram *h = f->s->histogram;
  uint64_t bytes = heap_rounded((HISTOGRAM_LEAST + (h->les + 1) * 8 + 63) & ~63ull);
  for (int which = 0; which < 2; which++) {
    uint64_t word = atomic_load((shared_u64 *)&h->table[which]);
    if (word) bytes += heap_rounded((word >> 52 & 1 ? 12ull : 8ull) << (word >> 40 & 31));
  }
  return bytes;
}

static void record_and_check(fixture *f, double *values, int n) {
  for (int i = 0; i < n; i++) assert_true(chalk_record(f->s, values[i]) >= CHALK_OK);
  chalk_sketch *k = chalk_series_sketch(f->s);
  assert_non_null(k);
  assert_int_equal(chalk_sketch_count(k), n);
  qsort(values, (size_t)n, sizeof *values, compare_doubles);
  assert_true(chalk_sketch_min(k) == values[0]);
  assert_true(chalk_sketch_max(k) == values[n - 1]);
  for (double q = 0; q <= 1; q += 0.001) {
    double truth = values[(size_t)(q * (n - 1))], got = chalk_sketch_quantile(k, q);
    if (!(fabs(got - truth) <= chalk_sketch_error(k) * fabs(truth) * (1 + 1e-9))) {
      fail_msg("quantile %g is %g instead of %g, stated error %g", q, got, truth, chalk_sketch_error(k));
    }
  }
  chalk_sketch_free(k);
}

static void test_a_lognormal_distribution_keeps_to_its_error_and_to_5_kib(void **state) {
  (void)state;
  double *values = malloc(VALUES * sizeof *values);
  fixture f = open_histogram(512, 0);
  for (int i = 0; i < VALUES; i++) values[i] = exp(0.5 * random_normal());
  record_and_check(&f, values, VALUES);
  print_message("lognormal, sigma 0.5: %llu bytes\n", (unsigned long long)footprint(&f));
  assert_true(footprint(&f) <= 5 * 1024);
  close_histogram(f);
  free(values);
}

static void test_few_buckets_take_less_than_1_kib(void **state) {
  (void)state;
  fixture f = open_histogram(512, 5);
  for (int i = 0; i < 10000; i++) assert_true(chalk_record(f.s, 1 + i % 40) >= CHALK_OK);
  assert_true(footprint(&f) < 1024);
  close_histogram(f);
}

/* Scattered buckets are the worst case: no table of their number holds them without collisions. */
static void test_scattered_buckets_take_at_most_13_kib(void **state) {
  (void)state;
  fixture f = open_histogram(512, 5);
  for (int i = 0; i < 512; i++) {
    double v = exp(0.37 * i - 90);
    assert_true(chalk_record(f.s, v) >= CHALK_OK);
  }
  /* A count above 32 bits makes the table wide. The bucket of a merged sketch may have such a count. */
  chalk_sketch *k = chalk_sketch_new(0.001, 512);
  uint64_t les[CHALK_LES + 1] = {0};
  chalk_sketch_add(k, 1, 5000000000ull);
  les[5] = 5000000000ull;
  assert_int_equal(histogram_merge(f.g, f.s->histogram, k, les), CHALK_OK);
  chalk_rebind(f.s);
  chalk_sketch_free(k);
  print_message("512 scattered buckets: %llu bytes\n", (unsigned long long)footprint(&f));
  assert_true(footprint(&f) <= 13 * 1024);
  for (int i = 0; i < 1000; i++) assert_true(chalk_record(f.s, 1) >= CHALK_OK);
  k = chalk_series_sketch(f.s);
  assert_int_equal(chalk_sketch_count(k), 512 + 5000000000ull + 1000);
  chalk_sketch_free(k);
  close_histogram(f);
}

/* Counts just below and above the largest 32-bit count of a narrow table. */
static void test_counts_pass_32_bits_exactly(void **state) {
  (void)state;
  for (uint64_t start = 0xfffffffd; start <= 0x100000001; start++) {
    fixture f = open_histogram(512, 0);
    chalk_sketch *k = chalk_sketch_new(0.001, 512);
    uint64_t les[CHALK_LES + 1] = {start};
    chalk_sketch_add(k, 2, start);
    assert_int_equal(histogram_merge(f.g, f.s->histogram, k, les), CHALK_OK);
    chalk_rebind(f.s);
    chalk_sketch_free(k);
    for (int i = 0; i < 5; i++) assert_true(chalk_record(f.s, 2) >= CHALK_OK);
    k = chalk_series_sketch(f.s);
    chalk_bucket b;
    assert_int_equal(chalk_sketch_count(k), start + 5);
    assert_int_equal(chalk_sketch_bucket(k, 0, &b), 1);
    assert_int_equal(b.count, start + 5);
    assert_true(b.upper == 2);
    assert_int_equal((int64_t)chalk_value(f.s), (int64_t)start + 5);
    chalk_sketch_free(k);
    close_histogram(f);
  }
}

/* The first value of the other sign must not cost all other values their accuracy. */
static void test_a_few_negative_values_do_not_coarsen_the_positive_ones(void **state) {
  (void)state;
  fixture f = open_histogram(512, 0);
  double values[512 + 3];
  for (int i = 0; i < 512; i++) values[i] = exp2((i + 0.5) / 512);
  for (int i = 0; i < 3; i++) values[512 + i] = -1 - i;
  record_and_check(&f, values, 515);
  chalk_sketch *k = chalk_series_sketch(f.s);
  assert_true(chalk_sketch_error(k) < 0.002);
  assert_int_equal(k->negative.n, 3);
  chalk_sketch_free(k);
  close_histogram(f);
}

static void test_any_double_is_counted_within_any_limit(void **state) {
  (void)state;
  static const uint32_t limits[] = {8, 200, 8192};
  for (int l = 0; l < 3; l++) {
    fixture f = open_histogram(limits[l], 5);
    uint64_t n = 0, zeroes = 0;
    for (int i = 0; i < 60000; i++) {
      double v = i % 50 == 0 ? 0 : as_double(random_bits());
      if (!isfinite(v)) {
        assert_int_equal(chalk_record(f.s, v), CHALK_ENUMBER);
        continue;
      }
      assert_true(chalk_record(f.s, v) >= CHALK_OK);
      n++, zeroes += v == 0;
    }
    chalk_sketch *k = chalk_series_sketch(f.s);
    assert_int_equal(chalk_sketch_count(k), n);
    assert_int_equal(k->zero, zeroes);
    assert_true(k->positive.n + k->negative.n <= limits[l]);
    chalk_sketch_free(k);
    close_histogram(f);
  }
}

static void test_le_counts_are_exact(void **state) {
  (void)state;
  fixture f = open_histogram(8, 5);
  static const double values[] = {0.01, 0.010000000000000002, 0.1, 1, 1.0000000000000002, 100, 100.00000000000001, -5};
  for (int i = 0; i < 8; i++) chalk_record(f.s, values[i]);
  chalk_snapshot *s = take(f.g, 0);
  double bounds[CHALK_LES + 1];
  uint64_t counts[CHALK_LES + 1];
  uint32_t n;
  assert_int_equal(chalk_snapshot_entries(s, &n)[0].total, 8);
  assert_int_equal(n, 1);
  assert_int_equal(chalk_snapshot_les(s, 0, bounds, counts), 6);
  static const uint64_t expected[] = {2, 4, 5, 6, 7, 8};
  for (int i = 0; i < 6; i++) assert_int_equal(counts[i], expected[i]);
  assert_true(bounds[0] == 0.01 && isinf(bounds[5]));
  chalk_snapshot_free(s);
  close_histogram(f);
}

/* The limits change while the histogram is in use. No value is lost, and a lower limit holds from then on. */
static void test_changing_limits_loses_no_value(void **state) {
  (void)state;
  fixture f = open_histogram(512, 0);
  for (int i = 0; i < 20000; i++) chalk_record(f.s, exp(random_normal()));
  static const chalk_options changes[] = {{.initial_error = 0.1}, {.initial_error = 0.0001}, {.max_buckets = 32}};
  for (int change = 0; change < 3; change++) {
    assert_int_equal(chalk_segment_configure(f.g, &changes[change], NULL), CHALK_OK);
    /* A new VM takes the old slot, and another VM takes the next one. */
    free(f.s);
    chalk_writer_close(f.w);
    f.w = open_writer(f.g);
    chalk_writer *other = open_writer(f.g);
    f.s = bind(f.w, define(f.w, "latency", CHALK_HISTOGRAM, 1, 0), "a");
    chalk_series *s = bind(other, define(other, "latency", CHALK_HISTOGRAM, 1, 0), "a");
    for (int i = 0; i < 10000; i++) assert_int_equal(chalk_record(i & 1 ? s : f.s, exp(2 * random_normal())), CHALK_OK);
    free(s);
    chalk_writer_close(other);
  }
  double median = exp(0);
  chalk_sketch *k = chalk_series_sketch(f.s);
  assert_int_equal(chalk_sketch_count(k), 50000);
  assert_true(fabs(chalk_sketch_quantile(k, 0.5) / median - 1) < chalk_sketch_error(k) + 0.05);
  chalk_sketch_free(k);
  const histogram *h = f.s->histogram;
  assert_true(h->used[0] <= 32);
  close_histogram(f);
}

/* One writer has a coarse and a fine histogram. Values get into the right buckets of both. */
static void test_coarse_and_fine_histograms_of_one_writer(void **state) {
  (void)state;
  chalk_options coarse = {.initial_error = 0.1}, fine = {.initial_error = 0.0001};
  fixture f = open_histogram(512, 0);
  chalk_segment_configure(f.g, &coarse, NULL);
  chalk_series *a = bind(f.w, (int)f.s->metric, "coarse");
  for (int i = 1; i <= 100; i++) chalk_record(a, i);
  chalk_segment_configure(f.g, &fine, NULL);
  chalk_series *b = bind(f.w, (int)f.s->metric, "fine");
  for (int i = 1; i <= 100; i++) chalk_record(a, i), chalk_record(b, i);
  chalk_series *both[] = {a, b};
  for (int i = 0; i < 2; i++) {
    chalk_sketch *k = chalk_series_sketch(both[i]);
    assert_true(chalk_sketch_error(k) <= (i ? 0.0001 : 0.1));
    for (int q = 0; q <= 100; q++) {
      double got = chalk_sketch_quantile(k, q / 100.0), truth = floor(q / 100.0 * (i ? 99 : 199) / (i ? 1 : 2)) + 1;
      assert_true(fabs(got / truth - 1) <= chalk_sketch_error(k) * (1 + 1e-9));
    }
    chalk_sketch_free(k);
  }
  free(a), free(b);
  close_histogram(f);
}

/* In a child: records into 20 series in turn, and drops all of them after each round. */
static void record_and_clear(const fixture *f) {
  for (int i = 0; i < (SANITIZED ? 3000 : 30000); i++) {
    char value[16];
    snprintf(value, sizeof value, "%d", i % 20);
    chalk_series *s = bind(f->w, (int)f->s->metric, value);
    for (int k = 0; k < 20 + i % 200; k++) {
      CHILD_CHECK(chalk_record(s, exp(i % 3000 * 1e-3 * random_normal())) >= CHALK_OK);
    }
    free(s);
    if (i % 20 != 19) continue;
    chalk_clear(f->w, f->s->metric);
    sweep(f->g, 1000.0 * i, 0);
  }
  _exit(0);
}

/* A writer grows and collapses its histograms all the time. A reader sees only whole sketches. */
static void test_a_reader_sees_only_whole_sketches(void **state) {
  (void)state;
  fixture f = open_histogram(64, 0);
  pid_t pid = fork_child();
  if (pid == 0) record_and_clear(&f);
  int status;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    chalk_snapshot *s = take(f.g, 0);
    uint32_t n;
    chalk_snapshot_entries(s, &n);
    for (uint32_t i = 0; i < n; i++) {
      const chalk_sketch *k = chalk_snapshot_sketch(s, i);
      assert_non_null(k);
      assert_true(chalk_sketch_count(k) <= 220);
      chalk_bucket b;
      uint64_t sum = 0;
      for (uint32_t j = 0; chalk_sketch_bucket(k, j, &b); j++) sum += b.count;
      assert_int_equal(sum, chalk_sketch_count(k));
    }
    chalk_snapshot_free(s);
  }
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  close_histogram(f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_lognormal_distribution_keeps_to_its_error_and_to_5_kib),
      cmocka_unit_test(test_few_buckets_take_less_than_1_kib),
      cmocka_unit_test(test_scattered_buckets_take_at_most_13_kib),
      cmocka_unit_test(test_counts_pass_32_bits_exactly),
      cmocka_unit_test(test_a_few_negative_values_do_not_coarsen_the_positive_ones),
      cmocka_unit_test(test_any_double_is_counted_within_any_limit),
      cmocka_unit_test(test_le_counts_are_exact),
      cmocka_unit_test(test_changing_limits_loses_no_value),
      cmocka_unit_test(test_coarse_and_fine_histograms_of_one_writer),
      cmocka_unit_test(test_a_reader_sees_only_whole_sketches),
  };
  alarm(4 * DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
