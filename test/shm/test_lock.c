/*
 * What is lost when these fail: all processes of a service wait forever for a lock that a dead one had.
 *
 * The kernel passes on a lock whose owner died. But it does not notice if a waiter dies after it was woken and before
 * it took the lock, while another thread was faster: then nobody wakes the next waiter.
 *
 * The master of a server takes the same locks by hand, because the C library follows pointers inside of them. The
 * master must exclude other processes and be excluded by them, its death must be noticed, and nothing that another
 * process stores into a lock may hold it up.
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

/* Occupies a processor, so that a process that is woken there does not run until this one ends. */
static pid_t occupy(int cpu) {
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

static void test_a_waiter_that_dies_when_woken_holds_up_nobody(void **state) {
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
  pause_ms(100); /* so that it is the first in the queue */
  pid_t next = wait_for(lock, 1, &got[0]);
  pause_ms(100);
  pid_t busy = occupy(0);
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

static pid_t fork_as(bool master) {
  pid_t pid = fork_child();
  if (pid == 0 && master) chalk_inherit(1);
  return pid;
}

static void test_a_master_and_other_processes_exclude_each_other(void **state) {
  (void)state;
  enum { EACH = SANITIZED ? 2000 : 20000, PROCESSES = 4 };
  chalk_segment *g = open_segment(NULL);
  volatile uint64_t *n = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t pids[PROCESSES];
  for (int i = 0; i < PROCESSES; i++) {
    if ((pids[i] = fork_as(i % 2)) != 0) continue;
    for (int k = 0; k < EACH; k++) {
      CHILD_CHECK(segment_lock_reach_any(&g->head->registry));
      uint64_t was = *n;
      if (k % 100 == 0) sched_yield();
      *n = was + 1;
      segment_lock_give(&g->head->registry);
    }
    _exit(0);
  }
  for (int i = 0; i < PROCESSES; i++) join_child(pids[i]);
  assert_int_equal(*n, EACH * PROCESSES);
  munmap((void *)n, 4096);
  chalk_segment_close(g);
}

static void take_and_die(chalk_segment *g, bool master) {
  pid_t pid = fork_as(master);
  if (pid == 0) {
    segment_lock_take(&g->head->registry);
    segment_lock_take(&g->stripes[3].lock), segment_lock_give(&g->stripes[3].lock);
    segment_lock_take(&g->head->ids_lock), segment_lock_take(&g->head->heap_lock);
    segment_lock_give(&g->head->ids_lock);
    kill(getpid(), SIGKILL);
  }
  assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void find(chalk_segment *g, bool master) {
  pid_t pid = fork_as(master);
  if (pid == 0) {
    CHILD_CHECK(segment_lock_take(&g->head->registry));
    CHILD_CHECK(!segment_lock_take(&g->stripes[3].lock));
    CHILD_CHECK(!segment_lock_take(&g->head->ids_lock));
    CHILD_CHECK(segment_lock_take(&g->head->heap_lock));
    segment_lock_give(&g->head->heap_lock), segment_lock_give(&g->head->ids_lock);
    segment_lock_give(&g->stripes[3].lock), segment_lock_give(&g->head->registry);
    CHILD_CHECK(!segment_lock_take(&g->head->registry));
    segment_lock_give(&g->head->registry);
    _exit(0);
  }
  join_child(pid);
}

static void test_the_death_of_an_owner_is_noticed_by_a_master_and_by_others(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  for (int i = 0; i < 4; i++) take_and_die(g, i & 1), find(g, i & 2);
  chalk_segment_close(g);
}

static void test_a_master_follows_no_pointer_in_a_lock(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  pid_t pid = fork_as(true);
  if (pid == 0) {
    segment_lock *const locks[] = {&g->head->registry, &g->head->ids_lock, &g->head->heap_lock};
    for (int i = 0; i < 3; i++) {
      memset((char *)locks[i] + 4, 0x41, sizeof(segment_lock) - 4);
      CHILD_CHECK(segment_lock_reach_any(locks[i]));
      memset((char *)locks[i] + 4, 0x42, sizeof(segment_lock) - 4);
    }
    for (int i = 0; i < 3; i++) segment_lock_give(locks[i]);
    for (int i = 3; i-- > 0;) CHILD_CHECK(segment_lock_reach_any(locks[i]));
    for (int i = 0; i < 3; i++) segment_lock_give(locks[i]);
    exit(0); /* the C library walks its own list at the end */
  }
  join_child(pid);
  chalk_segment_close(g);
}

static void test_a_master_does_not_wait_forever(void **state) {
  (void)state;
  static const uint32_t words[] = {1, 0x3fffffff, 0xbfffffff, 0x80000001};
  chalk_segment *g = open_segment(NULL);
  pid_t pid = fork_as(true);
  if (pid == 0) {
    segment_lock_patience = 0.1;
    for (int i = 0; i < 4; i++) {
      *(uint32_t *)(void *)&g->head->registry = words[i];
      CHILD_CHECK(!segment_lock_reach_any(&g->head->registry));
    }
    *(uint32_t *)(void *)&g->head->registry = 0;
    CHILD_CHECK(segment_lock_reach_any(&g->head->registry));
    _exit(0);
  }
  join_child(pid);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_waiter_that_dies_when_woken_holds_up_nobody),
      cmocka_unit_test(test_a_master_and_other_processes_exclude_each_other),
      cmocka_unit_test(test_the_death_of_an_owner_is_noticed_by_a_master_and_by_others),
      cmocka_unit_test(test_a_master_follows_no_pointer_in_a_lock),
      cmocka_unit_test(test_a_master_does_not_wait_forever),
  };
  alarm(2 * DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
