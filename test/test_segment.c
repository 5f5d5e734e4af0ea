/* What is lost when these fail: the application. A full disk, a limit or a damaged file must be an error that init
   reports, or a folded series, and never a crash. */

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common.h"

#include "heap.h"

enum { MIB = 1 << 20 };

static char directory[] = "/tmp/chalk_segment_XXXXXX";
static char path[64];

static int make_directory(void **state) {
  (void)state;
  if (!mkdtemp(directory)) return -1;
  snprintf(path, sizeof path, "%s/metrics", directory);
  return 0;
}

static int remove_directory(void **state) {
  (void)state;
  unlink(path);
  return rmdir(directory);
}

static chalk_segment *open_path(char *message) {
  chalk_options o = {.path = path, .memory_limit = 64 * MIB};
  return chalk_segment_open(NULL, &o, message);
}

/* Two processes that only know the path. */
static void test_a_path_is_shared(void **state) {
  (void)state;
  unlink(path);
  enum { PROCESSES = 4, EACH = 20000 };
  pid_t pids[PROCESSES];
  for (int i = 0; i < PROCESSES; i++) {
    pids[i] = fork_child();
    if (pids[i] != 0) continue;
    char message[CHALK_MESSAGE] = "";
    chalk_segment *g = open_path(message);
    CHILD_CHECK(g);
    chalk_writer *w = chalk_writer_open(g, message);
    CHILD_CHECK(w);
    int metric = define(w, "requests", CHALK_COUNT, 1, 0);
    CHILD_CHECK(metric == 0);
    for (int k = 0; k < EACH; k++) {
      char tag[8];
      snprintf(tag, sizeof tag, "%d", k % 100);
      chalk_series *s = bind(w, metric, tag);
      CHILD_CHECK(chalk_add(s, 1) >= CHALK_OK);
      free(s);
    }
    chalk_writer_close(w);
    _exit(0);
  }
  for (int i = 0; i < PROCESSES; i++) join_child(pids[i]);
  char message[CHALK_MESSAGE] = "";
  chalk_segment *g = open_path(message);
  assert_non_null(g);
  assert_int_equal(total_of(g, 0), PROCESSES * EACH);
  assert_int_equal(info_of(g).series, 100);
  struct stat st;
  assert_int_equal(stat(path, &st), 0);
  assert_int_equal(st.st_mode & 0777, 0600);
  chalk_segment_close(g);
}

static void expect_refused(void) {
  char message[CHALK_MESSAGE] = "";
  struct stat before, after;
  assert_int_equal(stat(path, &before), 0);
  assert_null(open_path(message));
  assert_true(strlen(message) > 0);
  /* What is not chalk's is left alone. */
  assert_int_equal(stat(path, &after), 0);
  assert_int_equal(after.st_size, before.st_size);
}

static void write_file(const void *bytes, size_t size, off_t at) {
  int fd = open(path, O_RDWR | O_CREAT, 0600);
  assert_true(fd >= 0);
  assert_int_equal(pwrite(fd, bytes, size, at), size);
  close(fd);
}

static void test_damaged_files_are_refused(void **state) {
  (void)state;
  unlink(path);
  write_file("important", 9, 0);
  expect_refused();
  char *noise = malloc(2 * MIB);
  for (int i = 0; i < 2 * MIB; i++) noise[i] = (char)random_bits();
  write_file(noise, 2 * MIB, 0);
  expect_refused();
  free(noise);

  for (uint64_t *field = &((header *)NULL)->slots; field <= &((header *)NULL)->heap; field++) {
    unlink(path);
    chalk_segment *g = open_path(NULL);
    assert_non_null(g);
    chalk_segment_close(g);
    uint64_t wrong = random_bits();
    write_file(&wrong, sizeof wrong, (off_t)(uintptr_t)field);
    expect_refused();
  }

  unlink(path);
  chalk_segment *g = open_path(NULL);
  chalk_segment_close(g);
  struct stat st;
  assert_int_equal(stat(path, &st), 0);
  static const int parts[] = {2, 3, 1000};
  for (int i = 0; i < 3; i++) {
    assert_int_equal(truncate(path, st.st_size / parts[i]), 0);
    expect_refused();
  }

  unlink(path);
  g = open_path(NULL);
  chalk_segment_close(g);
  uint32_t other = 4711;
  write_file(&other, sizeof other, offsetof(header, layout));
  char message[CHALK_MESSAGE] = "";
  assert_null(open_path(message));
  assert_non_null(strstr(message, "restart needed"));
}

/* Whoever makes the file may be killed at it; the next one starts anew instead of failing for ever. */
static void test_a_killed_creator(void **state) {
  (void)state;
  for (int i = 0; i < 100; i++) {
    unlink(path);
    pid_t pid = fork_child();
    if (pid == 0) {
      open_path(NULL);
      pause();
    }
    double end = chalk_now() + 0.001 * random_unit();
    while (chalk_now() < end) {
    }
    kill_child(pid);
    char message[CHALK_MESSAGE] = "";
    chalk_segment *g = open_path(message);
    if (!g) fail_msg("%s", message);
    chalk_segment_close(g);
  }
}

static void test_options_are_checked(void **state) {
  (void)state;
  static const chalk_options wrong[] = {{.max_buckets = 7},        {.max_buckets = 8193},  {.initial_error = 0.00001},
                                        {.initial_error = 0.6},    {.initial_error = NAN}, {.memory_limit = 1},
                                        {.max_series = 0xffffffff}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    char message[CHALK_MESSAGE] = "";
    assert_null(chalk_segment_open(NULL, &wrong[i], message));
    assert_true(strlen(message) > 0);
  }
  chalk_options nowhere = {.path = "/nonexistent/metrics"};
  char message[CHALK_MESSAGE] = "";
  assert_null(chalk_segment_open(NULL, &nowhere, message));
  assert_non_null(strstr(message, "/nonexistent/metrics"));
}

/* A name finds the segment again, with its counts, after its VM has gone. */
static void test_names_are_remembered(void **state) {
  (void)state;
  chalk_segment *g = chalk_segment_open("remembered", NULL, NULL);
  chalk_writer *w = open_writer(g);
  chalk_series *s = bind(w, define(w, "requests", CHALK_COUNT, 1, 0), "x");
  chalk_add(s, 3);
  free(s);
  chalk_writer_close(w);
  chalk_segment_close(g);
  assert_ptr_equal(chalk_segment_open("remembered", NULL, NULL), g);
  assert_int_equal(total_of(g, 0), 3);
}

/* The limit of memory: what does not fit is folded, dropped series make room, nothing fails. */
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
  /* Leaving makes room. */
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

/* More VMs than memory for their cells: they share a slot. */
static void test_full_memory_and_new_writers(void **state) {
  (void)state;
  chalk_options o = {.memory_limit = 4 * MIB};
  chalk_segment *g = open_segment(&o);
  while (heap_take(g, 1024)) {
  }
  chalk_writer *w = open_writer(g);
  char message[CHALK_MESSAGE] = "";
  chalk_definition d = {
      .name = "x", .shape = "x", .blob = "x", .name_size = 1, .shape_size = 1, .blob_size = 1, .kind = CHALK_COUNT};
  int metric = chalk_define(w, &d, message);
  if (metric < 0) assert_true(strlen(message) > 0);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_file_size_limit(void **state) {
  (void)state;
  /* Far too small: an error, where ftruncate would kill. */
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
  /* Smaller than wished for: a smaller segment. */
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

#ifndef __SANITIZE_ADDRESS__
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
  /* What failed there left nothing in the way. */
  chalk_segment *g = open_path(NULL);
  assert_non_null(g);
  chalk_segment_close(g);
}
#endif

static void test_heap_blocks_are_reused(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  uint64_t blocks[200], memory = 0;
  for (int round = 0; round < 100; round++) {
    for (uint64_t i = 0; i < 200; i++) {
      uint64_t size = 1 + i * 37;
      blocks[i] = heap_take(g, size);
      assert_true(blocks[i] % 8 == 0 && blocks[i] >= g->head->heap);
      assert_true(heap_rounded(size) >= size && heap_rounded(size) <= size + size / 4 + 80);
      unsigned char *p = segment_at(g, blocks[i]);
      for (uint64_t k = 0; k < size; k++) assert_int_equal(p[k], 0);
      memset(p, 0xa5, size);
    }
    for (int i = 0; i < 199; i++) assert_true(blocks[i] != blocks[i + 1]);
    for (uint64_t i = 0; i < 200; i++) heap_give(g, blocks[i], 1 + i * 37);
    if (round == 0) memory = info_of(g).memory;
  }
  assert_int_equal(info_of(g).memory, memory);
  assert_int_equal(heap_take(g, 1ull << 62), 0);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
#ifndef __SANITIZE_ADDRESS__
      cmocka_unit_test(test_address_space_limit), /* first: closed segments keep their range of addresses */
#endif
      cmocka_unit_test(test_a_path_is_shared),
      cmocka_unit_test(test_damaged_files_are_refused),
      cmocka_unit_test(test_a_killed_creator),
      cmocka_unit_test(test_options_are_checked),
      cmocka_unit_test(test_names_are_remembered),
      cmocka_unit_test(test_memory_limit_folds),
      cmocka_unit_test(test_full_memory_and_new_writers),
      cmocka_unit_test(test_file_size_limit),
      cmocka_unit_test(test_heap_blocks_are_reused),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
