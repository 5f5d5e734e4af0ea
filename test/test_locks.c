/*
 * A lock of the segment across deaths. The kernel hands on what a dead owner held; what it does not see is a waiter that
 * died after it was woken and before it had the lock, when somebody else was quicker: nobody wakes the next one then.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/mman.h>

#include "common.h"

static void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}

static pid_t wait_for(segment_lock *lock, int cpu, _Atomic int *got) {
  pid_t pid = fork_child();
  if (pid != 0) return pid;
  pin(cpu);
  segment_lock_take(lock);
  *got = 1;
  segment_lock_give(lock);
  _exit(0);
}

/* Whoever is woken on this processor does not run until it ends. */
static pid_t hog(int cpu) {
  pid_t pid = fork_child();
  if (pid != 0) return pid;
  pin(cpu);
  if (sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 10}) != 0) _exit(1);
  for (;;) continue;
}

static void end(pid_t pid) {
  kill(pid, SIGKILL);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_a_waiter_dies_when_it_is_woken(void **state) {
  (void)state;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0 || CPU_COUNT(&set) < 2 || !CPU_ISSET(0, &set) ||
      !CPU_ISSET(1, &set)) {
    print_message("skipped: one processor\n");
    return;
  }
  chalk_segment *g = open_segment(NULL);
  segment_lock *lock = &g->head->heap_lock;
  _Atomic int *got = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_true((void *)got != MAP_FAILED);
  pin(1);
  segment_lock_take(lock);
  pid_t woken = wait_for(lock, 0, &got[1]);
  pause_ms(100); /* the first in the queue */
  pid_t next = wait_for(lock, 1, &got[0]);
  pause_ms(100);
  pid_t busy = hog(0);
  pause_ms(20);
  segment_lock_give(lock);
  segment_lock_take(lock);
  kill(woken, SIGKILL);
  end(busy);
  assert_int_equal(waitpid(woken, NULL, 0), woken);
  segment_lock_give(lock);
  double deadline = chalk_now() + DEADLINE;
  while (!*got && chalk_now() < deadline) pause_ms(5);
  assert_int_equal(*got, 1);
  assert_int_equal(waitpid(next, NULL, 0), next);
  sched_setaffinity(0, sizeof set, &set);
  munmap((void *)got, 4096);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_waiter_dies_when_it_is_woken)};
  alarm(2 * DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
