/*
 * What is lost when these fail: the application. A damaged file must be an error that `init` reports and never a crash,
 * and a sound file must open with everything that it contains.
 */

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common.h"
#include "directory.h"

/* In a child: opens the path and counts to n in 100 series. */
static void count_to(int n) {
  char message[CHALK_MESSAGE] = "";
  chalk_segment *g = open_path(message);
  CHILD_CHECK(g);
  chalk_writer *w = chalk_writer_open(g, message);
  CHILD_CHECK(w);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  CHILD_CHECK(metric == 0);
  for (int i = 0; i < n; i++) {
    char tag[8];
    snprintf(tag, sizeof tag, "%d", i % 100);
    chalk_series *s = bind(w, metric, tag);
    CHILD_CHECK(chalk_add(s, 1) >= CHALK_OK);
    free(s);
  }
  chalk_writer_close(w);
  _exit(0);
}

/* Processes that have only the path in common. */
static void test_processes_share_a_segment_by_its_path(void **state) {
  (void)state;
  unlink(path);
  enum { PROCESSES = 4, EACH = 20000 };
  pid_t pids[PROCESSES];
  for (int i = 0; i < PROCESSES; i++) {
    pids[i] = fork_child();
    if (pids[i] == 0) count_to(EACH);
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
  /* A file that is not chalk's is left unchanged. */
  assert_int_equal(stat(path, &after), 0);
  assert_int_equal(after.st_size, before.st_size);
}

static void write_file(const void *bytes, size_t size, off_t at) {
  int fd = open(path, O_RDWR | O_CREAT, 0600);
  assert_true(fd >= 0);
  assert_int_equal(pwrite(fd, bytes, size, at), size);
  close(fd);
}

static void make_sound(void) {
  unlink(path);
  chalk_segment *g = open_path(NULL);
  assert_non_null(g);
  chalk_segment_close(g);
}

static void refuse_files_of_other_programs(void) {
  unlink(path);
  write_file("important", 9, 0);
  expect_refused();
  char *noise = malloc(2 * MIB);
  for (int i = 0; i < 2 * MIB; i++) noise[i] = (char)random_bits();
  write_file(noise, 2 * MIB, 0);
  expect_refused();
  free(noise);
}

static void refuse_wrong_offsets(void) {
  for (uint64_t *field = &((header *)NULL)->slots; field <= &((header *)NULL)->heap; field++) {
    make_sound();
    uint64_t wrong = random_bits();
    write_file(&wrong, sizeof wrong, (off_t)(uintptr_t)field);
    expect_refused();
  }
}

static void refuse_truncated_files(void) {
  make_sound();
  struct stat st;
  assert_int_equal(stat(path, &st), 0);
  static const int divisors[] = {2, 3, 1000};
  for (int i = 0; i < 3; i++) {
    assert_int_equal(truncate(path, st.st_size / divisors[i]), 0);
    expect_refused();
  }
}

static void refuse_another_layout(void) {
  make_sound();
  uint32_t other = 4711;
  write_file(&other, sizeof other, offsetof(header, layout));
  char message[CHALK_MESSAGE] = "";
  assert_null(open_path(message));
  assert_non_null(strstr(message, "restart needed"));
}

static void test_damaged_files_are_refused(void **state) {
  (void)state;
  refuse_files_of_other_programs();
  refuse_wrong_offsets();
  refuse_truncated_files();
  refuse_another_layout();
}

/*
 * Makes a segment with a few series, and then overwrites it from some offset on, with random bytes or with one byte
 * repeated. If the file still passes for sound, it must also be usable.
 */
static void make_hostile(int i) {
  static const size_t from[] = {0, offsetof(header, abi), offsetof(header, epoch), offsetof(header, max_series),
                                sizeof(header)};
  static const int bytes[] = {0x00, 0xff, 0x01, 0x7f, 0x80};
  enum { MOST = 3 * MIB };
  chalk_segment *g = open_path(NULL);
  assert_non_null(g);
  chalk_writer *w = open_writer(g);
  for (int k = 0; k < 20; k++) {
    char tag[8];
    snprintf(tag, sizeof tag, "%d", k);
    chalk_series *c = bind(w, define(w, "requests", CHALK_COUNT, 1, 0), tag);
    chalk_series *h = bind(w, define(w, "latency", CHALK_HISTOGRAM, 1, 5), tag);
    chalk_add(c, 1), chalk_record(h, k);
    free(c), free(h);
  }
  chalk_writer_close(w);
  chalk_segment_close(g);
  char *noise = malloc(MOST);
  size_t start = from[i % 5], size = i % 3 ? 1 + random_bits() % (MOST - 1) : 1 + random_bits() % 64;
  if (start == sizeof(header)) start += random_bits() % MIB;
  for (size_t k = 0; k < size; k++) noise[k] = (char)(i % 2 ? random_bits() : (uint64_t)bytes[i / 10 % 5]);
  write_file(noise, size, (off_t)start);
  free(noise);
}

static void use(chalk_segment *g) {
  chalk_writer *w = chalk_writer_open(g, NULL);
  CHILD_CHECK(w);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), latency = define(w, "latency", CHALK_HISTOGRAM, 1, 5);
  for (int k = 0; k < 40; k++) {
    char tag[8];
    snprintf(tag, sizeof tag, "%d", k);
    const char *value = tag;
    size_t size = strlen(tag);
    chalk_series *c = count < 0 ? NULL : chalk_series_new(w, (uint32_t)count, &value, &size);
    chalk_series *h = latency < 0 ? NULL : chalk_series_new(w, (uint32_t)latency, &value, &size);
    if (c) chalk_add(c, 1);
    if (h) chalk_record(h, k), chalk_sketch_free(chalk_series_sketch(h));
    if (k % 10 == 0 && count >= 0) drop(w, count, tag);
    free(c), free(h);
  }
  chalk_writer_tick(w);
  for (int i = 0; i < 3; i++) sweep(g, 1000 * i, 1);
  chalk_writer_close(w);
}

static void test_hostile_files_are_refused_or_usable(void **state) {
  (void)state;
  int refused = 0;
  for (int i = 0; i < 100; i++) {
    unlink(path);
    make_hostile(i);
    pid_t pid = fork_child();
    if (pid == 0) {
      alarm(DEADLINE / 2);
      char message[CHALK_MESSAGE] = "";
      chalk_segment *g = open_path(message);
      if (g) use(g);
      CHILD_CHECK(g || strlen(message) > 0);
      _exit(g ? 0 : 2);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) == 1) fail_msg("file %d: status %#x", i, (unsigned)status);
    refused += WEXITSTATUS(status) == 2;
  }
  print_message("%d of 100 files refused\n", refused);
  assert_true(refused > 10);
}

/* A process may be killed while it makes the file. The next one makes it again instead of failing forever. */
static void test_a_file_whose_maker_was_killed_is_made_again(void **state) {
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

static void test_wrong_options_are_refused(void **state) {
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

/* A name finds the segment again, with its counts, after the VM that used it is gone. */
static void test_a_name_finds_the_segment_again(void **state) {
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

static void test_a_refused_option_changes_nothing(void **state) {
  (void)state;
  const chalk_options bad[] = {{.memory_limit = (4 << 20) - 1}, {.max_series = (1 << 23) + 1}, {.max_buckets = 7},
                               {.max_buckets = 8193},           {.initial_error = 0.00009},    {.initial_error = 0.51},
                               {.initial_error = -0.1},         {.initial_error = NAN}};
  chalk_segment *g = open_segment(NULL);
  chalk_info before = info_of(g);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char message[CHALK_MESSAGE] = "";
    assert_null(chalk_segment_open(NULL, &bad[i], message));
    assert_non_null(strstr(message, "must be"));
    assert_int_equal(chalk_segment_configure(g, &bad[i], message), CHALK_EINVALID);
  }
  const chalk_options large[] = {{.max_series = before.capacity / 2 + 1}, {.memory_limit = 1ull << 40}};
  for (int i = 0; i < 2; i++) {
    char message[CHALK_MESSAGE] = "";
    assert_int_equal(chalk_segment_configure(g, &large[i], message), CHALK_EINVALID);
    assert_non_null(strstr(message, "in this segment"));
  }
  chalk_info after = info_of(g);
  assert_int_equal(after.max_series, before.max_series);
  assert_true(after.memory_limit == before.memory_limit);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_processes_share_a_segment_by_its_path),
      cmocka_unit_test(test_damaged_files_are_refused),
      cmocka_unit_test(test_hostile_files_are_refused_or_usable),
      cmocka_unit_test(test_a_file_whose_maker_was_killed_is_made_again),
      cmocka_unit_test(test_wrong_options_are_refused),
      cmocka_unit_test(test_a_name_finds_the_segment_again),
      cmocka_unit_test(test_a_refused_option_changes_nothing),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, directory_make, directory_remove);
}
