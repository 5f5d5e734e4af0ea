/* What is lost when these fail: a client that watches a program live sees records that were not made, misses some that
   were, or sees them in another order; or a program that was watched once stays slow for good. */

#include "common.h"

#include "shm/heap.h"
#include "open/recover.h"
#include "record/tap.h"
#include "record/writer.h"

enum { COUNTS = 1 << CHALK_COUNT, GAUGES = 1 << CHALK_GAUGE, HISTOGRAMS = 1 << CHALK_HISTOGRAM };
enum { ALL = COUNTS | GAUGES | HISTOGRAMS };

static chalk_segment *open_held(void) {
  chalk_segment *g = open_segment(NULL);
  assert_int_equal(chalk_hold(g, 1), 1);
  return g;
}

static void close_held(chalk_segment *g) {
  chalk_release(g);
  chalk_segment_close(g);
}

static chalk_tap *open_tap(chalk_segment *g, uint32_t events) {
  char message[CHALK_MESSAGE] = "";
  chalk_tap *t = chalk_tap_open(g, 0, message);
  if (!t) fail_msg("no tap: %s", message);
  chalk_tap_switch(g, ALL, events, 0);
  return t;
}

static void expect(const chalk_event *e, const chalk_series *s, uint32_t verb, double value) {
  assert_int_equal(e->series, s->series);
  assert_int_equal(e->generation, s->generation);
  assert_int_equal(e->metric, s->metric);
  assert_int_equal(e->verb, verb);
  assert_true(e->value == value);
}

/* Whether the inlined path would take a record. It compares the same. */
static bool is_inlined(const chalk_series *s) {
  return load_double((const shared_u64 *)s->shared) + *s->own == s->epoch;
}

static void test_each_verb_makes_its_event(void **state) {
  (void)state;
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  chalk_series *c = bind(w, define(w, "c", CHALK_COUNT, 1, 0), "x");
  chalk_series *l = bind(w, define(w, "l", CHALK_GAUGE, 1, 0), "x");
  chalk_series *a = bind(w, define_across(w, "a", CHALK_SUM), "x");
  chalk_series *h = bind(w, define(w, "h", CHALK_HISTOGRAM, 1, 5), "x");
  chalk_add(c, 1), chalk_set(l, 1), chalk_record(h, 1);
  chalk_tap *t = open_tap(g, 0);
  assert_int_equal(chalk_tap_read(t), 0);
  double before = chalk_wall();
  chalk_add(c, 3), chalk_add(c, 0);
  chalk_set(l, 2.5), chalk_add(l, 4), chalk_add(l, -1.5);
  chalk_set(a, -7), chalk_add(a, 1);
  chalk_record(h, 0.042), chalk_record(h, -3), chalk_record(h, 0);
  assert_int_equal(chalk_tap_read(t), 10);
  const chalk_event *e = chalk_tap_events(t);
  expect(&e[0], c, CHALK_EVENT_INC, 3);
  expect(&e[1], c, CHALK_EVENT_INC, 0);
  expect(&e[2], l, CHALK_EVENT_SET, 2.5);
  expect(&e[3], l, CHALK_EVENT_UP, 4);
  expect(&e[4], l, CHALK_EVENT_DOWN, 1.5);
  expect(&e[5], a, CHALK_EVENT_SET, -7);
  expect(&e[6], a, CHALK_EVENT_UP, 1);
  expect(&e[7], h, CHALK_EVENT_RECORD, 0.042);
  expect(&e[8], h, CHALK_EVENT_RECORD, -3);
  expect(&e[9], h, CHALK_EVENT_RECORD, 0);
  for (int i = 0; i < 10; i++) {
    assert_true((double)e[i].time >= before * 1e9 - 1e6 && (double)e[i].time <= chalk_wall() * 1e9 + 1e6);
    assert_true(i == 0 || e[i].time >= e[i - 1].time);
  }
  /* These are records too, while a call that is refused is no record and makes no event. */
  assert_int_equal(chalk_add(c, 0.5), CHALK_ENUMBER);
  assert_int_equal(chalk_record(h, NAN), CHALK_ENUMBER);
  assert_int_equal(chalk_tap_read(t), 0);
  assert_true(chalk_value(c) == 4 && chalk_value(l) == 5 && chalk_value(a) == -6 && chalk_value(h) == 4);
  free(c), free(l), free(a), free(h);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

static void test_only_kinds_that_are_watched_leave_the_inlined_path(void **state) {
  (void)state;
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  int metric = define(w, "c", CHALK_COUNT, 1, 0);
  chalk_series *c = bind(w, metric, "x"), *h = bind(w, define(w, "h", CHALK_HISTOGRAM, 1, 5), "x");
  chalk_tap *t = open_tap(g, 0);
  chalk_tap_switch(g, HISTOGRAMS, 0, 0);
  assert_int_equal(chalk_tap_kinds(g), HISTOGRAMS);
  chalk_add(c, 1), chalk_record(h, 1);
  assert_true(is_inlined(c) && !is_inlined(h));
  assert_int_equal(chalk_tap_read(t), 1);
  chalk_tap_switch(g, COUNTS, 0, 1);
  assert_int_equal(chalk_tap_kinds(g), COUNTS | HISTOGRAMS);
  assert_false(is_inlined(c));
  chalk_add(c, 1), chalk_record(h, 1);
  assert_true(!is_inlined(c) && !is_inlined(h));
  assert_int_equal(chalk_tap_read(t), 2);
  double epoch = segment_epoch(g);
  chalk_tap_switch(g, COUNTS, 0, 1); /* changes nothing */
  assert_true(segment_epoch(g) == epoch);
  chalk_tap_switch(g, 0, 0, 0);
  chalk_add(c, 1), chalk_record(h, 1);
  chalk_series *other = bind(w, metric, "y");
  assert_true(is_inlined(c) && is_inlined(h) && is_inlined(other));
  assert_int_equal(chalk_tap_read(t), 0);
  assert_true(chalk_value(c) == 3 && chalk_value(h) == 3);
  free(c), free(h), free(other);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

/* chalk's own metrics make no events, because reading events records into them. They have no limit. */
static void test_own_metrics_make_no_events(void **state) {
  (void)state;
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  chalk_definition d = {.name = "own", .shape = "", .blob = "", .name_size = 3, .kind = CHALK_COUNT, .tags = 1};
  d.max_series = (uint32_t)CHALK_NONE;
  chalk_tap *t = open_tap(g, 0);
  chalk_series *c = bind(w, chalk_define(w, &d, NULL), "x");
  chalk_add(c, 1);
  assert_true(is_inlined(c));
  assert_int_equal(chalk_tap_read(t), 0);
  free(c);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

static void test_events_that_find_a_full_ring_are_counted(void **state) {
  (void)state;
  enum { MORE = 1000 };
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  chalk_series *c = bind(w, define(w, "c", CHALK_COUNT, 1, 0), "x");
  chalk_tap *t = open_tap(g, CHALK_TAP_LEAST);
  for (int i = 0; i < CHALK_TAP_LEAST + MORE; i++) chalk_add(c, i);
  uint32_t n, read = 0;
  while ((n = chalk_tap_read(t)) > 0) {
    for (uint32_t i = 0; i < n; i++) assert_true(chalk_tap_events(t)[i].value == read++);
  }
  assert_int_equal(read, CHALK_TAP_LEAST);
  assert_int_equal(chalk_tap_dropped(t), MORE);
  assert_int_equal(chalk_tap_dropped(t), 0);
  chalk_add(c, 7);
  assert_int_equal(chalk_tap_read(t), 1);
  assert_true(chalk_tap_events(t)[0].value == 7);
  int64_t recorded = 7;
  for (int i = 0; i < CHALK_TAP_LEAST + MORE; i++) recorded += i;
  assert_true(chalk_value(c) == (double)recorded);
  free(c);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

/* Larger rings are wanted while the present ones have events. */
static void test_rings_grow_and_lose_nothing(void **state) {
  (void)state;
  enum { LARGE = 100000 };
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  chalk_series *c = bind(w, define(w, "c", CHALK_COUNT, 1, 0), "x");
  chalk_tap *t = open_tap(g, 0);
  chalk_add(c, 0);
  chalk_tap_switch(g, ALL, LARGE, 0);
  for (int i = 1; i < CHALK_TAP_LEAST; i++) chalk_add(c, i);
  uint32_t n, read = 0;
  while ((n = chalk_tap_read(t)) > 0) read += n;
  assert_int_equal(read, CHALK_TAP_LEAST);
  chalk_tap_switch(g, 0, 0, 0), chalk_tap_switch(g, ALL, LARGE, 0);
  for (int i = 0; i < LARGE; i++) chalk_add(c, i);
  read = 0;
  while ((n = chalk_tap_read(t)) > 0) {
    for (uint32_t i = 0; i < n; i++) assert_true(chalk_tap_events(t)[i].value == read++);
  }
  assert_int_equal(read, LARGE);
  assert_int_equal(chalk_tap_dropped(t), 0);
  /* The memory of the small ring is used again. */
  chalk_writer *other = open_writer(g);
  define(other, "c", CHALK_COUNT, 1, 0);
  uint64_t memory = info_of(g).memory;
  chalk_tap_switch(g, ALL, 0, 0);
  chalk_series *o = bind(other, 0, "x");
  chalk_add(o, 1);
  assert_true(info_of(g).memory - memory < CHALK_TAP_LEAST * sizeof(chalk_event));
  assert_true(recover_check(g));
  free(c), free(o);
  chalk_tap_close(t);
  chalk_writer_close(w), chalk_writer_close(other);
  close_held(g);
}

static void test_events_of_writers_come_by_time(void **state) {
  (void)state;
  enum { EACH = 2000 };
  chalk_segment *g = open_held();
  chalk_writer *w[3];
  chalk_series *l[3];
  chalk_tap *t = open_tap(g, 0);
  for (int i = 0; i < 3; i++) {
    w[i] = open_writer(g);
    l[i] = bind(w[i], define(w[i], "l", CHALK_GAUGE, 1, 0), "x");
  }
  for (int i = 0; i < 3 * EACH; i++) chalk_set(l[random_bits() % 3], i);
  uint32_t n, read = 0;
  while ((n = chalk_tap_read(t)) > 0) {
    for (uint32_t i = 0; i < n; i++) assert_true(chalk_tap_events(t)[i].value == read++);
  }
  assert_int_equal(read, 3 * EACH);
  for (int i = 0; i < 3; i++) free(l[i]), chalk_writer_close(w[i]);
  chalk_tap_close(t);
  close_held(g);
}

static void test_writers_without_a_slot_share_a_ring(void **state) {
  (void)state;
  enum { ALONE = WRITERS - 1, ALL = ALONE + 3 };
  chalk_segment *g = open_held();
  chalk_writer *w[ALL];
  for (int i = 0; i < ALL; i++) w[i] = open_writer(g);
  chalk_tap *t = open_tap(g, 0);
  for (int i = ALONE; i < ALL; i++) {
    assert_int_equal(chalk_writer_slot(w[i]), 0);
    chalk_series *c = bind(w[i], define(w[i], "c", CHALK_COUNT, 1, 0), "x");
    chalk_series *l = bind(w[i], define(w[i], "l", CHALK_GAUGE, 1, 0), "x");
    chalk_add(c, i), chalk_add(l, -i);
    assert_int_equal(chalk_tap_read(t), 2);
    expect(&chalk_tap_events(t)[0], c, CHALK_EVENT_INC, i);
    expect(&chalk_tap_events(t)[1], l, CHALK_EVENT_DOWN, i);
    free(c), free(l);
  }
  for (int i = 0; i < ALL; i++) chalk_writer_close(w[i]);
  chalk_tap_close(t);
  close_held(g);
}

/*
 * A number goes to another series only after the events of the old one have been read. Otherwise these would count as
 * the new one's.
 */
static void test_a_number_waits_for_its_events(void **state) {
  (void)state;
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  int metric = define(w, "c", CHALK_COUNT, 1, 0);
  chalk_series *c = bind(w, metric, "a");
  chalk_tap *t = open_tap(g, 0);
  chalk_add(c, 1);
  uint32_t id = c->series, generation = c->generation;
  drop(w, metric, "a");
  chalk_writer_tick(w);
  for (int i = 0; i < 3; i++) {
    sweep(g, 1000 + i, 0);
    assert_int_equal(info_of(g).quarantined, 1);
  }
  assert_int_equal(chalk_tap_read(t), 1);
  assert_int_equal(chalk_tap_events(t)[0].series, id);
  assert_int_equal(atomic_load(&g->series[id].generation), generation);
  assert_int_equal(chalk_tap_read(t), 0);
  sweep(g, 1010, 0);
  assert_int_equal(info_of(g).quarantined, 0);
  free(c);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

/* The next holder goes on where the last one was, or, if it only watches, begins with new events. */
static void test_another_reader_goes_on_or_begins_anew(void **state) {
  (void)state;
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  chalk_series *c = bind(w, define(w, "c", CHALK_COUNT, 1, 0), "x");
  chalk_tap *t = open_tap(g, 0);
  chalk_add(c, 1), chalk_add(c, 2);
  assert_int_equal(chalk_tap_read(t), 2);
  chalk_add(c, 3);
  chalk_tap_close(t);
  t = chalk_tap_open(g, 1, NULL);
  assert_int_equal(chalk_tap_read(t), 1);
  assert_true(chalk_tap_events(t)[0].value == 3);
  chalk_add(c, 4);
  chalk_tap_close(t);
  t = chalk_tap_open(g, 0, NULL);
  assert_int_equal(chalk_tap_read(t), 0);
  chalk_add(c, 5);
  assert_int_equal(chalk_tap_read(t), 1);
  assert_true(chalk_tap_events(t)[0].value == 5);
  free(c);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

/* The events of killed children are there, and whole. The next owners of their slots go on in the same rings. */
static void test_killed_children_leave_whole_events(void **state) {
  (void)state;
  enum { CHILDREN = 40 };
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  int metric = define(w, "c", CHALK_COUNT, 1, 0);
  chalk_series *c = bind(w, metric, "x");
  chalk_tap *t = open_tap(g, 0);
  int64_t seen = 0, dropped = 0;
  for (int child = 0; child < CHILDREN; child++) {
    pid_t pid = fork_child();
    if (pid == 0) {
      while (true) CHILD_CHECK(chalk_add(c, 1) >= CHALK_OK);
    }
    int64_t start = seen;
    double end = chalk_now() + DEADLINE;
    while (seen - start < 1000 + (int64_t)(random_bits() % 20000) && chalk_now() < end) {
      uint32_t n = chalk_tap_read(t);
      for (uint32_t i = 0; i < n; i++) expect(&chalk_tap_events(t)[i], c, CHALK_EVENT_INC, 1);
      seen += n;
    }
    assert_true(chalk_now() < end);
    kill_child(pid);
    chalk_tap_switch(g, ALL, child % 2 ? CHALK_TAP_LEAST : 4 * CHALK_TAP_LEAST, 0);
  }
  for (uint32_t n; (n = chalk_tap_read(t)) > 0;) seen += n;
  dropped = (int64_t)chalk_tap_dropped(t);
  int64_t total = total_of(g, metric);
  /* Each child may have died between its last record and the event of that record. */
  assert_true(seen + dropped <= total && seen + dropped >= total - CHILDREN);
  assert_true(recover_check(g));
  free(c);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

static void test_without_memory_records_count_and_events_are_dropped(void **state) {
  (void)state;
  chalk_options o = {.memory_limit = 4 << 20};
  chalk_segment *g = open_segment(&o);
  assert_int_equal(chalk_hold(g, 1), 1);
  chalk_writer *w = open_writer(g);
  chalk_series *c = bind(w, define(w, "c", CHALK_COUNT, 1, 0), "x");
  while (heap_take(g, 4096)) {
  }
  chalk_tap *t = open_tap(g, CHALK_TAP_MOST);
  for (int i = 0; i < 100; i++) assert_true(chalk_add(c, 1) >= CHALK_OK);
  assert_int_equal(chalk_tap_read(t), 0);
  assert_int_equal(chalk_tap_dropped(t), 100);
  assert_true(chalk_value(c) == 100);
  free(c);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

/* Reads all events. Their values go on from *next, one by one. */
static uint32_t read_all(chalk_tap *t, int64_t *next) {
  uint32_t read = 0;
  for (uint32_t n; (n = chalk_tap_read(t)) > 0; read += n) {
    for (uint32_t i = 0; i < n; i++) assert_true(chalk_tap_events(t)[i].value == (double)(*next)++);
  }
  return read;
}

/* Two VMs read in turns. When one comes to read, the other has read meanwhile. */
static void test_two_readers_in_turns_get_each_event_once(void **state) {
  (void)state;
  enum { MANY = CHALK_TAP_BATCH + 1000 };
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  chalk_series *l = bind(w, define(w, "l", CHALK_GAUGE, 1, 0), "x");
  chalk_tap *t = open_tap(g, 0), *other = chalk_tap_open(g, 1, NULL);
  int64_t next = 0, set = 0;
  for (int round = 0; round < 20; round++) {
    for (int i = 0; i < MANY; i++) chalk_set(l, (double)set++);
    assert_int_equal(chalk_tap_read(t), CHALK_TAP_BATCH);
    next += CHALK_TAP_BATCH;
    chalk_set(l, (double)set++);
    assert_int_equal(read_all(other, &next), MANY - CHALK_TAP_BATCH + 1);
    chalk_set(l, (double)set++);
    if (round == 10) chalk_tap_switch(g, ALL, 4 * CHALK_TAP_LEAST, 0), chalk_set(l, (double)set++);
    read_all(t, &next);
    assert_int_equal(next, set);
  }
  assert_int_equal(chalk_tap_dropped(t), 0);
  free(l);
  chalk_tap_close(t), chalk_tap_close(other);
  chalk_writer_close(w);
  close_held(g);
}

/* Events that were dropped while there was no reader are reported to the next reader, once. */
static void test_dropped_events_are_reported_once(void **state) {
  (void)state;
  enum { MORE = 77 };
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  chalk_series *c = bind(w, define(w, "c", CHALK_COUNT, 1, 0), "x");
  chalk_tap *t = open_tap(g, 0);
  chalk_tap_close(t);
  for (int i = 0; i < CHALK_TAP_LEAST + MORE; i++) chalk_add(c, 1);
  t = chalk_tap_open(g, 1, NULL);
  assert_int_equal(chalk_tap_dropped(t), MORE);
  chalk_tap_close(t);
  t = chalk_tap_open(g, 1, NULL);
  assert_int_equal(chalk_tap_dropped(t), 0);
  chalk_add(c, 1);
  chalk_tap_close(t);
  t = chalk_tap_open(g, 0, NULL);
  assert_int_equal(chalk_tap_dropped(t), 0);
  free(c);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

/* Switching the tap off drops all events, so the next reader gets no old ones. */
static void test_switching_off_drops_all_events(void **state) {
  (void)state;
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  chalk_series *c = bind(w, define(w, "c", CHALK_COUNT, 1, 0), "x");
  chalk_tap *t = open_tap(g, 0);
  for (int i = 0; i < CHALK_TAP_LEAST + 5; i++) chalk_add(c, 1);
  assert_true(chalk_tap_read(t) > 0);
  chalk_tap_switch(g, 0, 0, 0);
  tap_put(c, CHALK_EVENT_INC, 1); /* the event of a record that was under way */
  chalk_tap_switch(g, ALL, 0, 1);
  chalk_tap *other = chalk_tap_open(g, 1, NULL);
  assert_int_equal(chalk_tap_read(other), 0);
  assert_int_equal(chalk_tap_read(t), 0);
  assert_int_equal(chalk_tap_dropped(other), 0);
  chalk_add(c, 3);
  assert_int_equal(chalk_tap_read(t), 1);
  free(c);
  chalk_tap_close(t), chalk_tap_close(other);
  chalk_writer_close(w);
  close_held(g);
}

/* The file of a segment may have any content. */
static void test_invalid_events_are_skipped_and_counted(void **state) {
  (void)state;
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  chalk_series *c = bind(w, define(w, "c", CHALK_COUNT, 1, 0), "x");
  chalk_tap *t = open_tap(g, 0);
  for (int i = 0; i < 10; i++) chalk_add(c, 1);
  chalk_event *e = w->ring->events;
  e[1].verb = 0, e[2].verb = 6, e[3].verb = 0xffffffff;
  e[4].series = e[5].series = 0xffffffff;
  e[5].metric = METRICS;
  e[6].value = -1, e[7].value = NAN, e[8].value = 1e300;
  e[9].time = 1ull << 63;
  assert_int_equal(chalk_tap_read(t), 2);
  assert_int_equal(chalk_tap_dropped(t), 8);
  assert_int_equal(chalk_tap_dropped(t), 0);
  free(c);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

static void await_stop(pid_t pid) {
  int status;
  assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
  assert_true(WIFSTOPPED(status));
}

/* A holder that reads a batch and is stopped. When it goes on, another process has the role and reads. */
static void be_stopped(chalk_segment *g) {
  CHILD_CHECK(chalk_hold(g, 1) == 1);
  chalk_tap *t = chalk_tap_open(g, 1, NULL);
  CHILD_CHECK(chalk_tap_read(t) == CHALK_TAP_BATCH);
  raise(SIGSTOP);
  chalk_tap *another = chalk_tap_open(g, 0, NULL);
  CHILD_CHECK(chalk_tap_dropped(t) == 0);
  CHILD_CHECK(chalk_tap_read(t) == 0);
  CHILD_CHECK(chalk_tap_read(another) == 0);
  chalk_tap_switch(g, 0, 0, 0);
  _exit(0);
}

static void test_a_stopped_holder_reads_nothing_twice(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  chalk_series *l = bind(w, define(w, "l", CHALK_GAUGE, 1, 0), "x");
  int64_t next = CHALK_TAP_BATCH, set = 0;
  chalk_tap_switch(g, ALL, 0, 1);
  while (set < CHALK_TAP_LEAST + 7) chalk_set(l, (double)set++);
  pid_t pid = fork_child();
  if (pid == 0) be_stopped(g);
  await_stop(pid);
  double end = chalk_now() + DEADLINE;
  while (chalk_hold(g, 1) != 1 && chalk_now() < end) pause_ms(5);
  assert_true(chalk_now() < end);
  chalk_tap *t = chalk_tap_open(g, 1, NULL);
  assert_int_equal(read_all(t, &next), CHALK_TAP_LEAST - CHALK_TAP_BATCH);
  chalk_tap_switch(g, ALL, 4 * CHALK_TAP_LEAST, 0);
  next = set;
  for (int i = 0; i < 100; i++) chalk_set(l, (double)set++);
  kill(pid, SIGCONT);
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  assert_int_equal(chalk_tap_dropped(t), 7);
  assert_int_equal(read_all(t, &next), 100);
  assert_int_equal(chalk_tap_kinds(g), ALL);
  assert_true(recover_check(g));
  free(l);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

/* A consumer that fails in the middle of a batch gets the next batch whole. */
static void test_the_batch_after_one_that_was_left_is_whole(void **state) {
  (void)state;
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  int metric = define(w, "c", CHALK_COUNT, 1, 0);
  chalk_series *c = bind(w, metric, "x");
  chalk_tap *t = open_tap(g, 0);
  chalk_stream *k = chalk_stream_new(g, 0, -1);
  assert_non_null(k);
  chalk_add(c, 1), chalk_add(c, 1), chalk_add(c, 1);
  assert_int_equal(chalk_stream_take(k, t, chalk_tap_read(t)), metric);
  chalk_stream_pass_over(k);
  chalk_add(c, 1), chalk_add(c, 1);
  uint32_t n = chalk_tap_read(t), passed = 0;
  for (; chalk_stream_take(k, t, n) >= 0; passed++) chalk_stream_pass_over(k);
  assert_int_equal(passed, 2);
  free(c);
  chalk_stream_free(k);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

/* Rings and handles are used again, so switching the tap on and off many times takes no more memory than once. */
static void test_switching_a_thousand_times_takes_no_more_memory(void **state) {
  (void)state;
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  chalk_series *c = bind(w, define(w, "c", CHALK_COUNT, 1, 0), "x");
  chalk_tap *t = open_tap(g, 0);
  chalk_add(c, 1);
  assert_int_equal(chalk_tap_read(t), 1);
  uint64_t memory = info_of(g).memory, top = g->head->heap_top;
  for (int i = 0; i < 1000; i++) {
    chalk_tap_switch(g, 0, 0, 0);
    chalk_add(c, 1);
    assert_true(is_inlined(c));
    chalk_tap_switch(g, ALL, 0, i & 1);
    chalk_add(c, i);
    assert_int_equal(chalk_tap_read(t), 1);
    expect(&chalk_tap_events(t)[0], c, CHALK_EVENT_INC, i);
  }
  assert_true(info_of(g).memory == memory && g->head->heap_top == top);
  assert_int_equal(chalk_tap_dropped(t), 0);
  free(c);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_each_verb_makes_its_event),
      cmocka_unit_test(test_only_kinds_that_are_watched_leave_the_inlined_path),
      cmocka_unit_test(test_own_metrics_make_no_events),
      cmocka_unit_test(test_events_that_find_a_full_ring_are_counted),
      cmocka_unit_test(test_rings_grow_and_lose_nothing),
      cmocka_unit_test(test_events_of_writers_come_by_time),
      cmocka_unit_test(test_writers_without_a_slot_share_a_ring),
      cmocka_unit_test(test_a_number_waits_for_its_events),
      cmocka_unit_test(test_another_reader_goes_on_or_begins_anew),
      cmocka_unit_test(test_killed_children_leave_whole_events),
      cmocka_unit_test(test_without_memory_records_count_and_events_are_dropped),
      cmocka_unit_test(test_two_readers_in_turns_get_each_event_once),
      cmocka_unit_test(test_dropped_events_are_reported_once),
      cmocka_unit_test(test_switching_off_drops_all_events),
      cmocka_unit_test(test_invalid_events_are_skipped_and_counted),
      cmocka_unit_test(test_a_stopped_holder_reads_nothing_twice),
      cmocka_unit_test(test_the_batch_after_one_that_was_left_is_whole),
      cmocka_unit_test(test_switching_a_thousand_times_takes_no_more_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
