/*
 * What a user loses when these fail: a C host that describes a family wrongly crashes, or gets lines of another metric.
 * What the lines contain is tested from Lua, in spec/exporter/statsd_spec.lua.
 */

#include "common.h"

static const uint32_t value_most[] = {198};
static const char *const labels[] = {"a"}, *const le_tags[] = {"le:0.01", "le:+Inf"}, *const suffixes[] = {".a", ".b"};

typedef struct bed {
  chalk_segment *g;
  chalk_writer *w;
  chalk_snapshot *s;
  chalk_statsd *k;
  chalk_statsd_family family;
  uint32_t le_index[2];
} bed;

static void begin(bed *b) {
  *b = (bed){.g = open_segment(NULL), .k = chalk_statsd_new(1000), .le_index = {0, 5}};
  b->w = open_writer(b->g);
  chalk_series *s = bind(b->w, define(b->w, "lat", CHALK_HISTOGRAM, 1, 5), "x");
  for (int i = 1; i <= 3; i++) assert_int_equal(chalk_record(s, 0.001), CHALK_OK);
  free(s);
  b->s = take(b->g, 0);
  b->family = (chalk_statsd_family){.name = "lat",
                                    .labels = labels,
                                    .value_most = value_most,
                                    .absent = "none",
                                    .n_labels = 1,
                                    .tags = "",
                                    .tail = "",
                                    .timestamp = "",
                                    .type = "d",
                                    .factor = 1,
                                    .max_weight = 2,
                                    .le_tags = le_tags,
                                    .le_suffixes = suffixes,
                                    .le_index = b->le_index,
                                    .n_le = 2};
}

static void end(bed *b) {
  chalk_snapshot_free(b->s);
  chalk_statsd_free(b->k);
  chalk_writer_close(b->w);
  chalk_segment_close(b->g);
}

/* Packs the lines of the entries before `last`. Returns the code. */
static int fill(bed *b, uint32_t last, char *lines) {
  uint32_t next = 0, size;
  chalk_statsd_forget(b->k);
  int rc = chalk_statsd_fill(b->k, &b->family, NULL, b->s, &next, last);
  const char *packet = chalk_statsd_packet(b->k, &size);
  memcpy(lines, packet, size);
  lines[size] = 0;
  return rc;
}

static void test_numbers_of_a_family_have_ranges(void **state) {
  (void)state;
  bed b;
  char lines[1001];
  begin(&b);
  assert_int_equal(fill(&b, 1, lines), CHALK_OK);
  const chalk_statsd_family good = b.family;
  b.family.n_labels = CHALK_TAGS + 1;
  assert_int_equal(fill(&b, 1, lines), CHALK_EINVALID);
  b.family = good, b.family.n_le = CHALK_LES + 2;
  assert_int_equal(fill(&b, 1, lines), CHALK_EINVALID);
  b.family = good, b.le_index[1] = CHALK_LES + 1;
  assert_int_equal(fill(&b, 1, lines), CHALK_EINVALID);
  b.le_index[1] = 5, b.family.mode = CHALK_STATSD_RAW + 1;
  assert_int_equal(fill(&b, 1, lines), CHALK_EINVALID);
  b.family = good, b.family.max_weight = 0;
  assert_int_equal(fill(&b, 1, lines), CHALK_EINVALID);
  b.family.max_weight = CHALK_STATSD_WEIGHT + 1;
  assert_int_equal(fill(&b, 1, lines), CHALK_EINVALID);
  assert_null(chalk_statsd_new(0));
  end(&b);
}

/* The snapshot has one entry, and a `last` beyond it means its end. */
static void test_entries_end_with_the_snapshot(void **state) {
  (void)state;
  bed b;
  char lines[1001], more[1001];
  begin(&b);
  b.family.mode = CHALK_STATSD_BUCKETS;
  assert_int_equal(fill(&b, 1, lines), CHALK_OK);
  assert_string_equal(lines, "lat:3|c|#a:x,le:0.01\nlat:3|c|#a:x,le:+Inf\n");
  assert_int_equal(fill(&b, UINT32_MAX, more), CHALK_OK);
  assert_string_equal(lines, more);
  end(&b);
}

/* A metric's number may have gone to a metric with fewer bounds, which must not get counts of the entry before it. */
static void test_bounds_that_are_not_the_metrics_are_left_out(void **state) {
  (void)state;
  bed b;
  char lines[1001];
  begin(&b);
  chalk_series *s = bind(b.w, define(b.w, "few", CHALK_HISTOGRAM, 1, 1), "y");
  assert_int_equal(chalk_record(s, 0.001), CHALK_OK);
  free(s);
  chalk_snapshot_free(b.s);
  b.s = take(b.g, 0);
  b.family.mode = CHALK_STATSD_BUCKETS;
  assert_int_equal(fill(&b, 2, lines), CHALK_OK);
  assert_string_equal(lines, "lat:3|c|#a:x,le:0.01\nlat:3|c|#a:x,le:+Inf\nlat:1|c|#a:y,le:0.01\n");
  end(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_numbers_of_a_family_have_ranges),
      cmocka_unit_test(test_entries_end_with_the_snapshot),
      cmocka_unit_test(test_bounds_that_are_not_the_metrics_are_left_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
