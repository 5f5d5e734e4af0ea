/*
 * What is lost when these fail: two processes push metrics at once; or none does, because the process that flushed has
 * ended, hangs or runs an older configuration, and no other process takes the flusher's role.
 */

#include "common.h"

#include "shm/role.h"

enum { CONFIGURATION = 1, NEWER = 2 };

static bool has_role(chalk_segment *g, uint32_t configuration) { return chalk_hold(g, configuration) == 1; }

/* Forks a child that takes the role, calls `then`, and waits to be killed. */
static pid_t fork_holder(chalk_segment *g, void (*then)(chalk_segment *g)) {
  int ready[2];
  char byte = 0;
  assert_int_equal(pipe(ready), 0);
  pid_t pid = fork_child();
  if (pid == 0) {
    CHILD_CHECK(has_role(g, CONFIGURATION));
    CHILD_CHECK(write(ready[1], &byte, 1) == 1);
    if (then) then(g);
    for (;;) pause();
  }
  assert_int_equal(read(ready[0], &byte, 1), 1);
  close(ready[0]), close(ready[1]);
  return pid;
}

static void wait_stopped(pid_t pid) {
  int status = 0;
  assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
  assert_true(WIFSTOPPED(status));
}

/* Makes the last heartbeat of the holder an old one. */
static void age_heartbeat(chalk_segment *g) { store_double(&g->head->heartbeat, chalk_now() - 3600); }

static void test_one_process_has_the_role(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  assert_true(has_role(g, CONFIGURATION));
  pid_t pid = fork_child();
  if (pid == 0) {
    CHILD_CHECK(!has_role(g, CONFIGURATION));
    _exit(0);
  }
  join_child(pid);
  chalk_release(g);
  pid = fork_holder(g, NULL);
  assert_false(has_role(g, CONFIGURATION));
  kill_child(pid);
  chalk_segment_close(g);
}

/* The dead holder may have been changing the number of series, so the next holder counts them again. */
static void test_the_role_passes_on_when_the_holder_dies(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  for (int i = 0; i < 10; i++) {
    atomic_store(&g->head->recount, 0);
    kill_child(fork_holder(g, NULL));
    assert_true(has_role(g, CONFIGURATION));
    assert_int_equal(atomic_load(&g->head->recount), 1);
    assert_false(role_is_lost(g));
    chalk_release(g);
  }
  chalk_segment_close(g);
}

/*
 * A reload starts a newer configuration. It flushes as soon as the older one has seen its claim and released the role.
 */
static void test_a_newer_configuration_has_priority(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  assert_true(has_role(g, CONFIGURATION));
  assert_false(chalk_is_claimed(g, CONFIGURATION));
  assert_false(has_role(g, NEWER)); /* the role is not free, but it is claimed now */
  assert_true(chalk_is_claimed(g, CONFIGURATION));
  assert_false(chalk_is_claimed(g, NEWER));
  chalk_release(g);
  assert_false(has_role(g, CONFIGURATION));
  assert_true(has_role(g, NEWER));
  chalk_release(g);
  chalk_segment_close(g);
}

/* A claim is valid for a limited time, because its process may die. Then the older configuration continues. */
static void test_a_claim_expires(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  assert_true(has_role(g, NEWER));
  chalk_release(g);
  assert_false(has_role(g, CONFIGURATION));
  atomic_fetch_sub(&g->head->claim, 1000); /* milliseconds, as if nobody had renewed it */
  assert_true(has_role(g, CONFIGURATION));
  chalk_release(g);
  chalk_segment_close(g);
}

static void stop(chalk_segment *g) {
  (void)g;
  raise(SIGSTOP);
  CHILD_CHECK(role_is_lost(g) && !role_enter(g));
  _exit(0);
}

/*
 * A stopped process keeps its lock. Another process takes the role, and the stopped one changes nothing when it
 * continues.
 */
static void test_a_stopped_holder_loses_the_role(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  pid_t pid = fork_holder(g, stop);
  wait_stopped(pid);
  chalk_heartbeat(g);
  assert_false(has_role(g, CONFIGURATION)); /* its heartbeat is recent */
  age_heartbeat(g);
  assert_true(has_role(g, CONFIGURATION));
  kill(pid, SIGCONT);
  join_child(pid);
  assert_true(role_enter(g));
  role_leave(g);
  chalk_release(g);
  chalk_segment_close(g);
}

static void stop_in_a_change(chalk_segment *g) {
  CHILD_CHECK(role_enter(g));
  raise(SIGSTOP);
  role_leave(g);
  stop(g);
}

/* Two processes never change at once what only the holder may change. */
static void test_the_role_waits_for_an_unfinished_change(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  pid_t pid = fork_holder(g, stop_in_a_change);
  wait_stopped(pid);
  age_heartbeat(g);
  assert_false(has_role(g, CONFIGURATION));
  kill(pid, SIGCONT);
  wait_stopped(pid); /* it stops again after the change */
  assert_true(has_role(g, CONFIGURATION));
  kill(pid, SIGCONT);
  join_child(pid);
  chalk_release(g);
  chalk_segment_close(g);
}

static void die_in_a_change(chalk_segment *g) {
  CHILD_CHECK(role_enter(g));
  raise(SIGKILL);
}

static void test_a_death_in_a_change_holds_nobody_up(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  pid_t pid = fork_holder(g, die_in_a_change);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  assert_true(has_role(g, CONFIGURATION));
  atomic_store(&g->head->recount, 0);
  assert_true(role_enter(g));
  assert_int_equal(atomic_load(&g->head->recount), 1);
  role_leave(g);
  chalk_release(g);
  chalk_segment_close(g);
}

/* A holder that ends announces its last flush. The announcement ends when another process has the role. */
static void test_the_last_flush_is_announced(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  assert_true(has_role(g, CONFIGURATION));
  assert_false(role_is_left(g));
  chalk_leave(g);
  assert_true(role_is_left(g));
  chalk_release(g);
  assert_true(has_role(g, CONFIGURATION));
  assert_false(role_is_left(g));
  chalk_release(g);
  chalk_segment_close(g);
}

/* A flush thread reserves the role before it creates its VM, so of many waiting threads only one pays for a VM. */
static void test_a_reservation_is_used_or_given_back(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  assert_true(role_reserve(g, CONFIGURATION));
  pid_t pid = fork_child();
  if (pid == 0) {
    role_unreserve(); /* no effect: the reservation is the parent's */
    CHILD_CHECK(!role_reserve(g, CONFIGURATION));
    _exit(0);
  }
  kill_child(pid);
  assert_true(has_role(g, CONFIGURATION));
  role_unreserve(); /* no effect: the reservation was used */
  assert_false(has_role(g, CONFIGURATION));
  chalk_release(g);
  assert_true(role_reserve(g, CONFIGURATION));
  role_unreserve();
  assert_true(has_role(g, CONFIGURATION));
  chalk_release(g);
  chalk_segment_close(g);
}

static void test_generations_only_rise(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  uint32_t first = chalk_generation(g, 0);
  assert_int_equal(chalk_generation(g, 1), first + 1);
  chalk_generation_reach(g, first + 5);
  assert_int_equal(chalk_generation(g, 0), first + 5);
  chalk_generation_reach(g, first);
  assert_int_equal(chalk_generation(g, 0), first + 5);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_process_has_the_role),
      cmocka_unit_test(test_the_role_passes_on_when_the_holder_dies),
      cmocka_unit_test(test_a_newer_configuration_has_priority),
      cmocka_unit_test(test_a_claim_expires),
      cmocka_unit_test(test_a_stopped_holder_loses_the_role),
      cmocka_unit_test(test_the_role_waits_for_an_unfinished_change),
      cmocka_unit_test(test_a_death_in_a_change_holds_nobody_up),
      cmocka_unit_test(test_the_last_flush_is_announced),
      cmocka_unit_test(test_a_reservation_is_used_or_given_back),
      cmocka_unit_test(test_generations_only_rise),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
