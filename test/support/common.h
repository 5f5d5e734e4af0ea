/* Helpers that the tests of the core share: a private segment, metrics with tags, and child processes. */
#ifndef TEST_COMMON_H
#define TEST_COMMON_H

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "shm/segment.h"
#include "sweep.h"

/* Seconds after which a hang counts as a failure. */
enum { DEADLINE = 60 };

/* Sanitized programs are slow, so long tests are shorter in them. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#elif defined(__has_feature)
enum { SANITIZED = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) };
#else
enum { SANITIZED = 0 };
#endif

static inline uint64_t random_bits(void) {
  static uint64_t state = 0x2545f4914f6cdd1d;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

/* A random number in (0, 1). */
static inline double random_unit(void) { return ((double)(random_bits() >> 11) + 0.5) / 9007199254740992.0; }

static inline chalk_segment *open_segment(const chalk_options *options) {
  char message[CHALK_MESSAGE] = "";
  chalk_segment *g = chalk_segment_open(NULL, options, message);
  if (!g) fail_msg("no segment: %s", message);
  return g;
}

static inline chalk_writer *open_writer(chalk_segment *g) {
  char message[CHALK_MESSAGE] = "";
  chalk_writer *w = chalk_writer_open(g, message);
  if (!w) fail_msg("no writer: %s", message);
  return w;
}

/* A definition whose shape and blob are its name. */
static inline chalk_definition definition(const char *name, uint32_t kind, uint32_t tags) {
  size_t size = strlen(name);
  return (chalk_definition){.name = name,
                            .shape = name,
                            .blob = name,
                            .name_size = size,
                            .shape_size = size,
                            .blob_size = size,
                            .kind = kind,
                            .tags = tags};
}

static inline int define(chalk_writer *w, const char *name, uint32_t kind, uint32_t tags, uint32_t les) {
  static const double bounds[] = {0.01, 0.1, 1, 10, 100};
  chalk_definition d = definition(name, kind, tags);
  d.le = bounds, d.les = les;
  return chalk_define(w, &d, NULL);
}

static inline int define_across(chalk_writer *w, const char *name, uint32_t across) {
  chalk_definition d = definition(name, CHALK_GAUGE, 1);
  d.across = across;
  return chalk_define(w, &d, NULL);
}

static inline int define_limited(chalk_writer *w, const char *name, uint32_t kind, uint32_t max_series) {
  chalk_definition d = definition(name, kind, 1);
  d.max_series = max_series;
  return chalk_define(w, &d, NULL);
}

/* Binds the series with one tag value; NULL stands for no tags. */
static inline chalk_series *bind(chalk_writer *w, int metric, const char *value) {
  size_t size = value ? strlen(value) : 0;
  chalk_series *s = chalk_series_new(w, (uint32_t)metric, &value, &size);
  if (!s) fail_msg("no series for %s", value ? value : "no tags");
  return s;
}

static inline int drop(chalk_writer *w, int metric, const char *value) {
  size_t size = strlen(value);
  return chalk_remove(w, (uint32_t)metric, &value, &size);
}

static inline chalk_snapshot *take(chalk_segment *g, int dropped) {
  char message[CHALK_MESSAGE] = "";
  chalk_snapshot *s = chalk_snapshot_take(g, dropped, message);
  if (!s) fail_msg("no snapshot: %s", message);
  return s;
}

/* The sum of the totals of all series of a metric, including its overflow series. */
static inline int64_t total_of(chalk_segment *g, int metric) {
  chalk_snapshot *s = take(g, 0);
  uint32_t n;
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  int64_t total = 0;
  for (uint32_t i = 0; i < n; i++) total += entries[i].metric == (uint32_t)metric ? entries[i].total : 0;
  chalk_snapshot_free(s);
  return total;
}

/* One sweep of the holder at the time `now`. Returns the number of series that it dropped. */
static inline int sweep(chalk_segment *g, double now, double idle) {
  chalk_snapshot *s = take(g, 1);
  int dropped = sweep_all(s, now, idle);
  chalk_snapshot_free(s);
  return dropped;
}

static inline chalk_info info_of(chalk_segment *g) {
  chalk_info info;
  chalk_segment_info(g, &info);
  return info;
}

static inline void pause_ms(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

/*
 * Checks a condition in a forked child. If it is false, the child ends with code 1, without the exit handlers of its
 * parent.
 */
#define CHILD_CHECK(condition)                                                      \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "in the child: %s:%d: %s\n", __FILE__, __LINE__, #condition); \
      _exit(1);                                                                     \
    }                                                                               \
  } while (0)

/* Forks a child that the kernel kills when the test program ends, so it does not outlive a failed test. */
static inline pid_t fork_child(void) {
  pid_t pid = fork();
  if (pid == 0) prctl(PR_SET_PDEATHSIG, SIGKILL);
  return pid;
}

static inline void join_child(pid_t pid) {
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

static inline void kill_child(pid_t pid) {
  kill(pid, SIGKILL);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
}

#endif
