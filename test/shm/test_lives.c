/*
 * What is lost when these fail: the flush loop stops for seconds, because it asks the kernel the same question once for
 * each series; or a slot counts as a dead process's although a live one has taken it meanwhile.
 */

#include "common.h"

#include "shm/lives.h"
#include "shm/process.h"
#include "flush/reclaim.h"
#include "series/series.h"

enum { CHILDREN = 5, SERIES = 300 };

typedef struct crowd {
  chalk_segment *g;
  chalk_writer *w;
  int metric;
  pid_t pids[CHILDREN];
  int go[CHILDREN][2], done[2];
} crowd;

static void tag_of(char *tag, int i) { snprintf(tag, 16, "%d", i); }

/* Records into every series through a slot of its own, then ticks whenever it is told to. */
static void live(crowd *c, int me) {
  char tag[16], byte = 0;
  for (int i = 0; i < SERIES; i++) {
    tag_of(tag, i);
    chalk_series *s = bind(c->w, c->metric, tag);
    CHILD_CHECK(chalk_add(s, 1) >= CHALK_OK);
    free(s);
  }
  do {
    chalk_writer_tick(c->w);
    CHILD_CHECK(write(c->done[1], &byte, 1) == 1);
  } while (read(c->go[me][0], &byte, 1) == 1);
  _exit(0);
}

static void await(crowd *c) {
  char byte;
  for (int i = 0; i < CHILDREN; i++) assert_int_equal(read(c->done[0], &byte, 1), 1);
}

static crowd gather(chalk_segment *g, chalk_writer *w, int metric) {
  crowd c = {.g = g, .w = w, .metric = metric};
  assert_int_equal(pipe(c.done), 0);
  for (int i = 0; i < CHILDREN; i++) {
    assert_int_equal(pipe(c.go[i]), 0);
    c.pids[i] = fork_child();
    if (c.pids[i] == 0) live(&c, i);
  }
  await(&c);
  return c;
}

static void tick(crowd *c) {
  for (int i = 0; i < CHILDREN; i++) assert_int_equal(write(c->go[i][1], "t", 1), 1);
  await(c);
  chalk_writer_tick(c->w);
}

static void disperse(crowd *c) {
  for (int i = 0; i < CHILDREN; i++) kill_child(c->pids[i]), close(c->go[i][0]), close(c->go[i][1]);
  close(c->done[0]), close(c->done[1]);
  chalk_writer_close(c->w);
  chalk_segment_close(c->g);
}

static uint64_t questions_of_sweep(chalk_segment *g, double now, double idle) {
  uint64_t before = process_questions();
  sweep(g, now, idle);
  return process_questions() - before;
}

static void test_a_sweep_asks_at_most_once_for_each_slot(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  crowd c = gather(g, w, define(w, "requests", CHALK_COUNT, 1, 0));
  sweep(g, 1000, 10);
  /* No process has seen the drop, so the sweep has to ask which ones are dead. */
  assert_true(questions_of_sweep(g, 2000, 10) <= CHILDREN);
  assert_int_equal(info_of(g).quarantined, SERIES);
  /* All processes have seen the drop, so the sweep does not need to ask. */
  tick(&c);
  assert_int_equal(questions_of_sweep(g, 3000, 10), 0);
  assert_int_equal(info_of(g).quarantined, 0);
  disperse(&c);
}

static void test_a_sweep_waits_for_live_processes_and_not_for_dead_ones(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  crowd c = gather(g, w, define(w, "requests", CHALK_COUNT, 1, 0));
  chalk_clear(w, (uint32_t)c.metric);
  chalk_writer_tick(w);
  for (int i = 1; i < CHILDREN; i++) kill_child(c.pids[i]);
  sweep(g, 1000, 0), sweep(g, 2000, 0);
  assert_int_equal(info_of(g).quarantined, SERIES);
  kill_child(c.pids[0]);
  assert_true(questions_of_sweep(g, 3000, 0) <= CHILDREN);
  assert_int_equal(info_of(g).quarantined, 0);
  for (int i = 0; i < CHILDREN; i++) {
    c.pids[i] = fork_child();
    if (c.pids[i] == 0) pause();
  }
  disperse(&c);
}

static void test_a_snapshot_asks_at_most_once_for_each_slot(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  crowd c = gather(g, w, define_across(w, "load", CHALK_SUM));
  uint64_t before = process_questions();
  chalk_snapshot *s = take(g, 1);
  assert_true(process_questions() - before <= CHILDREN);
  uint32_t n;
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  assert_int_equal(n, SERIES);
  for (uint32_t i = 0; i < n; i++) assert_true(entries[i].value == CHILDREN);
  chalk_snapshot_free(s);
  disperse(&c);
}

/* A pass that has found the old owner dead must not take away the new owner's cells. */
static void test_an_answer_about_a_slot_is_valid_for_one_owner(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  chalk_series *s = bind(w, metric, "x");
  pid_t pid = fork_child();
  if (pid == 0) {
    chalk_add(s, 1);
    CHILD_CHECK(chalk_writer_slot(w) == 2);
    _exit(0);
  }
  join_child(pid);
  lives known;
  lives_begin(&known, g);
  assert_false(lives_on(&known, 2));
  chalk_writer *next = open_writer(g);
  assert_int_equal(chalk_writer_slot(next), 2);
  define(next, "requests", CHALK_COUNT, 1, 0);
  chalk_series *other = bind(next, metric, "x");
  drop(w, metric, "x");
  chalk_writer_tick(w);
  assert_false(reclaim_series(g, other->series, &known));
  chalk_writer_tick(next);
  assert_true(reclaim_series(g, other->series, &known));
  free(s), free(other);
  chalk_writer_close(next), chalk_writer_close(w);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_sweep_asks_at_most_once_for_each_slot),
      cmocka_unit_test(test_a_sweep_waits_for_live_processes_and_not_for_dead_ones),
      cmocka_unit_test(test_a_snapshot_asks_at_most_once_for_each_slot),
      cmocka_unit_test(test_an_answer_about_a_slot_is_valid_for_one_owner),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
