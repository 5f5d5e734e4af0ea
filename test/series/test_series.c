/* What is lost when these fail: two series are exported as one, or one as two; a limit stops the application instead of
   folding; or a dropped series is still exported, or its number is used again too early. */

#include "common.h"

#include "shm/heap.h"
#include "series/key.h"
#include "series/series.h"

static int64_t value_of(chalk_writer *w, int metric, const char *tag) {
  chalk_series *s = bind(w, metric, tag);
  int64_t value = (int64_t)chalk_value(s);
  free(s);
  return value;
}

static void test_a_series_for_each_key(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int a = define(w, "a", CHALK_COUNT, 2, 0), b = define(w, "b", CHALK_COUNT, 2, 0);
  const char *values[2] = {"x", "yz"}, *moved[2] = {"xy", "z"};
  size_t sizes[2] = {1, 2}, moved_sizes[2] = {2, 1};
  assert_int_equal(chalk_bind(w, (uint32_t)a, values, sizes), CHALK_OK);
  uint32_t first = chalk_scratch(w)->series;
  assert_int_equal(chalk_bind(w, (uint32_t)a, moved, moved_sizes), CHALK_OK);
  assert_int_not_equal(chalk_scratch(w)->series, first);
  assert_int_equal(chalk_bind(w, (uint32_t)b, values, sizes), CHALK_OK);
  assert_int_not_equal(chalk_scratch(w)->series, first);
  assert_int_equal(chalk_bind(w, (uint32_t)a, values, sizes), CHALK_OK);
  assert_int_equal(chalk_scratch(w)->series, first);
  assert_int_equal(info_of(g).series, 3);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* Tag values that exporters cannot tell apart are one series. */
static void test_keys_are_normalised(void **state) {
  (void)state;
  char out[KEY_MOST], same[KEY_MOST];
  const char *invalid[1] = {"a\xff"}, *replaced[1] = {"a\xef\xbf\xbd"}, *nul[1] = {"a\0"};
  assert_int_equal(key_encode(out, invalid, (size_t[]){2}, 1), key_encode(same, replaced, (size_t[]){4}, 1));
  assert_memory_equal(out, same, 6);
  assert_int_equal(key_encode(out, nul, (size_t[]){2}, 1), 6);
  assert_memory_equal(out, same, 6);
  const char *absent[1] = {NULL};
  assert_int_equal(key_encode(out, absent, (size_t[]){0}, 1), 2);
  assert_memory_equal(out, "\0\0", 2);
}

static void test_long_values_stay_different_when_cut(void **state) {
  (void)state;
  enum { SIZE = 65536 };
  char *a = malloc(SIZE), *b = malloc(SIZE), x[KEY_MOST], y[KEY_MOST];
  for (size_t i = 0; i + 3 <= SIZE; i += 3) memcpy(a + i, "\xe2\x82\xac", 3);
  a[SIZE - 1] = '!';
  memcpy(b, a, SIZE);
  b[SIZE - 2] = '?';
  uint32_t n = key_encode(x, (const char *const[]){a}, (size_t[]){SIZE}, 1);
  assert_true(n <= 2 + CHALK_VALUE);
  assert_int_equal(key_encode(y, (const char *const[]){b}, (size_t[]){SIZE}, 1), n);
  assert_memory_not_equal(x, y, n);
  /* The cut value is valid UTF-8: whole characters, then a tilde and the hash. */
  assert_int_equal((n - 2 - 17) % 3, 0);
  assert_int_equal(x[n - 17], '~');
  for (uint32_t size = CHALK_VALUE - 2; size <= CHALK_VALUE + 2; size++) {
    n = key_encode(x, (const char *const[]){a}, (size_t[]){size / 3 * 3}, 1);
    assert_true(n <= 2 + CHALK_VALUE);
  }
  free(a), free(b);
}

static void test_a_limit_folds_new_series(void **state) {
  (void)state;
  chalk_options o = {.max_series = 100};
  chalk_segment *g = open_segment(&o);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  for (int i = 0; i < 1000; i++) {
    char tag[16];
    snprintf(tag, sizeof tag, "%d", i);
    chalk_series *s = bind(w, metric, tag);
    assert_true(chalk_add(s, 1) >= CHALK_OK);
    free(s);
  }
  assert_int_equal(info_of(g).series, 100);
  assert_int_equal(info_of(g).folded, 900);
  assert_int_equal(chalk_metric_folded(g, (uint32_t)metric), 900);
  assert_int_equal(chalk_metric_folded(g, (uint32_t)metric), 0);
  assert_int_equal(total_of(g, metric), 1000);
  assert_int_equal(value_of(w, metric, KEY_OVERFLOW), 900);
  /* Below the limit again, new series are created, and the overflow series keeps its counts. */
  assert_int_equal(chalk_clear(w, (uint32_t)metric), 100);
  assert_int_equal(value_of(w, metric, "new"), 0);
  assert_int_equal(info_of(g).series, 1);
  assert_int_equal(value_of(w, metric, KEY_OVERFLOW), 900);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* Most handles are kept for the life of a program. One that was folded gets its own series once the limit is raised. */
static void test_a_raised_limit_reaches_held_handles(void **state) {
  (void)state;
  chalk_options few = {.max_series = 1}, more = {.max_series = 10};
  chalk_segment *g = open_segment(&few);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  chalk_series *a = bind(w, metric, "a"), *b = bind(w, metric, "b");
  assert_int_equal(chalk_add(b, 1), CHALK_OK);
  assert_true(a->series >= METRICS && b->series < METRICS);
  assert_int_equal(chalk_segment_configure(g, &more, NULL), CHALK_OK);
  assert_true(chalk_add(b, 1) >= CHALK_OK);
  assert_true(b->series >= METRICS && chalk_value(b) == 1);
  assert_int_equal(value_of(w, metric, KEY_OVERFLOW), 1);
  /* Every process that starts configures the limits. If they have not changed, no other process has to bind again. */
  assert_int_equal(chalk_segment_configure(g, &more, NULL), CHALK_OK);
  assert_true(*b->shared + *b->own == b->epoch);
  free(a), free(b);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_a_metrics_raised_limit_reaches_held_handles(void **state) {
  (void)state;
  static const uint32_t limits[] = {2, 3, 0};
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define_limited(w, "m", CHALK_COUNT, 1);
  chalk_series *first = bind(w, metric, "first");
  for (int i = 0; i < 3; i++) {
    chalk_series *s = bind(w, metric, (const char *[]){"a", "b", "c"}[i]);
    chalk_add(s, 1);
    assert_true(s->series < METRICS);
    assert_int_equal(define_limited(w, "m", CHALK_COUNT, limits[i]), metric);
    chalk_add(s, 1);
    assert_true(s->series >= METRICS && chalk_value(s) == 1);
    assert_int_equal(define_limited(w, "m", CHALK_COUNT, limits[i]), metric);
    assert_true(*s->shared + *s->own == s->epoch);
    free(s);
  }
  free(first);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void fill_memory(chalk_segment *g) {
  for (uint64_t size = 4096; size >= 16; size /= 2) {
    while (heap_take(g, size)) {
    }
  }
}

static void test_freed_memory_reaches_held_handles(void **state) {
  (void)state;
  chalk_options less = {.memory_limit = 4 << 20}, more = {.memory_limit = 8 << 20};
  chalk_segment *g = open_segment(&more);
  assert_int_equal(chalk_segment_configure(g, &less, NULL), CHALK_OK);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  chalk_series *a = bind(w, metric, "a");
  fill_memory(g);
  chalk_series *b = bind(w, metric, "b"), *c = bind(w, metric, "c");
  assert_true(b->series < METRICS && c->series < METRICS);
  /* The memory of a dropped series is free once it is reclaimed, some time after the drop. */
  assert_int_equal(drop(w, metric, "a"), 1);
  chalk_add(b, 1), chalk_add(c, 1);
  assert_true(b->series < METRICS);
  for (int i = 1; i < 4; i++) sweep(g, 1000 * i, 0);
  chalk_add(b, 1), chalk_add(c, 1);
  assert_true(b->series >= METRICS && c->series < METRICS);
  assert_int_equal(chalk_segment_configure(g, &more, NULL), CHALK_OK);
  chalk_add(b, 1), chalk_add(c, 1);
  assert_true(c->series >= METRICS);
  assert_int_equal(total_of(g, metric), 6);
  free(a), free(b), free(c);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_dropping_moves_the_epoch(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  chalk_series *a = bind(w, metric, "a"), *b = bind(w, metric, "b");
  chalk_add(a, 5), chalk_add(b, 7);
  assert_int_equal(drop(w, metric, "none"), 0);
  assert_true(*a->shared + *a->own == a->epoch);
  assert_int_equal(drop(w, metric, "a"), 1);
  assert_true(*a->shared + *a->own != a->epoch);
  assert_int_equal(total_of(g, metric), 7);
  assert_true(chalk_add(a, 1) >= CHALK_OK);
  assert_true(chalk_value(a) == 1);
  assert_true(chalk_value(b) == 7);
  assert_int_equal(total_of(g, metric), 8);
  free(a), free(b);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_a_number_is_not_reused_before_all_have_seen_the_drop(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g), *other = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  define(other, "requests", CHALK_COUNT, 1, 0);
  chalk_series *a = bind(w, metric, "a"), *b = bind(other, metric, "b");
  chalk_add(a, 1), chalk_add(b, 1);
  drop(other, metric, "a");
  for (int i = 0; i < 3; i++) sweep(g, 1000 * i, 0);
  assert_int_equal(info_of(g).quarantined, 1);
  chalk_writer_close(w);
  sweep(g, 9000, 0);
  assert_int_equal(info_of(g).quarantined, 0);
  free(a), free(b);
  chalk_writer_close(other);
  chalk_segment_close(g);
}

static void test_idle_series_leave(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), gauge = define(w, "size", CHALK_GAUGE, 1, 0);
  int latency = define(w, "latency", CHALK_HISTOGRAM, 1, 0);
  chalk_series *busy = bind(w, count, "busy"), *idle = bind(w, count, "idle"), *unused = bind(w, count, "unused");
  chalk_series *kept = bind(w, gauge, "kept"), *left = bind(w, gauge, "left"), *h = bind(w, latency, "idle");
  chalk_add(idle, 1), chalk_set(left, 3), chalk_record(h, 1);
  for (int t = 1; t <= 10; t++) {
    chalk_add(busy, 1);
    chalk_set(kept, 3); /* setting the same value is a record, too */
    sweep(g, 100 + t, 5);
    chalk_writer_tick(w);
  }
  assert_int_equal(info_of(g).series, 3);
  assert_true(chalk_value(busy) == 10);
  assert_true(chalk_value(kept) == 3);
  assert_int_equal(value_of(w, count, "idle"), 0);
  free(busy), free(idle), free(unused), free(kept), free(left), free(h);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* However many series come and go, they take the memory of those that exist at a time. */
static void test_series_that_come_and_go_take_no_more_memory(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), latency = define(w, "latency", CHALK_HISTOGRAM, 1, 5);
  uint64_t memory = 0;
  for (int round = 0; round < 200; round++) {
    for (int i = 0; i < 50; i++) {
      char tag[32];
      snprintf(tag, sizeof tag, "%08d", round * 50 + i);
      chalk_series *s = bind(w, count, tag), *h = bind(w, latency, tag);
      chalk_add(s, 1);
      for (int k = 1; k < 40; k++) chalk_record(h, k);
      free(s), free(h);
    }
    assert_int_equal(chalk_clear(w, (uint32_t)count), 50);
    assert_int_equal(chalk_clear(w, (uint32_t)latency), 50);
    chalk_writer_tick(w);
    sweep(g, 1000.0 * round, 0);
    assert_int_equal(info_of(g).quarantined, 0);
    if (round == 2) memory = info_of(g).memory;
  }
  assert_int_equal(info_of(g).memory, memory);
  assert_int_equal(info_of(g).series, 0);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* A count series with a key of two tags takes at most 208 bytes. */
static void test_memory_of_a_count(void **state) {
  (void)state;
  enum { N = 50000 };
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 2, 0);
  uint64_t before = info_of(g).memory;
  for (int i = 0; i < N; i++) {
    char endpoint[32];
    snprintf(endpoint, sizeof endpoint, "/api/v1/endpoint/%05d", i);
    const char *values[2] = {endpoint, i & 1 ? "success" : "failure"};
    assert_int_equal(chalk_bind(w, (uint32_t)metric, values, (size_t[]){strlen(endpoint), 7}), CHALK_OK);
  }
  double each = (double)(info_of(g).memory - before) / N;
  print_message("a count series: %.1f bytes\n", each);
  assert_true(each <= 208);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_definitions_supersede_and_leave(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int old = define(w, "requests", CHALK_COUNT, 1, 0);
  chalk_series *s = bind(w, old, "a");
  chalk_add(s, 5);
  chalk_generation(g, 1);
  chalk_writer *next = open_writer(g);
  int other = define(next, "requests", CHALK_GAUGE, 1, 0);
  assert_int_not_equal(old, other);
  assert_int_equal(define(next, "requests", CHALK_GAUGE, 1, 0), other);
  assert_int_equal(total_of(g, old), 0);
  sweep(g, 1, 0);
  assert_int_equal(info_of(g).metrics, 2);
  chalk_writer_close(w);
  for (int i = 0; i < 4; i++) sweep(g, 1000 * i, 0);
  assert_int_equal(info_of(g).metrics, 1);
  char blob[16];
  assert_int_equal(chalk_metric_blob(g, (uint32_t)old, blob, sizeof blob), 0);
  assert_int_equal(chalk_metric_blob(g, (uint32_t)other, blob, sizeof blob), sizeof "requests" - 1);
  assert_memory_equal(blob, "requests", sizeof "requests" - 1);
  free(s);
  chalk_writer_close(next);
  chalk_segment_close(g);
}

/* A reload that fails after it loaded its definitions must not hide a metric that is still recorded into. */
static void test_an_unused_definition_gives_way_to_the_one_in_use(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int old = define(w, "requests", CHALK_COUNT, 1, 0);
  chalk_series *s = bind(w, old, "a");
  chalk_add(s, 5);
  chalk_writer *next = open_writer(g);
  int other = define(next, "requests", CHALK_GAUGE, 1, 0);
  sweep(g, 1, 0);
  assert_int_equal(chalk_metric_shown(g, (uint32_t)old), 0);
  chalk_writer_close(next);
  for (int i = 0; i < 4; i++) sweep(g, 1000 * i, 0);
  assert_int_equal(chalk_metric_shown(g, (uint32_t)old), 1);
  assert_int_equal(chalk_metric_shown(g, (uint32_t)other), 0);
  assert_int_equal(info_of(g).metrics, 1);
  assert_int_equal(total_of(g, old), 5);
  assert_int_equal(chalk_add(s, 1), CHALK_OK);
  assert_int_equal(total_of(g, old), 6);
  free(s);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_an_unused_definition_gives_way_to_the_one_in_use),
      cmocka_unit_test(test_a_series_for_each_key),
      cmocka_unit_test(test_keys_are_normalised),
      cmocka_unit_test(test_long_values_stay_different_when_cut),
      cmocka_unit_test(test_a_limit_folds_new_series),
      cmocka_unit_test(test_a_raised_limit_reaches_held_handles),
      cmocka_unit_test(test_a_metrics_raised_limit_reaches_held_handles),
      cmocka_unit_test(test_freed_memory_reaches_held_handles),
      cmocka_unit_test(test_dropping_moves_the_epoch),
      cmocka_unit_test(test_a_number_is_not_reused_before_all_have_seen_the_drop),
      cmocka_unit_test(test_idle_series_leave),
      cmocka_unit_test(test_series_that_come_and_go_take_no_more_memory),
      cmocka_unit_test(test_memory_of_a_count),
      cmocka_unit_test(test_definitions_supersede_and_leave),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
