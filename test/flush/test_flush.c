/* What is lost when these fail: `flush()` returns before what was recorded has been sent, or waits for a flush that was
   made long ago. */

#include "common.h"

static void test_a_ticket_waits_for_its_flush(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  uint64_t first = chalk_flush_request(g), second = chalk_flush_request(g);
  assert_true(second > first);
  assert_int_equal(chalk_flush_wait(g, first, 0), 1);
  chalk_flush_done(g, first);
  assert_int_equal(chalk_flush_wait(g, first, DEADLINE), CHALK_OK);
  assert_int_equal(chalk_flush_wait(g, second, 0), 1);
  chalk_flush_done(g, second);
  chalk_flush_done(g, first); /* a slower holder's, which comes late */
  assert_int_equal(chalk_flush_wait(g, second, 0), CHALK_OK);
  chalk_segment_close(g);
}

static void test_a_flush_answers_for_all_before_it(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  uint64_t tickets[10];
  for (int i = 0; i < 10; i++) tickets[i] = chalk_flush_request(g);
  double before = info_of(g).flushed;
  chalk_flush_done(g, tickets[9]);
  for (int i = 0; i < 10; i++) assert_int_equal(chalk_flush_wait(g, tickets[i], 0), CHALK_OK);
  assert_true(info_of(g).flushed > before);
  chalk_segment_close(g);
}

/* Processes that wait are woken by the one that flushes. */
static void test_waiters_are_woken(void **state) {
  (void)state;
  enum { WAITERS = 8 };
  chalk_segment *g = open_segment(NULL);
  pid_t pids[WAITERS];
  for (int i = 0; i < WAITERS; i++) {
    if ((pids[i] = fork_child()) != 0) continue;
    CHILD_CHECK(chalk_flush_wait(g, chalk_flush_request(g), DEADLINE) == CHALK_OK);
    _exit(0);
  }
  double end = chalk_now() + DEADLINE / 2;
  while (atomic_load(&g->head->requested) < WAITERS) {
    assert_true(chalk_now() < end);
    pause_ms(1);
  }
  chalk_flush_done(g, atomic_load(&g->head->requested));
  for (int i = 0; i < WAITERS; i++) join_child(pids[i]);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_ticket_waits_for_its_flush),
      cmocka_unit_test(test_a_flush_answers_for_all_before_it),
      cmocka_unit_test(test_waiters_are_woken),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
