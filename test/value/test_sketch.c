/*
 * What is lost when these fail: a quantile has a larger error than the one that is reported with it; or the buckets are
 * not those of OpenTelemetry and Prometheus, so sketches no longer merge exactly.
 */

#include <float.h>

#include "common.h"

#include "failing.h"
#include "samples.h"
#include "value/sketch.h"

enum { VALUES = 1000000 };

static double of_normal(void) { return 100 + 15 * random_normal(); }
static double of_lognormal(void) { return exp(0.5 * random_normal()); }
static double of_exponential(void) { return -log(random_unit()); }
static double of_pareto(void) { return pow(random_unit(), -1 / 1.5); }
static double of_bimodal(void) { return (random_bits() & 1 ? 0.001 : 10) * (1 + 0.05 * random_normal()); }
static double of_constant(void) { return 0.1; }

static const struct distribution {
  const char *name;
  double (*next)(void);
} DISTRIBUTIONS[] = {
    {"normal", of_normal}, {"lognormal", of_lognormal}, {"exponential", of_exponential},
    {"pareto", of_pareto}, {"bimodal", of_bimodal},     {"constant", of_constant},
};
enum { N_DISTRIBUTIONS = sizeof DISTRIBUTIONS / sizeof *DISTRIBUTIONS };

static void check_quantiles(const chalk_sketch *k, const double *sorted, const char *name) {
  static const double qs[] = {0, 0.5, 0.9, 0.99, 0.999, 1};
  double stated = chalk_sketch_error(k);
  for (size_t i = 0; i < sizeof qs / sizeof *qs; i++) {
    double truth = sorted[(size_t)(qs[i] * (VALUES - 1))], got = chalk_sketch_quantile(k, qs[i]);
    double error = fabs(got - truth) / truth;
    if (!(error <= stated * (1 + 1e-9))) {
      fail_msg("%s: p%g is %g instead of %g: off by %g, stated %g", name, 100 * qs[i], got, truth, error, stated);
    }
  }
}

/* Asserts that the buckets are sorted and disjoint and contain every value. */
static void check_buckets(const chalk_sketch *k) {
  chalk_bucket b;
  uint64_t n = 0;
  double last = -INFINITY;
  for (uint32_t i = 0; chalk_sketch_bucket(k, i, &b); i++) {
    assert_true(b.lower >= last);
    assert_true(b.upper >= b.lower);
    assert_true(b.count > 0);
    last = b.upper;
    n += b.count;
  }
  assert_int_equal(n, chalk_sketch_count(k));
}

static void test_quantiles_keep_to_the_reported_error(void **state) {
  (void)state;
  double *values = malloc(VALUES * sizeof *values);
  assert_non_null(values);
  for (int d = 0; d < N_DISTRIBUTIONS; d++) {
    chalk_sketch *whole = chalk_sketch_new(0.001, 512), *merged = chalk_sketch_new(0.001, 512), *parts[8];
    for (int p = 0; p < 8; p++) parts[p] = chalk_sketch_new(0.001, 512);
    double sum = 0;
    for (int i = 0; i < VALUES; i++) {
      values[i] = DISTRIBUTIONS[d].next();
      sum += values[i];
      assert_int_equal(chalk_sketch_add(whole, values[i], 1), CHALK_OK);
      assert_int_equal(chalk_sketch_add(parts[i % 8], values[i], 1), CHALK_OK);
    }
    for (int p = 0; p < 8; p++) assert_int_equal(chalk_sketch_merge(merged, parts[p]), CHALK_OK);
    qsort(values, VALUES, sizeof *values, compare_doubles);
    check_quantiles(whole, values, DISTRIBUTIONS[d].name);
    check_quantiles(merged, values, DISTRIBUTIONS[d].name);
    check_buckets(whole);
    check_buckets(merged);
    assert_int_equal(chalk_sketch_count(merged), VALUES);
    assert_true(chalk_sketch_min(merged) == values[0]);
    assert_true(chalk_sketch_max(merged) == values[VALUES - 1]);
    assert_true(fabs(chalk_sketch_sum(merged) / sum - 1) < 1e-9);
    for (int p = 0; p < 8; p++) chalk_sketch_free(parts[p]);
    chalk_sketch_free(whole);
    chalk_sketch_free(merged);
  }
  free(values);
}

static void test_a_bucket_includes_its_upper_bound(void **state) {
  (void)state;
  for (int scale = 0; scale <= SKETCH_MOST_SCALE; scale++) {
    const sketch_map *map = sketch_map_of(scale);
    assert_non_null(map);
    for (int exponent = -1074; exponent <= 1023; exponent++) {
      double power = ldexp(1, exponent);
      int32_t i = sketch_index(map, power);
      assert_int_equal(i, exponent * (1 << scale) - 1);
      if (exponent < 1023 && exponent > -1022) assert_int_equal(sketch_index(map, nextafter(power, INFINITY)), i + 1);
      assert_true(sketch_bound(i + 1, scale) == power);
    }
  }
}

static void test_values_lie_in_their_buckets(void **state) {
  (void)state;
  for (int n = 0; n < 200000; n++) {
    double v = as_double(random_bits() & ~(1ull << 63));
    if (!isfinite(v) || v == 0) continue;
    const sketch_map *map = sketch_map_of((int)(random_bits() % (SKETCH_MOST_SCALE + 1)));
    int32_t i = sketch_index(map, v);
    for (int scale = map->scale; scale >= SKETCH_LEAST_SCALE; scale--, i >>= 1) {
      double lower = sketch_bound(i, scale), upper = sketch_bound(i + 1, scale);
      if (!(lower < v || (lower == 0 && v > 0)) || !(v <= upper)) {
        fail_msg("%a is not in (%a, %a], bucket %d of scale %d", v, lower, upper, i, scale);
      }
    }
  }
}

/* The index equals its definition, ceil(log2(v) * 2^s) - 1, except next to a bound. */
static void test_index_is_the_logarithm(void **state) {
  (void)state;
  const sketch_map *map = sketch_map_of(9);
  for (int n = 0; n < 100000; n++) {
    double v = exp(20 * (random_unit() - 0.5)), position = log2(v) * 512;
    if (fabs(position - round(position)) < 1e-6) continue;
    assert_int_equal(sketch_index(map, v), (int32_t)ceil(position) - 1);
  }
}

static void test_initial_error_holds_until_the_first_collapse(void **state) {
  (void)state;
  assert_int_equal(sketch_scale_for(0.001), 9);
  chalk_sketch *k = chalk_sketch_new(0.001, 512);
  for (int i = 1; i <= 512; i++) chalk_sketch_add(k, 1 + i * 1e-3, 1);
  assert_true(chalk_sketch_error(k) <= 0.001);
  chalk_sketch_add(k, 1e9, 1);
  for (int i = 1; i <= 1000; i++) chalk_sketch_add(k, i, 1);
  assert_true(chalk_sketch_error(k) > 0.001);
  chalk_sketch_free(k);
}

static void test_a_small_sketch_takes_any_double(void **state) {
  (void)state;
  chalk_sketch *k = chalk_sketch_new(0.001, 8);
  static const double values[] = {1.7976931348623157e308, 2.2250738585072014e-308, 5e-324, 1, 0, -5e-324,
                                  -1.7976931348623157e308};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    assert_int_equal(chalk_sketch_add(k, values[i], 1), CHALK_OK);
  }
  check_buckets(k);
  assert_true(chalk_sketch_quantile(k, 0) >= -1.7976931348623157e308);
  assert_true(chalk_sketch_quantile(k, 1) <= 1.7976931348623157e308);
  for (double q = 0; q <= 1; q += 0.01) assert_true(isfinite(chalk_sketch_quantile(k, q)));
  for (int i = 0; i < 20000; i++) {
    double v = as_double(random_bits());
    if (isfinite(v)) assert_int_equal(chalk_sketch_add(k, v, 1), CHALK_OK);
  }
  assert_true(k->positive.n + k->negative.n <= 8);
  check_buckets(k);
  assert_int_equal(chalk_sketch_add(k, NAN, 1), CHALK_ENUMBER);
  assert_int_equal(chalk_sketch_add(k, INFINITY, 1), CHALK_ENUMBER);
  chalk_sketch_free(k);
}

/*
 * If few buckets span the whole range of doubles, the bucket of a tiny value begins at a bound that is not a double,
 * and a count may be as large as a uint64. Quantiles are still the recorded values.
 */
static void test_quantiles_across_the_whole_range(void **state) {
  (void)state;
  chalk_sketch *k = chalk_sketch_new(0.001, 8);
  static const double values[] = {1e-310, 1e-200, 1e-100, 1e-3, 1e3, 1e100, 1e200, 1e300};
  enum { N = sizeof values / sizeof *values };
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < N; i++) chalk_sketch_add(k, round ? -values[i] : values[i], 1);
  }
  for (int i = 0; i < N; i++) {
    double got = chalk_sketch_quantile(k, (N + i) / (2.0 * N - 1));
    assert_true(fabs(got - values[i]) <= chalk_sketch_error(k) * values[i] * (1 + 1e-9));
  }
  chalk_sketch_free(k);
  k = chalk_sketch_new(0.001, 8);
  chalk_sketch_add(k, 1, 1);
  chalk_sketch_add(k, 1000, UINT64_MAX - 1);
  assert_true(fabs(chalk_sketch_quantile(k, 1) - 1000) <= 1000 * chalk_sketch_error(k));
  chalk_sketch_free(k);
}

/*
 * Values from the smallest to the largest double, at every scale. The two extremes are recorded too, so that clipping
 * to the minimum and maximum hides no error.
 */
static void test_the_error_holds_for_every_magnitude_and_scale(void **state) {
  (void)state;
  for (int n = 0; n < 4 * 2098; n++) {
    double v = ldexp(1 + random_unit(), n / 4 - 1074);
    if (n & 1) v = -v;
    chalk_sketch *k = chalk_sketch_new(0.0001, 512);
    chalk_sketch_add(k, -DBL_MAX, 1), chalk_sketch_add(k, v, 1), chalk_sketch_add(k, DBL_MAX, 1);
    for (int scale = SKETCH_MOST_SCALE; scale >= SKETCH_LEAST_SCALE; scale--) {
      sketch_coarsen(k, scale);
      double got = chalk_sketch_quantile(k, 0.5);
      if (!(fabs(got - v) <= chalk_sketch_error(k) * fabs(v) * (1 + 1e-9) + DBL_TRUE_MIN)) {
        fail_msg("scale %d: the median is %a instead of %a", scale, got, v);
      }
    }
    chalk_sketch_free(k);
  }
}

static void test_an_empty_sketch_has_no_quantiles(void **state) {
  (void)state;
  chalk_sketch *k = chalk_sketch_new(0.001, 512);
  chalk_bucket b;
  assert_true(isnan(chalk_sketch_quantile(k, 0.5)));
  assert_true(isnan(chalk_sketch_min(k)));
  assert_int_equal(chalk_sketch_bucket(k, 0, &b), 0);
  assert_int_equal(chalk_sketch_add(k, 1, 0), CHALK_OK);
  assert_int_equal(chalk_sketch_count(k), 0);
  chalk_sketch_add(k, 1, 1);
  assert_true(isnan(chalk_sketch_quantile(k, 1.5)));
  assert_true(isnan(chalk_sketch_quantile(k, NAN)));
  chalk_sketch_free(k);
}

/* A push exporter sends differences of a growing sketch. They add up to the whole sketch, bucket by bucket. */
static void test_differences_add_up(void **state) {
  (void)state;
  chalk_sketch *now = chalk_sketch_new(0.001, 64), *before = chalk_sketch_new(0.001, 64);
  chalk_sketch *sent = chalk_sketch_new(0.001, 64);
  for (int flush = 0; flush < 50; flush++) {
    for (int i = 0; i < 200; i++) chalk_sketch_add(now, (i % 7 == 0 ? -1 : 1) * exp(0.1 * flush * random_normal()), 1);
    chalk_sketch_add(now, 0, 3);
    chalk_sketch *d = sketch_difference(now, before);
    assert_int_equal(chalk_sketch_count(d), 203);
    check_buckets(d);
    assert_true(chalk_sketch_min(d) >= chalk_sketch_min(now));
    assert_true(chalk_sketch_max(d) <= chalk_sketch_max(now));
    chalk_sketch_merge(sent, d);
    chalk_sketch_merge(before, d);
    chalk_sketch_free(d);
  }
  assert_int_equal(chalk_sketch_count(sent), chalk_sketch_count(now));
  chalk_bucket a, b;
  uint32_t i = 0;
  for (; chalk_sketch_bucket(now, i, &a); i++) {
    assert_int_equal(chalk_sketch_bucket(sent, i, &b), 1);
    assert_true(a.lower == b.lower && a.upper == b.upper);
    assert_int_equal(a.count, b.count);
  }
  assert_int_equal(chalk_sketch_bucket(sent, i, &b), 0);
  chalk_sketch_free(now), chalk_sketch_free(before), chalk_sketch_free(sent);
}

/* A sketch is NULL if there was no memory for it. */
static void test_merging_with_null_is_refused(void **state) {
  (void)state;
  chalk_sketch *k = chalk_sketch_new(0.001, 512);
  assert_int_equal(chalk_sketch_add(k, 5, 1), CHALK_OK);
  assert_int_equal(chalk_sketch_merge(NULL, k), CHALK_EMEMORY);
  assert_int_equal(chalk_sketch_merge(k, NULL), CHALK_EMEMORY);
  assert_int_equal(chalk_sketch_count(k), 1);
  chalk_sketch_free(k);
}

static void test_arguments_out_of_range_are_refused(void **state) {
  (void)state;
  static const double errors[] = {0, 0.00009, 0.51, -0.001, NAN, INFINITY};
  static const uint32_t buckets[] = {0, 7, 8193, UINT32_MAX};
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) assert_null(chalk_sketch_new(errors[i], 512));
  for (size_t i = 0; i < sizeof buckets / sizeof *buckets; i++) assert_null(chalk_sketch_new(0.001, buckets[i]));
  chalk_sketch *finest = chalk_sketch_new(0.0001, 8192), *coarsest = chalk_sketch_new(0.5, 8);
  assert_true(chalk_sketch_error(finest) <= 0.0001 && chalk_sketch_error(coarsest) <= 0.5);
  chalk_sketch_free(finest), chalk_sketch_free(coarsest);
}

/* The sketches have both signs, and one has to become coarser. Each allocation of the merge fails once. */
static void test_a_merge_without_memory_changes_nothing(void **state) {
  (void)state;
  chalk_sketch *into = chalk_sketch_new(0.001, 512), *from = chalk_sketch_new(0.1, 512);
  for (int i = 1; i <= 100; i++) {
    assert_int_equal(chalk_sketch_add(into, i, 1), CHALK_OK);
    assert_int_equal(chalk_sketch_add(from, i % 2 ? i : -i, 1), CHALK_OK);
  }
  int rc, failures = 0;
  for (;; failures++) {
    chalk_sketch *before = chalk_sketch_new(0.001, 512);
    assert_int_equal(chalk_sketch_merge(before, into), CHALK_OK);
    failing_after = failures;
    rc = chalk_sketch_merge(into, from);
    failing_after = -1;
    chalk_sketch *d = rc == CHALK_OK ? NULL : sketch_difference(into, before);
    if (d) assert_int_equal(chalk_sketch_count(d), 0);
    if (d) assert_int_equal(chalk_sketch_count(into), 100);
    if (d) assert_int_equal(chalk_sketch_scale(into), chalk_sketch_scale(before));
    if (d) assert_int_equal(into->positive.n + into->negative.n, before->positive.n + before->negative.n);
    chalk_sketch_free(before), chalk_sketch_free(d);
    if (rc == CHALK_OK) break;
    assert_int_equal(rc, CHALK_EMEMORY);
  }
  assert_true(failures >= 2);
  assert_int_equal(chalk_sketch_count(into), 200);
  check_buckets(into);
  chalk_sketch_free(into), chalk_sketch_free(from);
}

static void test_merging_a_sketch_with_itself_doubles_the_counts(void **state) {
  (void)state;
  chalk_sketch *k = chalk_sketch_new(0.001, 512);
  for (int i = -5; i <= 5; i++) assert_int_equal(chalk_sketch_add(k, i, 3), CHALK_OK);
  assert_int_equal(chalk_sketch_merge(k, k), CHALK_OK);
  assert_int_equal(chalk_sketch_count(k), 66);
  check_buckets(k);
  chalk_bucket b;
  for (uint32_t i = 0; chalk_sketch_bucket(k, i, &b); i++) assert_int_equal(b.count, 6);
  chalk_sketch_free(k);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_quantiles_keep_to_the_reported_error),
      cmocka_unit_test(test_a_bucket_includes_its_upper_bound),
      cmocka_unit_test(test_values_lie_in_their_buckets),
      cmocka_unit_test(test_index_is_the_logarithm),
      cmocka_unit_test(test_initial_error_holds_until_the_first_collapse),
      cmocka_unit_test(test_a_small_sketch_takes_any_double),
      cmocka_unit_test(test_quantiles_across_the_whole_range),
      cmocka_unit_test(test_the_error_holds_for_every_magnitude_and_scale),
      cmocka_unit_test(test_an_empty_sketch_has_no_quantiles),
      cmocka_unit_test(test_differences_add_up),
      cmocka_unit_test(test_merging_with_null_is_refused),
      cmocka_unit_test(test_arguments_out_of_range_are_refused),
      cmocka_unit_test(test_a_merge_without_memory_changes_nothing),
      cmocka_unit_test(test_merging_a_sketch_with_itself_doubles_the_counts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
