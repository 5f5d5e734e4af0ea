/*
 * What a user loses when these fail: a scrape shows numbers that were never recorded, misses series, shows totals that
 * fall, or leaks memory.
 */

#include "common.h"

/* With CHALK_UNSET they are entries with the value 0. An overflow series without records is never an entry. */
static void test_gauges_that_were_never_set(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int last = define(w, "last", CHALK_GAUGE, 1, 0);
  chalk_series *unset = bind(w, last, "a"), *set = bind(w, last, "b");
  chalk_series *plain = bind(w, define(w, "plain", CHALK_GAUGE, 0, 0), NULL);
  chalk_set(set, 7);
  uint32_t n;
  chalk_snapshot *s = take(g, 0);
  chalk_snapshot_entries(s, &n);
  assert_int_equal(n, 1);
  chalk_snapshot_free(s);
  s = take(g, CHALK_UNSET);
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  assert_int_equal(n, 3);
  assert_true(entries[0].value == 0);
  assert_true(entries[1].value == 7);
  assert_true(entries[2].value == 0);
  chalk_snapshot_free(s);
  assert_int_equal(drop(w, last, "a"), 1);
  s = take(g, CHALK_UNSET | CHALK_DROPPED);
  chalk_snapshot_entries(s, &n);
  assert_int_equal(n, 2);
  chalk_snapshot_free(s);
  free(unset), free(set), free(plain);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_the_series_of_a_metric_are_adjacent(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metrics[4];
  for (int m = 0; m < 4; m++) {
    char name[8];
    snprintf(name, sizeof name, "m%d", m);
    metrics[m] = define(w, name, CHALK_COUNT, 1, 0);
  }
  for (int i = 0; i < 100; i++) {
    char tag[8];
    snprintf(tag, sizeof tag, "%d", i);
    chalk_series *s = bind(w, metrics[i * 7 % 4], tag);
    chalk_add(s, i);
    free(s);
  }
  chalk_snapshot *s = take(g, 0);
  uint32_t n;
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  assert_int_equal(n, 100);
  for (uint32_t i = 1; i < n; i++) {
    assert_true(entries[i].metric > entries[i - 1].metric ||
                (entries[i].metric == entries[i - 1].metric && entries[i].series > entries[i - 1].series));
    char key[64];
    assert_true(chalk_snapshot_key(s, i, key, sizeof key) > 2);
    assert_int_equal(chalk_snapshot_key(s, i, key, 1), 0);
  }
  chalk_snapshot_free(s);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static double value_of(chalk_segment *g, int metric, bool *any) {
  chalk_snapshot *s = take(g, 0);
  uint32_t n;
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  double value = NAN;
  *any = false;
  for (uint32_t i = 0; i < n; i++) {
    if (entries[i].metric == (uint32_t)metric) value = entries[i].value, *any = true;
  }
  chalk_snapshot_free(s);
  return value;
}

/* A gauge combines what each living process has set. Values of processes that died no longer count. */
static void test_gauges_across_processes(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  static const uint32_t across[] = {CHALK_LAST, CHALK_SUM, CHALK_MIN, CHALK_MAX};
  static const double living[] = {30, 60, 10, 30}, remaining[] = {30, 10, 10, 10};
  int metrics[4], ready[2], go[2];
  char byte = 0;
  for (int i = 0; i < 4; i++) {
    char name[8];
    snprintf(name, sizeof name, "g%d", i);
    metrics[i] = define_across(w, name, across[i]);
  }
  assert_int_equal(pipe(ready) + pipe(go), 0);
  pid_t pids[2];
  for (int p = 0; p < 3; p++) {
    if (p > 0 && (pids[p - 1] = fork_child()) != 0) {
      assert_int_equal(read(ready[0], &byte, 1), 1);
      continue;
    }
    for (int i = 0; i < 4; i++) {
      chalk_series *s = bind(w, metrics[i], "x");
      chalk_set(s, 10 * (p + 1));
      if (p > 0) chalk_add(s, 1), chalk_add(s, -1);
      free(s);
    }
    if (p == 0) continue;
    CHILD_CHECK(write(ready[1], &byte, 1) == 1);
    pause();
  }
  bool any;
  for (int i = 0; i < 4; i++) assert_true(value_of(g, metrics[i], &any) == living[i] && any);
  kill_child(pids[0]), kill_child(pids[1]);
  for (int i = 0; i < 4; i++) assert_true(value_of(g, metrics[i], &any) == remaining[i] && any);
  /* A writer that takes a dead process's slot has set nothing yet. */
  chalk_writer *next = open_writer(g);
  assert_int_equal(chalk_writer_slot(next), 2);
  for (int i = 0; i < 4; i++) assert_true(value_of(g, metrics[i], &any) == remaining[i] && any);
  for (int i = 1; i < 4; i++) define_across(next, (char[]){'g', (char)('0' + i), 0}, across[i]);
  chalk_series *s = bind(next, metrics[1], "x");
  assert_true(value_of(g, metrics[1], &any) == 10);
  chalk_set(s, 5);
  assert_true(value_of(g, metrics[1], &any) == 15);
  chalk_writer_close(next);
  assert_true(value_of(g, metrics[1], &any) == 10);
  chalk_writer_close(w);
  value_of(g, metrics[1], &any);
  assert_false(any);
  assert_true(value_of(g, metrics[0], &any) == 30 && any);
  free(s);
  close(ready[0]), close(ready[1]), close(go[0]), close(go[1]);
  chalk_segment_close(g);
}

/* While other processes record, totals never fall from one snapshot to the next, and a histogram's counts agree. */
static void test_scrapes_never_go_backwards(void **state) {
  (void)state;
  enum { CHILDREN = 3, EACH = 300000 };
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), latency = define(w, "latency", CHALK_HISTOGRAM, 1, 5);
  pid_t pids[CHILDREN];
  for (int i = 0; i < CHILDREN; i++) {
    if ((pids[i] = fork_child()) != 0) continue;
    chalk_series *s = bind(w, count, "x"), *h = bind(w, latency, "x");
    for (int k = 0; k < EACH; k++) CHILD_CHECK(chalk_add(s, 1) >= CHALK_OK && chalk_record(h, k % 200) >= CHALK_OK);
    _exit(0);
  }
  int64_t last[2] = {0, 0};
  for (int running = CHILDREN; running > 0;) {
    chalk_snapshot *s = take(g, 0);
    uint32_t n;
    const chalk_entry *entries = chalk_snapshot_entries(s, &n);
    for (uint32_t i = 0; i < n; i++) {
      int which = entries[i].metric == (uint32_t)latency;
      assert_true(entries[i].total >= last[which]);
      last[which] = entries[i].total;
      if (!which) continue;
      double bounds[CHALK_LES + 1];
      uint64_t counts[CHALK_LES + 1];
      assert_int_equal(chalk_snapshot_les(s, i, bounds, counts), 6);
      for (int k = 1; k < 6; k++) assert_true(counts[k] >= counts[k - 1]);
      assert_true((int64_t)counts[5] >= entries[i].total);
    }
    chalk_snapshot_free(s);
    int status;
    if (waitpid(-1, &status, WNOHANG) > 0) {
      assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
      running--;
    }
  }
  assert_int_equal(total_of(g, count), CHILDREN * EACH);
  assert_int_equal(total_of(g, latency), CHILDREN * EACH);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* A snapshot in one process is right while the holder in another process drops and reuses series. */
static void test_scrapes_beside_a_sweep(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), load = define_across(w, "load", CHALK_SUM);
  pid_t pid = fork_child();
  if (pid == 0) {
    for (int round = 0;; round++) {
      for (int i = 0; i < 10; i++) {
        /* The value of each series is its tag, so a reader can tell whether the two belong together. */
        char tag[32];
        snprintf(tag, sizeof tag, "%0*d", 1 + round % 25, i + 1);
        chalk_series *s = bind(w, count, tag), *u = bind(w, load, tag);
        chalk_add(s, i + 1), chalk_set(u, i + 1);
        free(s), free(u);
      }
      chalk_clear(w, (uint32_t)count), chalk_clear(w, (uint32_t)load);
      chalk_writer_tick(w);
      sweep(g, 1000.0 * round, 0);
    }
  }
  enum { ENOUGH = 2000 };
  uint32_t seen = 0;
  double end = chalk_now() + DEADLINE / 3;
  while (seen < ENOUGH && chalk_now() < end) {
    chalk_snapshot *s = take(g, 0);
    uint32_t n;
    const chalk_entry *entries = chalk_snapshot_entries(s, &n);
    for (uint32_t i = 0; i < n; i++) {
      char key[64] = "";
      size_t size = chalk_snapshot_key(s, i, key, sizeof key - 1);
      if (size == 0) continue; /* the series is gone */
      key[size] = 0;
      double value = entries[i].metric == (uint32_t)load ? entries[i].value : (double)entries[i].total;
      /* A series that was just created has no record yet. */
      if (value != 0) assert_true(value == atof(key + 2));
      seen++;
    }
    chalk_snapshot_free(s);
  }
  assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
  kill_child(pid);
  assert_true(seen > 0);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* How many pages of the process belong to no file. */
static long private_pages(void) {
  long all = 0, resident = 0, shared = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  assert_non_null(f);
  assert_int_equal(fscanf(f, "%ld %ld %ld", &all, &resident, &shared), 3);
  fclose(f);
  return resident - shared;
}

static chalk_snapshot *take_and_read(chalk_segment *g) {
  chalk_snapshot *s = chalk_snapshot_take(g, 0, NULL);
  uint32_t n = 0;
  if (s) chalk_snapshot_entries(s, &n);
  for (uint32_t i = 0; i < n; i++) chalk_snapshot_sketch(s, i);
  return s;
}

/* How many more pages the process has after all snapshots were freed than before they were taken. */
static long pages_kept;

static void *take_many(void *segment) {
  enum { OPEN = 20 };
  chalk_snapshot *open[OPEN];
  void *others[OPEN]; /* other allocations in between, which stay */
  long before = private_pages();
  for (int k = 0; k < OPEN; k++) {
    open[k] = take_and_read(segment);
    others[k] = malloc(1000);
  }
  for (int k = 0; k < OPEN; k++) chalk_snapshot_free(open[k]);
  pages_kept = private_pages() - before;
  for (int k = 0; k < OPEN; k++) free(others[k]);
  return NULL;
}

/* The memory of snapshots that were open at once goes back to the system when they are freed. */
static void test_freed_snapshots_give_memory_back(void **state) {
  (void)state;
  if (SANITIZED) return; /* sanitizers keep freed memory */
  enum { SERIES = 20000, MOST = 1024 };
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "latency", CHALK_HISTOGRAM, 1, 5);
  for (int i = 0; i < SERIES; i++) {
    char tag[16];
    snprintf(tag, sizeof tag, "%d", i);
    chalk_series *s = bind(w, metric, tag);
    chalk_record(s, i + 1);
    free(s);
  }
  pthread_t thread; /* as the flush thread: malloc's memory of a second thread differs from that of the first */
  assert_int_equal(pthread_create(&thread, NULL, take_many, g), 0);
  assert_int_equal(pthread_join(thread, NULL), 0);
  if (pages_kept > MOST) fail_msg("%ld pages", pages_kept);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_an_index_beyond_the_entries_is_refused(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  chalk_series *h = bind(w, define(w, "h", CHALK_HISTOGRAM, 1, 5), "x");
  assert_int_equal(chalk_record(h, 1), CHALK_OK);
  chalk_snapshot *s = take(g, 0);
  char key[64];
  double bounds[CHALK_LES + 1];
  uint64_t counts[CHALK_LES + 1];
  const uint32_t beyond[] = {1, 2, UINT32_MAX};
  assert_int_equal(chalk_snapshot_key(s, 0, key, sizeof key), 3);
  for (int i = 0; i < 3; i++) {
    assert_int_equal(chalk_snapshot_key(s, beyond[i], key, sizeof key), 0);
    assert_null(chalk_snapshot_sketch(s, beyond[i]));
    assert_int_equal(chalk_snapshot_les(s, beyond[i], bounds, counts), 0);
  }
  free(h);
  chalk_snapshot_free(s);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_series_of_a_metric_are_adjacent),
      cmocka_unit_test(test_gauges_across_processes),
      cmocka_unit_test(test_gauges_that_were_never_set),
      cmocka_unit_test(test_scrapes_never_go_backwards),
      cmocka_unit_test(test_scrapes_beside_a_sweep),
      cmocka_unit_test(test_freed_snapshots_give_memory_back),
      cmocka_unit_test(test_an_index_beyond_the_entries_is_refused),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
