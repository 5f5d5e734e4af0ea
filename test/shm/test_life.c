/*
 * What is lost when these fail: after a container restarts, the slots of its old processes and the series that these
 * dropped stay forever; or, worse, the slot of a live process is given to another one, and with it the counts.
 */

#include "common.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "directory.h"
#include "shm/life.h"
#include "record/writer.h"

/* Pipes to processes in another namespace: they report that they are ready, and end when they are told to. */
typedef struct talk {
  int ready[2], end[2];
} talk;

static talk new_talk(void) {
  talk t;
  assert_int_equal(pipe(t.ready) + pipe(t.end), 0);
  return t;
}

static void close_talk(talk *t) {
  for (int i = 0; i < 2; i++) close(t->ready[i]), close(t->end[i]);
}

static void await(talk *t) {
  char byte;
  assert_int_equal(read(t->ready[0], &byte, 1), 1);
}

static void tell_to_end(talk *t) { assert_int_equal(write(t->end[1], "x", 1), 1); }

static void be_killed(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

static void say_ready(talk *t) { CHILD_CHECK(write(t->ready[1], "x", 1) == 1); }

static void await_end(talk *t) {
  char byte;
  CHILD_CHECK(read(t->end[0], &byte, 1) == 1);
}

/* Continues in a process of a new pid namespace, whose init process does nothing but wait. */
static pid_t fork_into_namespace(void) {
  pid_t pid = fork_child();
  if (pid != 0) return pid;
  CHILD_CHECK(unshare(CLONE_NEWPID) == 0);
  pid_t init = fork_child();
  if (init != 0) {
    waitpid(init, NULL, 0);
    _exit(0);
  }
  pid_t process = fork_child();
  if (process == 0) return 0;
  for (;;) {
    if (waitpid(-1, NULL, 0) < 0) pause();
  }
}

static bool may_unshare(void) {
  pid_t pid = fork_child();
  if (pid == 0) _exit(unshare(CLONE_NEWPID) == 0 ? 0 : 1);
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WEXITSTATUS(status) == 0;
}

static void set(chalk_writer *w, int load) {
  chalk_series *u = bind(w, load, "x");
  CHILD_CHECK(chalk_set(u, 1) >= CHALK_OK);
  free(u);
}

static bool is_over(chalk_segment *g, uint32_t slot) { return life_is_over(g, &g->slots[slot].owner); }

/* A killed process has ended when the kernel has finished with it, which is later than the signal. */
static void await_death(chalk_segment *g, uint32_t slot) {
  double end = chalk_now() + DEADLINE / 2;
  while (!is_over(g, slot) && chalk_now() < end) pause_ms(1);
  assert_true(is_over(g, slot));
}

static chalk_writer *open_in(chalk_segment *g, uint32_t slot) {
  chalk_writer *w = open_writer(g);
  assert_int_equal(chalk_writer_slot(w), slot);
  return w;
}

static double value_of(chalk_writer *w, int load) {
  chalk_series *u = bind(w, load, "x");
  double value = chalk_value(u);
  free(u);
  return value;
}

/* In another namespace: takes slot 2, forks a child that takes slot 3 and outlives its parent. Both are killed. */
static void live_in_slots_2_and_3(chalk_writer *w, chalk_series *s, int load, talk *parent, talk *child) {
  CHILD_CHECK(chalk_add(s, 1) >= CHALK_OK && chalk_writer_slot(w) == 2);
  set(w, load);
  if (fork() == 0) {
    CHILD_CHECK(chalk_add(s, 1) >= CHALK_OK && chalk_writer_slot(w) == 3);
    say_ready(parent);
    await_end(child);
    be_killed();
  }
  /* Closes all other descriptors, as a program does that becomes a daemon. */
  int kept[2] = {dup2(parent->ready[1], 200), dup2(parent->end[0], 201)};
  syscall(SYS_close_range, 3, 199, 0);
  parent->ready[1] = kept[0], parent->end[0] = kept[1];
  say_ready(parent);
  await_end(parent);
  be_killed();
}

static void test_a_death_in_another_namespace_is_proven(void **state) {
  (void)state;
  if (!may_unshare()) skip();
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), load = define_across(w, "load", CHALK_SUM);
  chalk_series *s = bind(w, count, "x");
  talk t = new_talk(), child = new_talk();
  pid_t pid = fork_into_namespace();
  if (pid == 0) live_in_slots_2_and_3(w, s, load, &t, &child);
  await(&t), await(&t);
  chalk_writer *fourth = open_in(g, 4);
  assert_true(value_of(w, load) == 1);
  drop(w, count, "x");
  chalk_writer_tick(w);
  sweep(g, 1000, 0);
  assert_int_equal(info_of(g).quarantined, 1);
  tell_to_end(&t);
  await_death(g, 2);
  assert_true(value_of(w, load) == 0);
  sweep(g, 2000, 0);
  assert_int_equal(info_of(g).quarantined, 1); /* the child has not seen the drop yet */
  chalk_writer *second = open_in(g, 2), *fifth = open_in(g, 5);
  tell_to_end(&child);
  await_death(g, 3);
  sweep(g, 3000, 0);
  assert_int_equal(info_of(g).quarantined, 0);
  chalk_writer *third = open_in(g, 3);
  kill_child(pid);
  close_talk(&t), close_talk(&child);
  free(s);
  chalk_writer *all[] = {w, second, third, fourth, fifth};
  for (int i = 0; i < 5; i++) chalk_writer_close(all[i]);
  chalk_segment_close(g);
}

/*
 * Two processes are in one namespace, but their /proc is of another one: what it says under their ids is about other
 * processes.
 */
static void test_a_foreign_proc_proves_nothing(void **state) {
  (void)state;
  if (!may_unshare()) skip();
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  talk t = new_talk();
  pid_t pid = fork_into_namespace();
  if (pid == 0) {
    pid_t other = fork_child();
    if (other == 0) {
      chalk_writer *mine = chalk_writer_open(g, NULL);
      CHILD_CHECK(mine && chalk_writer_slot(mine) == 2);
      say_ready(&t);
      for (;;) pause();
    }
    char byte;
    CHILD_CHECK(read(t.ready[0], &byte, 1) == 1);
    chalk_writer *mine = chalk_writer_open(g, NULL);
    CHILD_CHECK(mine && chalk_writer_slot(mine) == 3);
    kill(other, SIGKILL);
    CHILD_CHECK(waitpid(other, NULL, 0) == other);
    chalk_writer *next = chalk_writer_open(g, NULL);
    CHILD_CHECK(next && chalk_writer_slot(next) == 2);
    say_ready(&t);
    await_end(&t);
    be_killed();
  }
  await(&t);
  kill_child(pid);
  close_talk(&t);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void work_without_rights(chalk_segment *own, talk *t) {
  CHILD_CHECK(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
  chalk_writer *mine = chalk_writer_open(own, NULL);
  CHILD_CHECK(mine && chalk_writer_slot(mine) == 2);
  say_ready(t);
  await_end(t);
  be_killed();
}

/* A worker that gave up root's rights cannot open the file again: it counts as dead when its whole family has ended. */
static void test_a_worker_without_rights_lives_as_long_as_its_family(void **state) {
  (void)state;
  if (!may_unshare() || getuid() != 0) skip();
  chalk_options o = {.path = path};
  chalk_segment *g = open_segment(&o);
  chalk_writer *w = open_writer(g);
  talk t = new_talk(), master = new_talk();
  pid_t pid = fork_into_namespace();
  if (pid == 0) {
    chalk_segment *own = chalk_segment_open("own", &o, NULL); /* as a process in another container opens it */
    CHILD_CHECK(own);
    if (fork_child() == 0) work_without_rights(own, &t);
    CHILD_CHECK(waitpid(-1, NULL, 0) > 0);
    say_ready(&t);
    await_end(&master);
    be_killed();
  }
  await(&t);
  assert_false(is_over(g, 2));
  tell_to_end(&t);
  await(&t); /* the master reports that the worker has ended */
  assert_false(is_over(g, 2));
  tell_to_end(&master);
  await_death(g, 2);
  chalk_writer *next = open_in(g, 2);
  kill_child(pid);
  close_talk(&t), close_talk(&master);
  chalk_writer_close(next), chalk_writer_close(w);
  chalk_segment_close(g);
}

/*
 * A program may close all descriptors and open other files under their numbers. Opening such a file again could block.
 */
static void test_another_file_under_the_number_of_the_descriptor_is_not_opened(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer_close(open_writer(g)); /* so that the row of the child's writer is real already */
  pid_t pid = fork_child();
  if (pid == 0) {
    unlink(path);
    CHILD_CHECK(mkfifo(path, 0600) == 0);
    int fifo = open(path, O_RDONLY | O_NONBLOCK);
    CHILD_CHECK(fifo >= 0 && unlink(path) == 0 && dup2(fifo, g->fd) == g->fd);
    signal(SIGALRM, SIG_DFL), alarm(10);
    chalk_writer *w = chalk_writer_open(g, NULL);
    CHILD_CHECK(w && w->slot == 1 && g->life == 0);
    chalk_writer_close(w);
    _exit(0);
  }
  join_child(pid);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_death_in_another_namespace_is_proven),
      cmocka_unit_test(test_a_foreign_proc_proves_nothing),
      cmocka_unit_test(test_a_worker_without_rights_lives_as_long_as_its_family),
      cmocka_unit_test(test_another_file_under_the_number_of_the_descriptor_is_not_opened),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, directory_make, directory_remove);
}
