/* What is lost when these fail: a program that asked for a flush goes on before its records were sent, or waits for ever,
   and series that are in use leave. */

#include "common.h"

static void test_a_ticket_is_done_once_it_was_given(void **state) {
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

/* A wait that never ended would end by the alarm. */
static void test_a_timeout_that_is_no_time_is_over(void **state) {
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

static void test_an_idle_time_that_is_none_drops_nothing(void **state) {
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
      cmocka_unit_test(test_a_ticket_is_done_once_it_was_given),
      cmocka_unit_test(test_a_timeout_that_is_no_time_is_over),
      cmocka_unit_test(test_an_idle_time_that_is_none_drops_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
