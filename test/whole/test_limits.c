/* What is lost when these fail: the application. A limit of memory, of addresses or of file size has to be an error
   that init reports, or a folded series, and a core dump must not contain the memory that a segment reserves. */

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common.h"
#include "directory.h"

#include "shm/heap.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define PLAIN 1 /* the memory that a sanitizer reserves counts towards the limits, too */
#endif

/* At the limit of memory new series are folded until others are dropped, and no record fails. */
static void test_memory_limit_folds(void **state) {
  (void)state;
  chalk_options o = {.memory_limit = 4 * MIB};
  chalk_segment *g = open_segment(&o);
  chalk_writer *w = open_writer(g);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), latency = define(w, "latency", CHALK_HISTOGRAM, 1, 5);
  int64_t sketch_less = 0;
  enum { N = 30000 };
  for (int i = 0; i < N; i++) {
    char tag[16];
    snprintf(tag, sizeof tag, "%d", i);
    chalk_series *s = bind(w, count, tag);
    assert_true(chalk_add(s, 1) >= CHALK_OK);
    free(s);
    s = bind(w, latency, tag);
    for (int k = 1; k < 4; k++) {
      int e = chalk_record(s, pow(10, k));
      assert_true(e >= CHALK_OK || e == CHALK_EMEMORY);
      sketch_less += e < CHALK_OK;
    }
    free(s);
  }
  assert_true(info_of(g).memory <= 4 * MIB);
  assert_true(info_of(g).folded > 0);
  assert_int_equal(total_of(g, count), N);
  assert_int_equal(total_of(g, latency), 3 * N);
  print_message("full: %u series, %lld of %d records without a sketch\n", info_of(g).series, (long long)sketch_less,
                3 * N);
  /* Dropped series free memory. */
  chalk_clear(w, (uint32_t)count);
  chalk_clear(w, (uint32_t)latency);
  chalk_writer_tick(w);
  for (int i = 0; i < 3; i++) sweep(g, 1000 * i, 0);
  chalk_series *s = bind(w, count, "again");
  assert_true(s->series >= METRICS);
  free(s);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* VMs for whose cells there is no memory share slot 0. */
static void test_full_memory_and_new_writers(void **state) {
  (void)state;
  chalk_options o = {.memory_limit = 4 * MIB};
  chalk_segment *g = open_segment(&o);
  while (heap_take(g, 1024)) {
  }
  chalk_writer *w = open_writer(g);
  char message[CHALK_MESSAGE] = "";
  chalk_definition d = definition("x", CHALK_COUNT, 0);
  int metric = chalk_define(w, &d, message);
  if (metric < 0) assert_true(strlen(message) > 0);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_file_size_limit(void **state) {
  (void)state;
  /* A limit that is far too small is an error. Without the check, ftruncate would kill the process. */
  pid_t pid = fork_child();
  if (pid == 0) {
    struct rlimit small = {16 * MIB, 16 * MIB};
    CHILD_CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    char message[CHALK_MESSAGE] = "";
    CHILD_CHECK(!chalk_segment_open(NULL, NULL, message));
    CHILD_CHECK(strstr(message, "file size limit"));
    unlink(path);
    CHILD_CHECK(!open_path(message));
    _exit(0);
  }
  join_child(pid);
  /* A limit below the usual size makes a smaller segment. */
  pid = fork_child();
  if (pid == 0) {
    struct rlimit half = {800 * (rlim_t)MIB, 800 * (rlim_t)MIB};
    CHILD_CHECK(setrlimit(RLIMIT_FSIZE, &half) == 0);
    chalk_segment *g = chalk_segment_open(NULL, NULL, NULL);
    CHILD_CHECK(g && g->size <= 800 * (uint64_t)MIB);
    chalk_writer *w = chalk_writer_open(g, NULL);
    chalk_series *s = bind(w, define(w, "requests", CHALK_COUNT, 1, 0), "x");
    CHILD_CHECK(chalk_add(s, 1) >= CHALK_OK);
    _exit(0);
  }
  join_child(pid);
}

/* A limit that is set after the segment was made changes nothing, because the file has its size already. */
static void test_file_size_limit_while_running(void **state) {
  (void)state;
  pid_t pid = fork_child();
  if (pid == 0) {
    unlink(path);
    chalk_segment *g = open_path(NULL);
    CHILD_CHECK(g);
    struct rlimit none = {0, 0};
    CHILD_CHECK(setrlimit(RLIMIT_FSIZE, &none) == 0);
    chalk_writer *w = chalk_writer_open(g, NULL);
    int count = define(w, "requests", CHALK_COUNT, 1, 0);
    for (int i = 0; i < 10000; i++) {
      char tag[16];
      snprintf(tag, sizeof tag, "%d", i);
      chalk_series *s = bind(w, count, tag);
      CHILD_CHECK(chalk_add(s, 1) >= CHALK_OK);
      free(s);
    }
    CHILD_CHECK(total_of(g, count) == 10000);
    _exit(0);
  }
  join_child(pid);
}

/* Core dumps */

/* Whether core dumps leave this address out, as /proc/self/smaps says. */
static bool is_left_out(const void *address) {
  FILE *file = fopen("/proc/self/smaps", "r");
  char line[512];
  bool inside = false, out = false;
  while (file && fgets(line, sizeof line, file)) {
    unsigned long from, to;
    if (sscanf(line, "%lx-%lx ", &from, &to) == 2) inside = from <= (uintptr_t)address && (uintptr_t)address < to;
    if (inside && strncmp(line, "VmFlags:", 8) == 0) out = strstr(line, " dd") != NULL;
  }
  if (file) fclose(file);
  return out;
}

static void test_core_dumps_leave_it_out(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  const char *base = g->base;
  assert_true(is_left_out(base));
  pid_t pid = fork_child();
  if (pid == 0) _exit(is_left_out(base) ? 0 : 1);
  join_child(pid);
  chalk_segment_close(g);
  assert_true(is_left_out(base)); /* a closed segment keeps its range of addresses */
}

#ifdef PLAIN
/* Removes the core file in the directory and returns its size; -1: there is none. */
static off_t take_core(void) {
  off_t size = -1;
  DIR *entries = opendir(directory);
  assert_non_null(entries);
  for (struct dirent *e; (e = readdir(entries));) {
    struct stat st;
    if (strncmp(e->d_name, "core", 4) != 0) continue;
    if (fstatat(dirfd(entries), e->d_name, &st, 0) == 0) size = st.st_size;
    unlinkat(dirfd(entries), e->d_name, 0);
  }
  closedir(entries);
  return size;
}

static void test_a_core_dump_is_small(void **state) {
  (void)state;
  pid_t pid = fork_child();
  if (pid == 0) {
    struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    if (chdir(directory) != 0 || setrlimit(RLIMIT_CORE, &unlimited) != 0) _exit(2);
    chalk_segment *g = chalk_segment_open(NULL, NULL, NULL);
    CHILD_CHECK(g && g->size > 1024 * (size_t)MIB);
    signal(SIGABRT, SIG_DFL);
    abort();
  }
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGABRT : WEXITSTATUS(status) == 2);
  off_t size = take_core();
  if (size < 0) skip(); /* this machine writes no core file, or writes it elsewhere */
  if (size > 64 * MIB) fail_msg("a core of %lld bytes", (long long)size);
  print_message("a core of %lld bytes\n", (long long)size);
}
#endif

#ifdef PLAIN
static void test_address_space_limit(void **state) {
  (void)state;
  pid_t pid = fork_child();
  if (pid == 0) {
    struct rlimit r = {700 * (rlim_t)MIB, 700 * (rlim_t)MIB};
    CHILD_CHECK(setrlimit(RLIMIT_AS, &r) == 0);
    unlink(path);
    chalk_options o = {.path = path};
    chalk_segment *g = chalk_segment_open(NULL, &o, NULL);
    CHILD_CHECK(g && g->size < 700 * (uint64_t)MIB);
    r.rlim_cur = r.rlim_max = 100 * MIB;
    CHILD_CHECK(setrlimit(RLIMIT_AS, &r) == 0);
    unlink(path);
    char message[CHALK_MESSAGE] = "";
    CHILD_CHECK(!chalk_segment_open(NULL, &o, message) && strlen(message) > 0);
    _exit(0);
  }
  join_child(pid);
  /* The failures have left nothing that is in the way now. */
  chalk_segment *g = open_path(NULL);
  assert_non_null(g);
  chalk_segment_close(g);
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {
#ifdef PLAIN
      cmocka_unit_test(test_address_space_limit), /* first, because closed segments keep their ranges of addresses */
      cmocka_unit_test(test_a_core_dump_is_small),
#endif
      cmocka_unit_test(test_core_dumps_leave_it_out),       cmocka_unit_test(test_memory_limit_folds),
      cmocka_unit_test(test_full_memory_and_new_writers),   cmocka_unit_test(test_file_size_limit),
      cmocka_unit_test(test_file_size_limit_while_running),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, directory_make, directory_remove);
}
