/*
 * What is lost when these fail: events of a live stream carry wrong times, or come in another order than they were
 * recorded in.
 */

#include "common.h"

#include "base/ticks.h"

enum { TOLERANCE = 50000000 }; /* nanoseconds; the machine may be under load */

static void assert_near(uint64_t got, uint64_t wall) {
  uint64_t off = got > wall ? got - wall : wall - got;
  if (off > TOLERANCE) fail_msg("%llu ns off", (unsigned long long)off);
}

/* Both clocks are tested: the counter, if the kernel trusts it, and the wall clock. */
static void test_ticks_convert_to_wall_clock_time(void **state) {
  (void)state;
  for (int steady = 0; steady <= ticks_are_steady(); steady++) {
    ticks_scale s;
    ticks_begin(&s, steady);
    for (int i = 0; i < 5; i++) {
      assert_near(ticks_to_wall(&s, ticks_now(steady)), ticks_wall());
      pause_ms(2);
      if (i % 2) ticks_adjust(&s);
    }
  }
}

/* Adjusting moves the scale a little, forward or back. Ticks that are converted later still give no earlier time. */
static void test_adjusting_keeps_the_order_of_events(void **state) {
  (void)state;
  if (!ticks_are_steady()) skip();
  ticks_scale s;
  ticks_begin(&s, true);
  uint64_t last = 0;
  for (int i = 0; i < 100000; i++) {
    uint64_t wall = ticks_to_wall(&s, ticks_now(true));
    assert_true(wall >= last);
    last = wall;
    if (i % 1000 == 0) ticks_adjust(&s);
  }
}

/* Ticks in shared memory may come from another counter. The times of events after them are right again. */
static void test_ticks_of_another_counter_do_not_affect_later_ones(void **state) {
  (void)state;
  if (!ticks_are_steady()) skip();
  static const uint64_t foreign[] = {0, 1ull << 62, 1ull << 63, UINT64_MAX};
  ticks_scale s;
  ticks_begin(&s, true);
  for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
    ticks_to_wall(&s, foreign[i]);
    assert_near(ticks_to_wall(&s, ticks_now(true)), ticks_wall());
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ticks_convert_to_wall_clock_time),
      cmocka_unit_test(test_adjusting_keeps_the_order_of_events),
      cmocka_unit_test(test_ticks_of_another_counter_do_not_affect_later_ones),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
