/* What is lost when these fail: whoever watches a program live sees records that were not made, misses some that were,
   or sees them in another order; or watching it once makes it slow for good. */

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

/* What a record would compare, as the inlined path does. */
static bool is_inlined(const chalk_series *s) {
  return load_double((const shared_u64 *)s->shared) + *s->own == s->epoch;
}

static void test_every_verb(void **state) {
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
  /* They are records, too; what is refused is neither. */
  assert_int_equal(chalk_add(c, 0.5), CHALK_ENUMBER);
  assert_int_equal(chalk_record(h, NAN), CHALK_ENUMBER);
  assert_int_equal(chalk_tap_read(t), 0);
  assert_true(chalk_value(c) == 4 && chalk_value(l) == 5 && chalk_value(a) == -6 && chalk_value(h) == 4);
  free(c), free(l), free(a), free(h);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

static void test_only_the_kinds_it_is_on_for_pay(void **state) {
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
  chalk_tap_switch(g, COUNTS, 0, 1); /* no news */
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

/* chalk's own metrics would make events of being looked at. */
static void test_what_has_no_limit_stays_out(void **state) {
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

static void test_a_full_ring_drops_and_counts(void **state) {
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

/* Larger ones are wanted while events stand in those that are there. */
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
  /* The small one is used again. */
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

/* A number is given to another series only when the events of this one have been read: or they would be its. */
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

/* The next holder goes on where the last was, or, for those who only watch, begins with what comes. */
static void test_another_reader(void **state) {
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

/* What killed children had stored is there, whole; their slots' next owners go on in the same rings. */
static void test_children_and_kills(void **state) {
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
  /* Each child may have died between its last record and that record's event. */
  assert_true(seen + dropped <= total && seen + dropped >= total - CHILDREN);
  assert_true(recover_check(g));
  free(c);
  chalk_tap_close(t);
  chalk_writer_close(w);
  close_held(g);
}

static void test_without_memory_records_stay(void **state) {
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

/* Reads until there is no more; the events must be those that `next` counts up to. */
static uint32_t read_all(chalk_tap *t, int64_t *next) {
  uint32_t read = 0;
  for (uint32_t n; (n = chalk_tap_read(t)) > 0; read += n) {
    for (uint32_t i = 0; i < n; i++) assert_true(chalk_tap_events(t)[i].value == (double)(*next)++);
  }
  return read;
}

/* A VM that gives the role back after each flush may come to read when another has read meanwhile. */
static void test_readers_by_turns(void **state) {
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

/* What found no room while nobody read is told to who reads next, once. */
static void test_drops_are_told_once(void **state) {
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

/* Those of an hour ago, when it was switched off, are none of whoever switches it on. */
static void test_off_forgets(void **state) {
  (void)state;
  chalk_segment *g = open_held();
  chalk_writer *w = open_writer(g);
  chalk_series *c = bind(w, define(w, "c", CHALK_COUNT, 1, 0), "x");
  chalk_tap *t = open_tap(g, 0);
  for (int i = 0; i < CHALK_TAP_LEAST + 5; i++) chalk_add(c, 1);
  assert_true(chalk_tap_read(t) > 0);
  chalk_tap_switch(g, 0, 0, 0);
  tap_put(c, CHALK_EVENT_INC, 1); /* of a record that was under way */
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

/* A segment's file may be of anybody's bytes. */
static void test_what_is_no_event(void **state) {
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

/* Has the role, reads a part, is stopped, and goes on when all is another's. */
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

static void test_a_stopped_holder(void **state) {
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

/* Whoever takes events may fail in the middle of a batch: the next one is whole. */
static void test_a_batch_that_was_left(void **state) {
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

/* Rings and handles are used again, so that watching now and then costs what watching once does. */
static void test_switched_a_thousand_times(void **state) {
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
      cmocka_unit_test(test_every_verb),
      cmocka_unit_test(test_only_the_kinds_it_is_on_for_pay),
      cmocka_unit_test(test_what_has_no_limit_stays_out),
      cmocka_unit_test(test_a_full_ring_drops_and_counts),
      cmocka_unit_test(test_rings_grow_and_lose_nothing),
      cmocka_unit_test(test_events_of_writers_come_by_time),
      cmocka_unit_test(test_writers_without_a_slot_share_a_ring),
      cmocka_unit_test(test_a_number_waits_for_its_events),
      cmocka_unit_test(test_another_reader),
      cmocka_unit_test(test_children_and_kills),
      cmocka_unit_test(test_without_memory_records_stay),
      cmocka_unit_test(test_readers_by_turns),
      cmocka_unit_test(test_drops_are_told_once),
      cmocka_unit_test(test_off_forgets),
      cmocka_unit_test(test_what_is_no_event),
      cmocka_unit_test(test_a_stopped_holder),
      cmocka_unit_test(test_a_batch_that_was_left),
      cmocka_unit_test(test_switched_a_thousand_times),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
