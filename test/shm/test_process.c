/*
 * What is lost when these fail: a slot is taken away from a live process; or it stays with a dead one, because another
 * process has its id by now; or a forked child waits for a lock that none of its threads has.
 */

#include "common.h"

#include <sys/mman.h>

#include "shm/process.h"

/* Shared with children, which store their identity here. */
static owner *theirs;

static int map_owner(void **state) {
  (void)state;
  theirs = mmap(NULL, sizeof *theirs, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return theirs == MAP_FAILED ? -1 : 0;
}

/* Forks a child that has stored its identity. */
static pid_t fork_known(void) {
  int ready[2];
  char byte = 0;
  assert_int_equal(pipe(ready), 0);
  pid_t pid = fork_child();
  if (pid == 0) {
    process_own(theirs);
    CHILD_CHECK(write(ready[1], &byte, 1) == 1);
    for (;;) pause();
  }
  assert_int_equal(read(ready[0], &byte, 1), 1);
  close(ready[0]), close(ready[1]);
  return pid;
}

static void test_a_process_knows_itself(void **state) {
  (void)state;
  owner self = {0};
  process_own(&self);
  assert_int_equal(self.pid, getpid());
  assert_true(process_is_own(&self));
  assert_true(process_is_near(&self));
  uint64_t before = process_questions();
  assert_false(process_is_dead(&self));
  assert_int_equal(process_questions(), before); /* and the kernel was not asked */
}

static void test_a_forked_child_is_another_process(void **state) {
  (void)state;
  owner self = {0};
  process_own(&self);
  pid_t pid = fork_child();
  if (pid == 0) {
    CHILD_CHECK(!process_is_own(&self) && !process_is_dead(&self));
    owner own = {0};
    process_own(&own);
    CHILD_CHECK(process_is_own(&own) && own.pid == (uint32_t)getpid());
    _exit(0);
  }
  join_child(pid);
}

static void test_a_zombie_and_a_reaped_process_are_dead(void **state) {
  (void)state;
  pid_t pid = fork_known();
  assert_false(process_is_own(theirs));
  assert_false(process_is_dead(theirs));
  kill(pid, SIGKILL);
  siginfo_t info;
  assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
  assert_true(process_is_dead(theirs)); /* it is a zombie */
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  assert_true(process_is_dead(theirs));
}

/* An id alone proves nothing: the kernel reuses it for other processes, and it stays the same in an exec. */
static void test_another_process_with_the_same_id_is_recognised(void **state) {
  (void)state;
  pid_t pid = fork_known();
  owner was = {.pid = theirs->pid, .start = theirs->start, .image = theirs->image, .space = theirs->space};
  assert_false(process_is_dead(&was));
  was.start = theirs->start + 1;
  assert_true(process_is_dead(&was));
  was.start = theirs->start;
  if (theirs->image) {
    was.image = theirs->image + 1;
    assert_true(process_is_dead(&was));
  }
  /* Unknown fields prove nothing. */
  was.start = 0;
  was.image = 0;
  assert_false(process_is_dead(&was));
  kill_child(pid);
}

static void test_a_process_of_another_namespace_counts_as_alive(void **state) {
  (void)state;
  kill_child(fork_known());
  owner foreign = {.pid = theirs->pid, .start = theirs->start, .space = theirs->space + 1};
  assert_false(process_is_near(&foreign));
  assert_false(process_is_dead(&foreign));
  owner nobody = {.space = theirs->space};
  assert_false(process_is_dead(&nobody));
}

static void test_a_stopped_process_is_recognised(void **state) {
  (void)state;
  pid_t pid = fork_known();
  assert_false(process_is_stopped(theirs));
  kill(pid, SIGSTOP);
  int status = 0;
  assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
  assert_true(process_is_stopped(theirs));
  assert_false(process_is_dead(theirs));
  kill(pid, SIGCONT);
  assert_int_equal(waitpid(pid, &status, WCONTINUED), pid);
  assert_false(process_is_stopped(theirs));
  kill_child(pid);
}

static int called;
static void hook(void) { called++; }

/* A process may fork while another of its threads holds the lock. In the child nobody would ever release it. */
static void test_a_fork_resets_the_lock_and_calls_each_hook_once(void **state) {
  (void)state;
  process_at_fork(hook);
  process_at_fork(hook);
  uint32_t forks = process_forks();
  process_lock();
  pid_t pid = fork_child();
  if (pid == 0) {
    alarm(DEADLINE / 2);
    process_lock();
    process_unlock();
    CHILD_CHECK(called == 1 && process_forks() == forks + 1);
    _exit(0);
  }
  process_unlock();
  join_child(pid);
  assert_int_equal(called, 0);
  assert_int_equal(process_forks(), forks + 1);
}

static void test_a_long_message_is_cut(void **state) {
  (void)state;
  char message[CHALK_MESSAGE + 1];
  message[CHALK_MESSAGE] = 'x';
  process_say(message, "%*d", 2 * CHALK_MESSAGE, 7);
  assert_int_equal(strlen(message), CHALK_MESSAGE - 1);
  assert_int_equal(message[CHALK_MESSAGE], 'x');
  process_say(NULL, "%d", 7);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_process_knows_itself),
      cmocka_unit_test(test_a_forked_child_is_another_process),
      cmocka_unit_test(test_a_zombie_and_a_reaped_process_are_dead),
      cmocka_unit_test(test_another_process_with_the_same_id_is_recognised),
      cmocka_unit_test(test_a_process_of_another_namespace_counts_as_alive),
      cmocka_unit_test(test_a_stopped_process_is_recognised),
      cmocka_unit_test(test_a_fork_resets_the_lock_and_calls_each_hook_once),
      cmocka_unit_test(test_a_long_message_is_cut),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, map_owner, NULL);
}
