/* What a user loses when these fail: a push exporter sends a record twice or never, or sends a negative difference. */

#include "common.h"

#include "read/cursor.h"
#include "open/recover.h"
#include "value/sketch.h"

typedef struct fixture {
  chalk_segment *g;
  chalk_writer *w;
  int count, latency;
} fixture;

static fixture open_fixture(void) {
  fixture f = {.g = open_segment(NULL)};
  f.w = open_writer(f.g);
  f.count = define(f.w, "requests", CHALK_COUNT, 1, 0);
  f.latency = define(f.w, "latency", CHALK_HISTOGRAM, 1, 5);
  return f;
}

static void close_fixture(fixture f) {
  chalk_writer_close(f.w);
  chalk_segment_close(f.g);
}

static void count(fixture *f, const char *tag, int n) {
  chalk_series *s = bind(f->w, f->count, tag);
  assert_true(chalk_add(s, n) >= CHALK_OK);
  free(s);
}

static void record(fixture *f, const char *tag, int n) {
  chalk_series *s = bind(f->w, f->latency, tag);
  for (int i = 0; i < n; i++) assert_true(chalk_record(s, 1 + i) >= CHALK_OK);
  free(s);
}

static chalk_cursor *open_cursor(chalk_segment *g, const char *name, int fresh) {
  char message[CHALK_MESSAGE] = "";
  chalk_cursor *c = chalk_cursor_open(g, name, fresh, chalk_now(), message);
  if (!c) fail_msg("no cursor: %s", message);
  return c;
}

typedef struct sent {
  int64_t count, latency, sketched;
} sent;

/* One flush: returns what was recorded since the last commit, and commits it if `commit`. */
static sent flush(fixture *f, chalk_cursor *c, bool commit) {
  chalk_snapshot *s = take(f->g, 1);
  uint32_t n;
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  sent all = {0};
  for (uint32_t i = 0; i < n; i++) {
    int64_t delta = chalk_cursor_delta(c, s, i);
    assert_true(delta >= 0);
    if (entries[i].metric == (uint32_t)f->count) all.count += delta;
    if (entries[i].metric != (uint32_t)f->latency) continue;
    all.latency += delta;
    chalk_sketch *k = chalk_cursor_delta_sketch(c, s, i);
    assert_non_null(k);
    all.sketched += (int64_t)chalk_sketch_count(k);
    chalk_sketch_free(k);
  }
  if (commit) assert_int_equal(chalk_cursor_commit(c, s, 0, n, chalk_now()), CHALK_OK);
  chalk_snapshot_free(s);
  return all;
}

static void expect(fixture *f, chalk_cursor *c, bool commit, int64_t counted, int64_t recorded) {
  sent all = flush(f, c, commit);
  assert_int_equal(all.count, counted);
  assert_int_equal(all.latency, recorded);
  assert_int_equal(all.sketched, recorded);
}

static void test_a_flush_has_what_was_recorded_since_the_last(void **state) {
  (void)state;
  fixture f = open_fixture();
  count(&f, "a", 5), record(&f, "a", 7);
  chalk_cursor *c = open_cursor(f.g, "one", 1);
  expect(&f, c, true, 5, 7);
  expect(&f, c, true, 0, 0);
  count(&f, "a", 2), count(&f, "b", 3), record(&f, "b", 4);
  /* What could not be sent is sent with the next flush. */
  expect(&f, c, false, 5, 4);
  count(&f, "a", 1);
  expect(&f, c, true, 6, 4);
  expect(&f, c, true, 0, 0);
  chalk_cursor_close(c);
  close_fixture(f);
}

static void test_packets_are_committed_one_by_one(void **state) {
  (void)state;
  fixture f = open_fixture();
  count(&f, "a", 1), count(&f, "b", 10), count(&f, "c", 100);
  chalk_cursor *c = open_cursor(f.g, "one", 1);
  chalk_snapshot *s = take(f.g, 1);
  assert_int_equal(chalk_cursor_commit(c, s, 1, 2, chalk_now()), CHALK_OK);
  chalk_snapshot_free(s);
  expect(&f, c, true, 101, 0);
  chalk_cursor_close(c);
  close_fixture(f);
}

/* A new exporter does not send what was recorded before it, and other exporters miss nothing. */
static void test_a_new_exporter_starts_at_the_totals(void **state) {
  (void)state;
  fixture f = open_fixture();
  assert_int_equal(chalk_cursors_ever(f.g), 0);
  chalk_cursor *c = open_cursor(f.g, "one", 1);
  assert_int_equal(chalk_cursors_ever(f.g), 1);
  count(&f, "a", 5), record(&f, "a", 7);
  chalk_cursor *late = open_cursor(f.g, "two", 0);
  expect(&f, late, true, 0, 0);
  count(&f, "a", 1), record(&f, "b", 2);
  expect(&f, late, true, 1, 2);
  expect(&f, c, true, 6, 9);
  chalk_cursor_close(c), chalk_cursor_close(late);
  close_fixture(f);
}

static void test_a_cursor_survives_its_exporter(void **state) {
  (void)state;
  fixture f = open_fixture();
  count(&f, "a", 5), record(&f, "a", 7);
  chalk_cursor *c = open_cursor(f.g, "one", 1);
  expect(&f, c, true, 5, 7);
  chalk_cursor_close(c);
  count(&f, "a", 2), record(&f, "a", 3);
  pid_t pid = fork_child();
  if (pid == 0) {
    /* The next holder, in another process. */
    c = open_cursor(f.g, "one", 0);
    expect(&f, c, true, 2, 3);
    _exit(0);
  }
  join_child(pid);
  c = open_cursor(f.g, "one", 1);
  expect(&f, c, true, 0, 0);
  chalk_cursor_close(c);
  close_fixture(f);
}

static void test_dropped_series_are_sent_before_they_are_reused(void **state) {
  (void)state;
  fixture f = open_fixture();
  chalk_cursor *c = open_cursor(f.g, "one", 1);
  int64_t counted = 0, recorded = 0;
  for (int round = 1; round <= 50; round++) {
    count(&f, "a", round), record(&f, "a", round);
    counted += round, recorded += round;
    if (round % 3 == 0) {
      sent all = flush(&f, c, round % 2);
      if (round % 2) counted -= all.count, recorded -= all.latency;
    }
    drop(f.w, f.count, "a"), drop(f.w, f.latency, "a");
    chalk_writer_tick(f.w);
    /* The dropped series stay in quarantine, because the cursor has not sent them. */
    sweep(f.g, 10, 0);
  }
  expect(&f, c, true, counted, recorded);
  sweep(f.g, 10, 0);
  assert_int_equal(info_of(f.g).quarantined, 0);
  expect(&f, c, true, 0, 0);
  chalk_cursor_close(c);
  close_fixture(f);
}

/* An exporter that never returns does not keep dropped series for ever. */
static void test_quarantine_ends_without_the_exporter(void **state) {
  (void)state;
  fixture f = open_fixture();
  chalk_cursor *c = open_cursor(f.g, "away", 1);
  count(&f, "a", 5), record(&f, "a", 3);
  drop(f.w, f.count, "a"), drop(f.w, f.latency, "a");
  chalk_writer_tick(f.w);
  sweep(f.g, 1000, 60);
  sweep(f.g, 1059, 60);
  assert_int_equal(info_of(f.g).quarantined, 2);
  sweep(f.g, 1061, 60);
  assert_int_equal(info_of(f.g).quarantined, 0);
  expect(&f, c, true, 0, 0);
  chalk_cursor_close(c);
  close_fixture(f);
}

/* Values that are recorded between the snapshot and the reading of its sketch are sent once. */
static void test_records_beside_a_flush(void **state) {
  (void)state;
  fixture f = open_fixture();
  chalk_cursor *c = open_cursor(f.g, "one", 1);
  record(&f, "a", 10);
  expect(&f, c, true, 0, 10);
  int64_t sketched = 0;
  for (int round = 0; round < 5; round++) {
    chalk_snapshot *s = take(f.g, 1);
    if (round < 2) record(&f, "a", 1);
    chalk_sketch *k = chalk_cursor_delta_sketch(c, s, 0);
    sketched += (int64_t)chalk_sketch_count(k);
    chalk_sketch_free(k);
    assert_int_equal(chalk_cursor_commit(c, s, 0, 1, chalk_now()), CHALK_OK);
    chalk_snapshot_free(s);
  }
  assert_int_equal(sketched, 2);
  chalk_cursor_close(c);
  close_fixture(f);
}

static void test_names_and_limits(void **state) {
  (void)state;
  fixture f = open_fixture();
  char name[300], message[CHALK_MESSAGE] = "";
  memset(name, 'x', sizeof name - 1), name[sizeof name - 1] = 0;
  assert_null(chalk_cursor_open(f.g, name, 1, 1, message));
  assert_true(strlen(message) > 0);
  count(&f, "a", 5);
  for (uint32_t i = 0; i < CURSORS; i++) {
    snprintf(name, sizeof name, "exporter %u", i);
    chalk_cursor *c = chalk_cursor_open(f.g, name, 0, 1000, message);
    assert_non_null(c);
    chalk_cursor_close(c);
  }
  assert_null(chalk_cursor_open(f.g, "one too many", 0, 1000, message));
  /* A cursor that was not used for a day is free for another name. */
  chalk_cursor *c = chalk_cursor_open(f.g, "the next day", 1, 1000 + 86401, message);
  assert_non_null(c);
  expect(&f, c, false, 5, 0);
  chalk_cursor_close(c);
  close_fixture(f);
}

/* A flush gives back the memory of the one before, so flushes never fill the segment. */
static void test_commits_keep_memory(void **state) {
  (void)state;
  fixture f = open_fixture();
  chalk_cursor *c = open_cursor(f.g, "one", 1);
  uint64_t memory = 0;
  for (int round = 0; round < 2000; round++) {
    record(&f, "a", 40), count(&f, "a", 1);
    expect(&f, c, true, 1, 40);
    if (round == 10) memory = info_of(f.g).memory;
  }
  assert_int_equal(info_of(f.g).memory, memory);
  chalk_cursor_close(c);
  close_fixture(f);
}

/* After a holder was killed in a flush, the next one repeats at most what was not committed, and loses nothing. */
static void test_a_killed_holder(void **state) {
  (void)state;
  fixture f = open_fixture();
  int64_t counted = 0, recorded = 0;
  for (int round = 0; round < 30; round++) {
    pid_t pid = fork_child();
    if (pid == 0) {
      chalk_cursor *c = open_cursor(f.g, "one", 1);
      for (;;) flush(&f, c, true);
    }
    double end = chalk_now() + 0.002 + 0.005 * random_unit();
    while (chalk_now() < end) count(&f, "a", 1), record(&f, "a", 1), counted++, recorded++;
    kill_child(pid);
  }
  chalk_cursor *c = open_cursor(f.g, "one", 1);
  sent left = flush(&f, c, true);
  assert_in_range(left.count, 0, counted);
  assert_in_range(left.latency, 0, recorded);
  count(&f, "a", 3), record(&f, "a", 4);
  expect(&f, c, true, 3, 4);
  chalk_cursor_close(c);
  close_fixture(f);
}

/*
 * When only the first of a histogram's packets arrived, the other buckets are still sent, even if the series is dropped
 * meanwhile.
 */
static void test_parts_of_buckets(void **state) {
  (void)state;
  fixture f = open_fixture();
  chalk_cursor *c = open_cursor(f.g, "one", 1);
  for (int round = 0; round < 3; round++) {
    record(&f, "a", 10);
    chalk_snapshot *s = take(f.g, 1);
    chalk_sketch *k = chalk_cursor_delta_sketch(c, s, 0), part;
    part = *k;
    part.positive.n = 3, part.count = 3;
    assert_int_equal(cursor_commit_part(c, s, 0, &part, NULL, chalk_now()), CHALK_OK);
    chalk_sketch_free(k);
    k = chalk_cursor_delta_sketch(c, s, 0);
    assert_int_equal(chalk_sketch_count(k), 7);
    assert_true(chalk_sketch_quantile(k, 0) > 3.9);
    chalk_sketch_free(k);
    chalk_snapshot_free(s);
    if (round == 1) drop(f.w, f.latency, "a"), chalk_writer_tick(f.w), sweep(f.g, 10, 0);
    assert_true(recover_check(f.g));
    record(&f, "a", 2);
    assert_int_equal(flush(&f, c, true).sketched, 9);
    expect(&f, c, true, 0, 0);
    chalk_writer_tick(f.w), sweep(f.g, 10, 0);
    assert_int_equal(info_of(f.g).quarantined, 0);
  }
  chalk_cursor_close(c);
  close_fixture(f);
}

/* The same for a histogram that is sent as counts of its bounds. */
static void test_parts_of_bounds(void **state) {
  (void)state;
  fixture f = open_fixture();
  chalk_cursor *c = open_cursor(f.g, "one", 1);
  uint64_t once[] = {0, 0, 1, 10, 20, 20}, first[] = {0, 0, 1, 10, 0, 0}, les[CHALK_LES + 1];
  chalk_sketch none = {.count = 0};
  sketch_clear(&none);
  record(&f, "a", 20);
  chalk_snapshot *s = take(f.g, 1);
  assert_int_equal(cursor_commit_part(c, s, 0, &none, first, chalk_now()), CHALK_OK);
  chalk_snapshot_free(s);
  assert_true(recover_check(f.g));
  record(&f, "a", 20);
  s = take(f.g, 1);
  assert_int_equal(chalk_cursor_delta(c, s, 0), 40);
  assert_int_equal(chalk_cursor_delta_les(c, s, 0, les), 6);
  for (int i = 0; i < 6; i++) assert_int_equal(les[i], 2 * once[i] - first[i]);
  assert_int_equal(chalk_cursor_commit(c, s, 0, 1, chalk_now()), CHALK_OK);
  chalk_snapshot_free(s);
  expect(&f, c, true, 0, 0);
  chalk_cursor_close(c);
  close_fixture(f);
}

static void test_an_index_beyond_the_entries_is_refused(void **state) {
  (void)state;
  fixture f = open_fixture();
  count(&f, "a", 1);
  chalk_cursor *c = open_cursor(f.g, "push", 1);
  chalk_snapshot *s = take(f.g, 1);
  uint64_t counts[CHALK_LES + 1];
  uint32_t n;
  chalk_snapshot_entries(s, &n);
  const uint32_t beyond[] = {n, n + 1, UINT32_MAX};
  for (int i = 0; i < 3; i++) {
    assert_int_equal(chalk_cursor_delta(c, s, beyond[i]), 0);
    assert_null(chalk_cursor_delta_sketch(c, s, beyond[i]));
    assert_int_equal(chalk_cursor_delta_les(c, s, beyond[i], counts), 0);
  }
  assert_int_equal(chalk_cursor_commit(c, s, n, UINT32_MAX, chalk_now()), CHALK_OK);
  assert_int_equal(chalk_cursor_delta(c, s, 0), 1);
  assert_int_equal(chalk_cursor_commit(c, s, 0, UINT32_MAX, chalk_now()), CHALK_OK);
  assert_int_equal(chalk_cursor_delta(c, s, 0), 0);
  chalk_snapshot_free(s);
  chalk_cursor_close(c);
  close_fixture(f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_flush_has_what_was_recorded_since_the_last),
      cmocka_unit_test(test_packets_are_committed_one_by_one),
      cmocka_unit_test(test_a_new_exporter_starts_at_the_totals),
      cmocka_unit_test(test_a_cursor_survives_its_exporter),
      cmocka_unit_test(test_dropped_series_are_sent_before_they_are_reused),
      cmocka_unit_test(test_quarantine_ends_without_the_exporter),
      cmocka_unit_test(test_records_beside_a_flush),
      cmocka_unit_test(test_names_and_limits),
      cmocka_unit_test(test_commits_keep_memory),
      cmocka_unit_test(test_a_killed_holder),
      cmocka_unit_test(test_parts_of_buckets),
      cmocka_unit_test(test_parts_of_bounds),
      cmocka_unit_test(test_an_index_beyond_the_entries_is_refused),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
