/* What is lost when these fail: the application, if a process runs out of threads or descriptors, or its metrics from
   then on. A flush thread that lacks one of them says so and tries again. */

#define _GNU_SOURCE /* pthread_setattr_default_np, RTLD_NEXT */
#include <dlfcn.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "common.h"
#include "host.h"

/* Bytes of a default stack, which is larger than that of a flush thread. */
enum { LARGE = 256 << 20 };

static shared_u32 calls, joins;

/* Stands in for the library's and counts its calls: joining a thread that was never made may crash. */
int pthread_join(pthread_t id, void **result) {
  int (*real)(pthread_t, void **);
  *(void **)&real = dlsym(RTLD_NEXT, "pthread_join");
  atomic_fetch_add(&joins, 1);
  return real(id, result);
}

/* A chunk that fails twice, then succeeds. */
static int succeed_the_third_time(void *state, int arguments, int results, int handler) {
  (void)state, (void)arguments, (void)results, (void)handler;
  if (atomic_fetch_add(&calls, 1) < 2) return 1;
  chalk_thread_ready(chalk_thread_self(), NULL);
  return 0;
}

static int succeed(void *state, int arguments, int results, int handler) {
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

/* Becomes a user that may not make threads. */
static void allow_no_threads(void) {
  enum { OTHER_USER = 54321 };
  if (getuid() == 0) CHILD_CHECK(setuid(OTHER_USER) == 0);
  CHILD_CHECK(setrlimit(RLIMIT_NPROC, &(struct rlimit){1, 1}) == 0);
}

static void test_a_thread_that_cannot_be_made_is_an_error(void **state) {
  (void)state;
  pid_t pid = fork_child();
  if (pid == 0) {
    char message[CHALK_MESSAGE] = "";
    make_stacks_large();
    allow_no_threads();
    for (int i = 0; i < 3; i++) {
      CHILD_CHECK(host_start(&calls, succeed, NULL, 0, message) == NULL);
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
  return size < LARGE ? succeed(state, arguments, results, handler) : 1;
}

/* A large `ulimit -s` is for recursive programs. A flush thread does not take that much. */
static void test_the_stack_is_bounded(void **state) {
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

static void test_a_vm_that_fails_is_made_again(void **state) {
  (void)state;
  char message[CHALK_MESSAGE] = "";
  chalk_segment *g = open_segment(NULL);
  atomic_store(&calls, 0);
  chalk_thread *t = host_start(&calls, succeed_the_third_time, g, 1, message);
  assert_non_null(t);
  assert_int_equal(chalk_thread_wait_ready(t, DEADLINE, message), CHALK_EINVALID);
  assert_string_equal(message, "it failed");
  assert_int_equal(chalk_thread_wait(t, DEADLINE), 1);
  assert_int_equal(atomic_load(&calls), 3);
  assert_int_equal(chalk_hold(g, 1), 1); /* the thread gave the role back */
  chalk_release(g);
  chalk_thread_free(t);
  chalk_segment_close(g);
}

/* A chunk that always fails. */
static int always_fail(void *state, int arguments, int results, int handler) {
  (void)state, (void)arguments, (void)results, (void)handler;
  return 1;
}

/* During the pause after a failure others can take the role, and the thread ends at once when it is asked to. */
static void test_the_pause_ends_when_the_thread_is_stopped(void **state) {
  (void)state;
  char message[CHALK_MESSAGE] = "";
  chalk_segment *g = open_segment(NULL);
  chalk_thread *t = host_start(&calls, always_fail, g, 1, message);
  assert_non_null(t);
  assert_int_equal(chalk_thread_wait_ready(t, DEADLINE, message), CHALK_EINVALID);
  while (chalk_hold(g, 1) != 1) pause_ms(1);
  chalk_thread_stop(t);
  assert_int_equal(chalk_thread_wait(t, DEADLINE), 1);
  chalk_thread_free(t);
  chalk_release(g);
  chalk_segment_close(g);
}

/* Takes all descriptors except `left`. */
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
  chalk_thread *t = host_start(&calls, succeed, g, 1, message);
  CHILD_CHECK(t);
  CHILD_CHECK(chalk_thread_wait_ready(t, DEADLINE, message) != CHALK_OK);
  CHILD_CHECK(strstr(message, "file descriptors"));
  CHILD_CHECK(atomic_load(&calls) == 0);
  while (chalk_hold(g, 1) != 1) pause_ms(1); /* the thread may hold it for a moment */
  chalk_release(g);
  while (n > 0) close(fds[--n]);
  CHILD_CHECK(chalk_thread_wait(t, DEADLINE) == 1);
  CHILD_CHECK(atomic_load(&calls) == 1);
  chalk_thread_free(t);
  chalk_segment_close(g);
}

static void test_the_thread_waits_for_descriptors(void **state) {
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
  const chalk_lua lua = {host_new, host_open, host_load, host_push, succeed, host_say, host_open};
  char message[CHALK_MESSAGE] = "";
  assert_null(chalk_thread_start(&lua, NULL, NULL, 0, NULL, 0, message));
  assert_non_null(strstr(message, "no chunk"));
}

/* A wait of 0 seconds, less, or NaN returns at once, and one of infinity waits for the end. */
static void test_timeouts_of_zero_and_infinity(void **state) {
  (void)state;
  static const double none[] = {0, -1, -INFINITY, NAN};
  char message[CHALK_MESSAGE] = "";
  chalk_segment *g = open_segment(NULL);
  assert_int_equal(chalk_hold(g, 1), 1);
  chalk_thread *t = host_start(&calls, succeed, g, 1, message);
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
      cmocka_unit_test(test_a_thread_that_cannot_be_made_is_an_error),
      cmocka_unit_test(test_the_stack_is_bounded),
      cmocka_unit_test(test_a_vm_that_fails_is_made_again),
      cmocka_unit_test(test_the_pause_ends_when_the_thread_is_stopped),
      cmocka_unit_test(test_the_thread_waits_for_descriptors),
      cmocka_unit_test(test_a_thread_needs_a_chunk),
      cmocka_unit_test(test_timeouts_of_zero_and_infinity),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
