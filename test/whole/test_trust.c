/* What is lost when these fail: another user of the machine hangs or kills a service, through the file in which the
   service shares its metrics. */

#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "directory.h"

enum { NOBODY = 65534, OTHER = 65533 };

static char message[CHALK_MESSAGE];

static int clean(void **state) {
  (void)state;
  unlink(path);
  return 0;
}

static void make_file(mode_t mode) {
  int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(fchmod(fd, mode), 0);
  close(fd);
}

static chalk_segment *open_it(uint32_t group) {
  chalk_options o = {.path = path, .memory_limit = 4 * MIB, .segment_group = group};
  return chalk_segment_open(NULL, &o, message);
}

static void assert_refused(uint32_t group, const char *why) {
  alarm(DEADLINE);
  assert_null(open_it(group));
  alarm(0);
  assert_non_null(strstr(message, path));
  if (!strstr(message, why)) fail_msg("%s", message);
}

static void assert_used(uint32_t group) {
  chalk_segment *g = open_it(group);
  if (!g) fail_msg("%s", message);
  chalk_segment_close(g);
}

/* The error that a process of another user and group gets when it opens the file; "": it can use the file. */
static const char *as_other(uint32_t group) {
  static char said[CHALK_MESSAGE];
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  pid_t pid = fork();
  if (pid == 0) {
    bool ok = setgid(NOBODY) == 0 && setuid(NOBODY) == 0 && open_it(group) != NULL;
    dprintf(ends[1], "%s", ok ? "" : message);
    _exit(0);
  }
  close(ends[1]);
  ssize_t n = read(ends[0], said, sizeof said - 1);
  said[n > 0 ? n : 0] = 0;
  close(ends[0]);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  return said;
}

static void test_a_file_of_this_user_is_used(void **state) {
  (void)state;
  make_file(0644);
  assert_used(0);
}

static void test_a_new_file_is_for_this_user_alone(void **state) {
  (void)state;
  struct stat st;
  assert_used(0);
  assert_int_equal(stat(path, &st), 0);
  assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_a_file_that_all_users_can_write_to_is_refused(void **state) {
  (void)state;
  make_file(0606);
  assert_refused(0, "everybody may write");
  assert_refused(1, "everybody may write");
}

static void test_a_file_that_a_group_can_write_to_needs_an_option(void **state) {
  (void)state;
  make_file(0660);
  assert_refused(0, "segment_group");
  assert_used(1);
}

static void test_a_new_file_is_for_a_group_if_an_option_says_so(void **state) {
  (void)state;
  struct stat st;
  assert_used(1);
  assert_int_equal(stat(path, &st), 0);
  assert_int_equal(st.st_mode & 0777, 0660);
}

static void test_a_file_of_another_user_is_refused(void **state) {
  (void)state;
  if (geteuid() != 0) skip();
  make_file(0600);
  assert_int_equal(chown(path, NOBODY, NOBODY), 0);
  assert_refused(0, "another user");
  assert_refused(1, "another user");
  assert_int_equal(chown(path, OTHER, NOBODY), 0);
  assert_int_equal(chmod(path, 0660), 0);
  assert_non_null(strstr(as_other(1), "another user"));
}

static void test_a_file_of_root_is_used_by_its_group(void **state) {
  (void)state;
  if (geteuid() != 0) skip();
  make_file(0660);
  assert_int_equal(chown(path, 0, NOBODY), 0);
  assert_string_equal(as_other(1), "");
  assert_non_null(strstr(as_other(0), "segment_group"));
  assert_used(1);
}

static void test_a_link_is_refused(void **state) {
  (void)state;
  char target[80];
  snprintf(target, sizeof target, "%s/target", directory);
  assert_int_equal(symlink(target, path), 0);
  assert_refused(0, strerror(ELOOP));
  assert_int_equal(access(target, F_OK), -1);
}

static void test_a_fifo_is_refused(void **state) {
  (void)state;
  assert_int_equal(mkfifo(path, 0600), 0);
  assert_refused(0, "not a regular file");
}

/* Any user who may read the file can lock it. */
static void test_a_reader_that_keeps_the_file_locked_hangs_no_service(void **state) {
  (void)state;
  make_file(0644);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct flock all = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
  assert_int_equal(fcntl(fd, F_OFD_SETLK, &all), 0);
  assert_refused(0, "locked");
  close(fd);
  assert_used(0);
}

static int make_for_all(void **state) { return directory_make(state) != 0 || chmod(directory, 0755) != 0; }

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_a_file_of_this_user_is_used, clean),
      cmocka_unit_test_teardown(test_a_new_file_is_for_this_user_alone, clean),
      cmocka_unit_test_teardown(test_a_file_that_all_users_can_write_to_is_refused, clean),
      cmocka_unit_test_teardown(test_a_file_that_a_group_can_write_to_needs_an_option, clean),
      cmocka_unit_test_teardown(test_a_new_file_is_for_a_group_if_an_option_says_so, clean),
      cmocka_unit_test_teardown(test_a_file_of_another_user_is_refused, clean),
      cmocka_unit_test_teardown(test_a_file_of_root_is_used_by_its_group, clean),
      cmocka_unit_test_teardown(test_a_link_is_refused, clean),
      cmocka_unit_test_teardown(test_a_fifo_is_refused, clean),
      cmocka_unit_test_teardown(test_a_reader_that_keeps_the_file_locked_hangs_no_service, clean),
  };
  return cmocka_run_group_tests(tests, make_for_all, directory_remove);
}
