/*
 * What a user loses when these fail: Prometheus refuses a scrape, or lines between two chunks of an answer are missing.
 */

#include "common.h"

static const char *const LABELS[] = {"endpoint", "status"};

static chalk_family family_of(const char *name, uint32_t labels) {
  return (chalk_family){.sample = name, .constant = "", .labels = LABELS, .n_labels = labels};
}

/* All lines of the snapshot's only metric, rendered chunk by chunk into a buffer of `chunk` bytes. */
static char *render(chalk_segment *g, const chalk_family *f, size_t chunk) {
  static char all[1 << 20];
  chalk_snapshot *s = take(g, 0);
  uint32_t n, next = 0;
  size_t at = 0;
  chalk_snapshot_entries(s, &n);
  char *buffer = malloc(chunk);
  while (next < n) {
    size_t got = chalk_snapshot_render(s, f, &next, n, buffer, chunk);
    assert_true(got <= chunk && at + got < sizeof all);
    memcpy(all + at, buffer, got);
    at += got;
  }
  all[at] = 0;
  free(buffer);
  chalk_snapshot_free(s);
  return all;
}

static void add(chalk_writer *w, int metric, const char *a, const char *b, double n) {
  const char *values[2] = {a, b};
  chalk_series *s = chalk_series_new(w, (uint32_t)metric, values, (size_t[]){strlen(a), strlen(b)});
  assert_non_null(s);
  assert_true(chalk_add(s, n) >= CHALK_OK);
  free(s);
}

static void test_lines_of_counts(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 2, 0);
  add(w, metric, "/a", "ok", 1);
  add(w, metric, "/b\"\\\n", "", 9007199254740992.0);
  add(w, metric, "", "", 0);
  chalk_family f = family_of("requests_total", 2);
  const char *expected =
      "requests_total{endpoint=\"/a\",status=\"ok\"} 1\n"
      "requests_total{endpoint=\"/b\\\"\\\\\\n\"} 9007199254740992\n"
      "requests_total 0\n";
  assert_string_equal(render(g, &f, 65536), expected);
  f.constant = "env=\"prod\"";
  assert_string_equal(render(g, &f, 65536),
                      "requests_total{env=\"prod\",endpoint=\"/a\",status=\"ok\"} 1\n"
                      "requests_total{env=\"prod\",endpoint=\"/b\\\"\\\\\\n\"} 9007199254740992\n"
                      "requests_total{env=\"prod\"} 0\n");
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_lines_of_histograms(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  chalk_series *s = bind(w, define(w, "latency", CHALK_HISTOGRAM, 1, 5), "/a");
  chalk_record(s, 0.1), chalk_record(s, 0.25), chalk_record(s, 1000);
  static const char *const le[] = {"0.1", "1.0"};
  static const uint32_t indexes[] = {1, 2};
  chalk_family f = family_of(NULL, 1);
  f.bucket = "latency_bucket", f.sum = "latency_sum", f.count = "latency_count";
  f.le = le, f.le_index = indexes, f.n_le = 2;
  assert_string_equal(render(g, &f, 65536),
                      "latency_bucket{endpoint=\"/a\",le=\"0.1\"} 1\n"
                      "latency_bucket{endpoint=\"/a\",le=\"1.0\"} 2\n"
                      "latency_bucket{endpoint=\"/a\",le=\"+Inf\"} 3\n"
                      "latency_sum{endpoint=\"/a\"} 1000.35\n"
                      "latency_count{endpoint=\"/a\"} 3\n");
  free(s);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_an_untagged_metric_has_no_braces(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  chalk_series *s = bind(w, define(w, "load", CHALK_GAUGE, 0, 0), NULL);
  chalk_family f = family_of("load", 0);
  assert_string_equal(render(g, &f, 65536), ""); /* never set: nothing to show */
  chalk_set(s, 0);
  assert_string_equal(render(g, &f, 65536), "load 0\n");
  chalk_set(s, -1.5);
  assert_string_equal(render(g, &f, 65536), "load -1.5\n");
  chalk_set(s, NAN);
  assert_string_equal(render(g, &f, 65536), "load NaN\n");
  free(s);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* A small buffer gets whole entries. All chunks together are the same text that a large buffer gets. */
static void test_chunks_make_the_whole(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 2, 0);
  for (int i = 0; i < 500; i++) {
    char tag[64];
    snprintf(tag, sizeof tag, "%.*s%d", i % 40,
             "\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"", i);
    add(w, metric, tag, "ok", i);
  }
  chalk_family f = family_of("requests_total", 2);
  char *whole = strdup(render(g, &f, 1 << 20));
  int lines = 0;
  for (char *p = whole; *p; p++) lines += *p == '\n';
  assert_int_equal(lines, 500);
  for (size_t chunk = 512; chunk < 4096; chunk += 101) assert_string_equal(render(g, &f, chunk), whole);
  free(whole);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* The bounds from the first index on that the metric does not have are left out. */
static void test_bounds_that_are_not_the_metrics_are_left_out(void **state) {
  (void)state;
  static const char *const les[] = {"0.01", "7", "100"};
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  chalk_series *h = bind(w, define(w, "h", CHALK_HISTOGRAM, 0, 5), NULL);
  assert_int_equal(chalk_record(h, 1), CHALK_OK);
  static const uint32_t beyond[] = {5, CHALK_LES + 1, UINT32_MAX};
  for (int i = 0; i < 3; i++) {
    const uint32_t indexes[] = {0, beyond[i], 4};
    chalk_family f = {.bucket = "h_bucket", .constant = "", .le = les, .le_index = indexes, .n_le = 3};
    assert_string_equal(render(g, &f, 4096), "h_bucket{le=\"0.01\"} 0\nh_bucket{le=\"+Inf\"} 1\n");
  }
  free(h);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_lines_of_counts),
      cmocka_unit_test(test_lines_of_histograms),
      cmocka_unit_test(test_an_untagged_metric_has_no_braces),
      cmocka_unit_test(test_bounds_that_are_not_the_metrics_are_left_out),
      cmocka_unit_test(test_chunks_make_the_whole),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
