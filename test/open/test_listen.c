/*
 * What is lost when these fail: a file of the user is deleted because a socket was to be created there; `init` never
 * returns; a port accepts connections that nobody answers; or the files of sockets stay behind forever.
 */

#define bind bind_series /* <sys/socket.h> has a function of this name */
#include "common.h"
#undef bind

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "directory.h"

static char address[80], message[CHALK_MESSAGE];

static int make(void **state) {
  if (directory_make(state) != 0) return -1;
  snprintf(address, sizeof address, "unix://%s", path);
  return 0;
}

static int clean(void **state) {
  (void)state;
  chalk_unlisten("test", address);
  unlink(path);
  return 0;
}

static struct sockaddr_un socket_address(void) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  strcpy(a.sun_path, path);
  return a;
}

/* Opens a socket at which another process could listen. */
static int foreign_socket(int backlog) {
  struct sockaddr_un a = socket_address();
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
  assert_int_equal(listen(fd, backlog), 0);
  return fd;
}

/* Returns 0, or the error of a connect to the socket. */
static int reach(void) {
  struct sockaddr_un a = socket_address();
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  int reason = connect(fd, (struct sockaddr *)&a, sizeof a) == 0 ? 0 : errno;
  close(fd);
  return reason;
}

static struct stat look(void) {
  struct stat st = {0};
  lstat(path, &st);
  return st;
}

static void assert_refused(const char *why) {
  struct stat before = look();
  assert_true(before.st_ino != 0);
  assert_true(chalk_listen("test", address, message) < 0);
  assert_non_null(strstr(message, address));
  if (!strstr(message, why)) fail_msg("%s", message);
  struct stat after = look();
  assert_int_equal(after.st_ino, before.st_ino);
  assert_int_equal(after.st_mode, before.st_mode);
}

static void assert_gone(void) { assert_int_equal(look().st_ino, 0); }

/* Files and sockets that are there already */

static void test_a_file_is_not_deleted_for_a_socket(void **state) {
  (void)state;
  int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  assert_int_equal(write(fd, "diary", 5), 5);
  close(fd);
  assert_refused("not a socket");
  assert_int_equal(look().st_size, 5);
}

static void test_a_fifo_is_not_deleted_for_a_socket(void **state) {
  (void)state;
  assert_int_equal(mkfifo(path, 0600), 0);
  assert_refused("not a socket");
}

static void test_a_symlink_is_neither_followed_nor_deleted(void **state) {
  (void)state;
  char target[80];
  snprintf(target, sizeof target, "%s/target", directory);
  assert_int_equal(symlink(target, path), 0);
  assert_refused("not a socket");
}

static void test_a_socket_of_another_user_is_not_deleted(void **state) {
  (void)state;
  if (geteuid() != 0) skip();
  close(foreign_socket(0));
  assert_int_equal(chown(path, 65534, 65534), 0);
  assert_refused("another user");
}

static void test_a_socket_of_another_kind_is_not_deleted(void **state) {
  (void)state;
  struct sockaddr_un a = socket_address();
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
  assert_refused(strerror(EADDRINUSE));
  close(fd);
}

static void test_a_socket_left_by_a_dead_process_is_replaced(void **state) {
  (void)state;
  close(foreign_socket(0));
  assert_int_equal(reach(), ECONNREFUSED);
  assert_int_equal(chalk_listen("test", address, message), CHALK_OK);
  assert_int_equal(reach(), 0);
}

static void test_a_socket_with_a_full_backlog_is_in_use(void **state) {
  (void)state;
  enum { MOST = 64 };
  int fd = foreign_socket(0), clients[MOST], n = 0;
  struct sockaddr_un a = socket_address();
  do {
    assert_true(n < MOST);
    clients[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  } while (connect(clients[n++], (struct sockaddr *)&a, sizeof a) == 0);
  assert_int_equal(errno, EAGAIN);
  alarm(DEADLINE);
  assert_refused(strerror(EADDRINUSE));
  alarm(0);
  while (n > 0) close(clients[--n]);
  close(fd);
}

static void test_closing_a_socket_leaves_a_file_that_replaced_it(void **state) {
  (void)state;
  assert_int_equal(chalk_listen("test", address, message), CHALK_OK);
  unlink(path);
  close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  chalk_unlisten("test", address);
  assert_true(S_ISREG(look().st_mode));
}

static void test_removing_an_address_leaves_a_file_that_replaced_its_socket(void **state) {
  (void)state;
  assert_int_equal(chalk_listen("test", address, message), CHALK_OK);
  unlink(path);
  close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  chalk_listen_only("test", NULL, 0);
  assert_true(S_ISREG(look().st_mode));
}

/* Sockets of a configuration that never comes into force */

static void test_a_refused_configuration_leaves_no_socket(void **state) {
  (void)state;
  assert_int_equal(chalk_listen("test", address, message), CHALK_OK);
  chalk_listen_settle("test", address, 0);
  assert_gone();
  assert_true(chalk_accept_fd("test", address) < 0);
  assert_int_equal(chalk_listen("test", address, message), CHALK_OK);
  assert_int_equal(reach(), 0);
}

static void test_a_refused_configuration_keeps_the_sockets_in_force(void **state) {
  (void)state;
  assert_int_equal(chalk_listen("test", address, message), CHALK_OK);
  chalk_listen_settle("test", address, 1);
  assert_int_equal(chalk_listen("test", address, message), CHALK_OK);
  chalk_listen_settle("test", address, 0);
  assert_int_equal(reach(), 0);
}

static void test_a_refused_configuration_keeps_the_sockets_that_children_have(void **state) {
  (void)state;
  assert_int_equal(chalk_listen("test", address, message), CHALK_OK);
  pid_t pid = fork();
  if (pid == 0) _exit(0);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  chalk_listen_settle("test", address, 0);
  assert_int_equal(reach(), 0);
}

/* The end of processes */

static int exit_code(pid_t pid) {
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_a_process_that_exits_removes_its_socket(void **state) {
  (void)state;
  pid_t pid = fork();
  if (pid == 0) exit(chalk_listen("test", address, NULL) == CHALK_OK && reach() == 0 ? 0 : 1);
  assert_int_equal(exit_code(pid), 0);
  assert_gone();
}

static void test_a_child_that_exits_keeps_the_socket_of_its_parent(void **state) {
  (void)state;
  assert_int_equal(chalk_listen("test", address, message), CHALK_OK);
  pid_t pid = fork();
  if (pid == 0) exit(0);
  assert_int_equal(exit_code(pid), 0);
  assert_int_equal(reach(), 0);
}

/* The first process of a server opens the socket, forks the process that continues, and ends. */
static void test_the_last_process_of_a_server_removes_its_socket(void **state) {
  (void)state;
  int go[2];
  assert_int_equal(pipe(go), 0);
  pid_t first = fork();
  if (first == 0) {
    chalk_inherit(1);
    int rc = chalk_listen("test", address, NULL);
    if (fork() == 0) {
      char byte;
      close(go[1]);
      exit(read(go[0], &byte, 1) < 0);
    }
    exit(rc);
  }
  close(go[0]);
  assert_int_equal(exit_code(first), CHALK_OK);
  assert_int_equal(reach(), 0);
  close(go[1]);
  for (int i = 0; i < DEADLINE * 100 && look().st_ino != 0; i++) usleep(10000);
  assert_gone();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_a_file_is_not_deleted_for_a_socket, clean),
      cmocka_unit_test_teardown(test_a_fifo_is_not_deleted_for_a_socket, clean),
      cmocka_unit_test_teardown(test_a_symlink_is_neither_followed_nor_deleted, clean),
      cmocka_unit_test_teardown(test_a_socket_of_another_user_is_not_deleted, clean),
      cmocka_unit_test_teardown(test_a_socket_of_another_kind_is_not_deleted, clean),
      cmocka_unit_test_teardown(test_a_socket_left_by_a_dead_process_is_replaced, clean),
      cmocka_unit_test_teardown(test_a_socket_with_a_full_backlog_is_in_use, clean),
      cmocka_unit_test_teardown(test_closing_a_socket_leaves_a_file_that_replaced_it, clean),
      cmocka_unit_test_teardown(test_removing_an_address_leaves_a_file_that_replaced_its_socket, clean),
      cmocka_unit_test_teardown(test_a_refused_configuration_leaves_no_socket, clean),
      cmocka_unit_test_teardown(test_a_refused_configuration_keeps_the_sockets_in_force, clean),
      cmocka_unit_test_teardown(test_a_refused_configuration_keeps_the_sockets_that_children_have, clean),
      cmocka_unit_test_teardown(test_a_process_that_exits_removes_its_socket, clean),
      cmocka_unit_test_teardown(test_a_child_that_exits_keeps_the_socket_of_its_parent, clean),
      cmocka_unit_test_teardown(test_the_last_process_of_a_server_removes_its_socket, clean),
  };
  return cmocka_run_group_tests(tests, make, directory_remove);
}
