/* What is lost when these fail: the application, when a process runs out of threads or descriptors, or its metrics from
   then on. A flush thread is started without either being there, says what is lacking, and tries again. */

#define _GNU_SOURCE /* pthread_setattr_default_np, RTLD_NEXT */
#include <dlfcn.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "common.h"
#include "host.h"

/* A default stack that no flush thread takes, in bytes. */
enum { LARGE = 256 << 20 };

static shared_u32 calls, joins;

/* In place of the library's. A thread that was not made has no id, and to join one may or may not crash. */
int pthread_join(pthread_t id, void **result) {
  int (*real)(pthread_t, void **);
  *(void **)&real = dlsym(RTLD_NEXT, "pthread_join");
  atomic_fetch_add(&joins, 1);
  return real(id, result);
}

/* A chunk that fails at first. */
static int third_time(void *state, int arguments, int results, int handler) {
  (void)state, (void)arguments, (void)results, (void)handler;
  if (atomic_fetch_add(&calls, 1) < 2) return 1;
  chalk_thread_ready(chalk_thread_self(), NULL);
  return 0;
}

static int at_once(void *state, int arguments, int results, int handler) {
  (void)state, (void)arguments, (void)results, (void)handler;
  atomic_fetch_add(&calls, 1);
  chalk_thread_ready(chalk_thread_self(), NULL);
  return 0;
}

static void make_stacks_large(void) {
  pthread_attr_t a;
  pthread_attr_init(&a);
  CHILD_CHECK(pthread_attr_setstacksize(&a, LARGE) == 0);
  CHILD_CHECK(pthread_setattr_default_np(&a) == 0);
}

/* No thread may be made by a user that has as many as it may. */
static void allow_no_threads(void) {
  enum { SOMEBODY = 54321 };
  if (getuid() == 0) CHILD_CHECK(setuid(SOMEBODY) == 0);
  CHILD_CHECK(setrlimit(RLIMIT_NPROC, &(struct rlimit){1, 1}) == 0);
}

static void test_no_thread_to_be_had(void **state) {
  (void)state;
  pid_t pid = fork_child();
  if (pid == 0) {
    char message[CHALK_MESSAGE] = "";
    make_stacks_large();
    allow_no_threads();
    for (int i = 0; i < 3; i++) {
      CHILD_CHECK(host_start(&calls, at_once, NULL, 0, message) == NULL);
      CHILD_CHECK(strstr(message, "cannot start the flush thread"));
      CHILD_CHECK(atomic_load(&joins) == 0);
    }
    _exit(0);
  }
  join_child(pid);
}

/* Fails if its stack is as large as the default. */
static int measure(void *state, int arguments, int results, int handler) {
  pthread_attr_t a;
  size_t size = LARGE;
  pthread_getattr_np(pthread_self(), &a);
  pthread_attr_getstacksize(&a, &size);
  pthread_attr_destroy(&a);
  return size < LARGE ? at_once(state, arguments, results, handler) : 1;
}

/* `ulimit -s` is for recursive programs: a flush thread takes no such stack. */
static void test_stack_is_bounded(void **state) {
  (void)state;
  pid_t pid = fork_child();
  if (pid == 0) {
    char message[CHALK_MESSAGE] = "";
    make_stacks_large();
    chalk_thread *t = host_start(&calls, measure, NULL, 0, message);
    CHILD_CHECK(t);
    CHILD_CHECK(chalk_thread_wait_ready(t, DEADLINE, message) == CHALK_OK);
    CHILD_CHECK(chalk_thread_wait(t, DEADLINE) == 1);
    chalk_thread_free(t);
    _exit(0);
  }
  join_child(pid);
}

static void test_vm_that_fails_is_made_again(void **state) {
  (void)state;
  char message[CHALK_MESSAGE] = "";
  chalk_segment *g = open_segment(NULL);
  atomic_store(&calls, 0);
  chalk_thread *t = host_start(&calls, third_time, g, 1, message);
  assert_non_null(t);
  assert_int_equal(chalk_thread_wait_ready(t, DEADLINE, message), CHALK_EINVALID);
  assert_string_equal(message, "it failed");
  assert_int_equal(chalk_thread_wait(t, DEADLINE), 1);
  assert_int_equal(atomic_load(&calls), 3);
  assert_int_equal(chalk_hold(g, 1), 1); /* it gave the role back */
  chalk_release(g);
  chalk_thread_free(t);
  chalk_segment_close(g);
}

/* While one that fails pauses, it ends at once when it is asked to, and others can have the role. */
static int never(void *state, int arguments, int results, int handler) {
  (void)state, (void)arguments, (void)results, (void)handler;
  return 1;
}

static void test_pause_ends_with_the_thread(void **state) {
  (void)state;
  char message[CHALK_MESSAGE] = "";
  chalk_segment *g = open_segment(NULL);
  chalk_thread *t = host_start(&calls, never, g, 1, message);
  assert_non_null(t);
  assert_int_equal(chalk_thread_wait_ready(t, DEADLINE, message), CHALK_EINVALID);
  while (chalk_hold(g, 1) != 1) pause_ms(1);
  chalk_thread_stop(t);
  assert_int_equal(chalk_thread_wait(t, DEADLINE), 1);
  chalk_thread_free(t);
  chalk_release(g);
  chalk_segment_close(g);
}

/* Takes all descriptors but `left`. */
static int take_descriptors(int *fds, int left) {
  int n = 0;
  CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &(struct rlimit){64, 64}) == 0);
  while ((fds[n] = eventfd(0, EFD_CLOEXEC)) >= 0) n++;
  while (left-- > 0) close(fds[--n]);
  return n;
}

/* The thread waits, without the role, for descriptors that its VM needs. */
static void wait_for_descriptors(int left) {
  char message[CHALK_MESSAGE] = "";
  int fds[64];
  chalk_segment *g = open_segment(NULL);
  int n = take_descriptors(fds, left);
  chalk_thread *t = host_start(&calls, at_once, g, 1, message);
  CHILD_CHECK(t);
  CHILD_CHECK(chalk_thread_wait_ready(t, DEADLINE, message) != CHALK_OK);
  CHILD_CHECK(strstr(message, "file descriptors"));
  CHILD_CHECK(atomic_load(&calls) == 0);
  while (chalk_hold(g, 1) != 1) pause_ms(1); /* it lets go once it has looked */
  chalk_release(g);
  while (n > 0) close(fds[--n]);
  CHILD_CHECK(chalk_thread_wait(t, DEADLINE) == 1);
  CHILD_CHECK(atomic_load(&calls) == 1);
  chalk_thread_free(t);
  chalk_segment_close(g);
}

static void test_waits_for_descriptors(void **state) {
  (void)state;
  atomic_store(&calls, 0);
  for (int left = 0; left <= 9; left++) {
    pid_t pid = fork_child();
    if (pid == 0) {
      wait_for_descriptors(left);
      _exit(0);
    }
    join_child(pid);
  }
}

static void test_a_thread_needs_a_chunk(void **state) {
  (void)state;
  const chalk_lua lua = {host_new, host_open, host_load, host_push, at_once, host_say, host_open};
  char message[CHALK_MESSAGE] = "";
  assert_null(chalk_thread_start(&lua, NULL, NULL, 0, NULL, 0, message));
  assert_non_null(strstr(message, "no chunk"));
}

/* Without end, for it ends; and not at all, where the time is none. */
static void test_timeouts_that_are_no_time(void **state) {
  (void)state;
  static const double none[] = {0, -1, -INFINITY, NAN};
  char message[CHALK_MESSAGE] = "";
  chalk_segment *g = open_segment(NULL);
  assert_int_equal(chalk_hold(g, 1), 1);
  chalk_thread *t = host_start(&calls, at_once, g, 1, message);
  assert_non_null(t);
  alarm(DEADLINE);
  for (int i = 0; i < 4; i++) assert_int_equal(chalk_thread_wait(t, none[i]), 0);
  assert_int_equal(chalk_thread_wait_ready(t, INFINITY, message), CHALK_OK);
  chalk_thread_abandon(t);
  assert_int_equal(chalk_thread_wait(t, INFINITY), 1);
  alarm(0);
  chalk_thread_free(t);
  chalk_release(g);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_no_thread_to_be_had),         cmocka_unit_test(test_stack_is_bounded),
      cmocka_unit_test(test_vm_that_fails_is_made_again), cmocka_unit_test(test_pause_ends_with_the_thread),
      cmocka_unit_test(test_waits_for_descriptors),       cmocka_unit_test(test_a_thread_needs_a_chunk),
      cmocka_unit_test(test_timeouts_that_are_no_time),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
