/* What is lost when these fail: metrics are pushed by two processes at once, or by none, because the process that
   flushed has ended, hangs or runs an older configuration and no other one takes the flusher's role. */

#include "common.h"

#include "shm/role.h"

enum { CONFIGURATION = 1, NEWER = 2 };

static bool has_role(chalk_segment *g, uint32_t configuration) { return chalk_hold(g, configuration) == 1; }

/* A child that takes the role, does what `then` says, and waits to be killed. */
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

/* As if the holder's heart had not beaten for long. */
static void age_heartbeat(chalk_segment *g) { store_double(&g->head->heartbeat, chalk_now() - 3600); }

static void test_one_has_it(void **state) {
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

/* The dead process may have been in the middle of counting series, so its heir counts them anew. */
static void test_the_dead_are_inherited_from(void **state) {
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

/* A reload starts a newer configuration, which flushes as soon as the older one has been told and has let go. */
static void test_a_newer_configuration_has_priority(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  assert_true(has_role(g, CONFIGURATION));
  assert_false(chalk_is_claimed(g, CONFIGURATION));
  assert_false(has_role(g, NEWER)); /* it is held, but now it is claimed */
  assert_true(chalk_is_claimed(g, CONFIGURATION));
  assert_false(chalk_is_claimed(g, NEWER));
  chalk_release(g);
  assert_false(has_role(g, CONFIGURATION));
  assert_true(has_role(g, NEWER));
  chalk_release(g);
  chalk_segment_close(g);
}

/* A claim is good for a while only: whoever made it may have died, and then the older configuration goes on. */
static void test_a_claim_lapses(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  assert_true(has_role(g, NEWER));
  chalk_release(g);
  assert_false(has_role(g, CONFIGURATION));
  atomic_fetch_sub(&g->head->claim, 1000); /* milliseconds, in which nobody has claimed it again */
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

/* A stopped process keeps its lock. The role goes on without it, and once it runs again it changes nothing. */
static void test_a_stopped_holder_loses_it(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  pid_t pid = fork_holder(g, stop);
  wait_stopped(pid);
  chalk_heartbeat(g);
  assert_false(has_role(g, CONFIGURATION)); /* its heart has just beaten */
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
static void test_a_change_is_waited_for(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  pid_t pid = fork_holder(g, stop_in_a_change);
  wait_stopped(pid);
  age_heartbeat(g);
  assert_false(has_role(g, CONFIGURATION));
  kill(pid, SIGCONT);
  wait_stopped(pid); /* again, after the change */
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

/* The last flush of a holder that ends is announced, until another one has the role. */
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

/* A flush thread reserves the role before it makes a VM for it: of many that wait only one pays for a VM. */
static void test_a_reservation(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  assert_true(role_reserve(g, CONFIGURATION));
  pid_t pid = fork_child();
  if (pid == 0) {
    role_unreserve(); /* which is the parent's, not this process's */
    CHILD_CHECK(!role_reserve(g, CONFIGURATION));
    _exit(0);
  }
  kill_child(pid);
  assert_true(has_role(g, CONFIGURATION));
  role_unreserve(); /* it was used: nothing is given back */
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
      cmocka_unit_test(test_one_has_it),
      cmocka_unit_test(test_the_dead_are_inherited_from),
      cmocka_unit_test(test_a_newer_configuration_has_priority),
      cmocka_unit_test(test_a_claim_lapses),
      cmocka_unit_test(test_a_stopped_holder_loses_it),
      cmocka_unit_test(test_a_change_is_waited_for),
      cmocka_unit_test(test_a_death_in_a_change_holds_nobody_up),
      cmocka_unit_test(test_the_last_flush_is_announced),
      cmocka_unit_test(test_a_reservation),
      cmocka_unit_test(test_generations_only_rise),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
