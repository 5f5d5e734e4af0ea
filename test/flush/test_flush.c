/* What is lost when these fail: `flush()` returns before what was recorded has been sent, or waits for a flush that is
   long done; or a sweep drops series that are in use. */

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
  chalk_flush_done(g, first); /* a slower holder reports an older ticket late */
  assert_int_equal(chalk_flush_wait(g, second, 0), CHALK_OK);
  chalk_segment_close(g);
}

static void test_a_flush_serves_all_earlier_tickets(void **state) {
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

/* The process that flushes wakes the processes that wait. */
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

static void test_a_ticket_is_not_done_before_it_is_given(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_flush_done(g, 100);
  uint64_t ticket = chalk_flush_request(g);
  assert_int_equal(chalk_flush_wait(g, ticket, 0), 1);
  chalk_flush_done(g, ticket + 100);
  assert_int_equal(chalk_flush_wait(g, ticket, 0), CHALK_OK);
  assert_int_equal(chalk_flush_wait(g, chalk_flush_request(g), 0), 1);
  chalk_segment_close(g);
}

/* The alarm ends a wait that would last for ever. */
static void test_a_negative_timeout_does_not_wait(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  uint64_t ticket = chalk_flush_request(g);
  alarm(DEADLINE);
  assert_int_equal(chalk_flush_wait(g, ticket, -1), 1);
  assert_int_equal(chalk_flush_wait(g, ticket, NAN), 1);
  alarm(0);
  chalk_flush_done(g, ticket);
  assert_int_equal(chalk_flush_wait(g, ticket, INFINITY), CHALK_OK);
  chalk_segment_close(g);
}

static void test_an_idle_timeout_of_zero_drops_nothing(void **state) {
  (void)state;
  static const double none[] = {0, -1, NAN};
  chalk_segment *g = open_segment(NULL);
  assert_int_equal(chalk_hold(g, 1), 1);
  chalk_writer *w = open_writer(g);
  chalk_series *s = bind(w, define(w, "c", CHALK_COUNT, 1, 0), "x");
  assert_int_equal(chalk_add(s, 1), CHALK_OK);
  for (int i = 0; i < 3; i++) {
    assert_int_equal(sweep(g, 1e6 * (2 * i + 1), none[i]), 0);
    assert_int_equal(sweep(g, 1e6 * (2 * i + 2), none[i]), 0);
  }
  assert_int_equal(sweep(g, 1e8, 60), 1);
  free(s);
  chalk_writer_close(w);
  chalk_release(g);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_ticket_waits_for_its_flush),
      cmocka_unit_test(test_a_flush_serves_all_earlier_tickets),
      cmocka_unit_test(test_a_ticket_is_not_done_before_it_is_given),
      cmocka_unit_test(test_a_negative_timeout_does_not_wait),
      cmocka_unit_test(test_an_idle_timeout_of_zero_drops_nothing),
      cmocka_unit_test(test_waiters_are_woken),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
