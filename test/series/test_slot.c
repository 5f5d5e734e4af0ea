/* What is lost when these fail: with more than 127 processes a gauge shows a value that no process has set; a process
   that once found no slot is slow for the rest of its life; and removed definitions are exported for ever. */

#include "common.h"

#include <sys/mman.h>

#include "series/gauge.h"
#include "series/series.h"
#include "series/slot.h"
#include "record/writer.h"

enum { ROWS = WRITERS - 1, ALL = 200 };

/* A segment in which this process has all slots with a row. */
typedef struct house {
  chalk_segment *g;
  chalk_writer *rows[WRITERS];
} house;

static house full_house(void) {
  house h = {.g = open_segment(NULL)};
  for (uint32_t i = 1; i < WRITERS; i++) {
    h.rows[i] = open_writer(h.g);
    assert_int_equal(chalk_writer_slot(h.rows[i]), i);
  }
  return h;
}

static void leave_row(house *h, int i) {
  chalk_writer_close(h->rows[i]);
  h->rows[i] = NULL;
}

static void close_house(house *h) {
  for (uint32_t i = 1; i < WRITERS; i++) {
    if (h->rows[i]) leave_row(h, i);
  }
  chalk_segment_close(h->g);
}

static bool is_bound(const chalk_series *s) { return writer_is_current(s); }

static double gauge_of(chalk_segment *g, int metric) {
  chalk_snapshot *s = take(g, 0);
  uint32_t n;
  const chalk_entry *e = chalk_snapshot_entries(s, &n);
  double value = NAN;
  for (uint32_t i = 0; i < n; i++) {
    if (e[i].metric == (uint32_t)metric) value = e[i].value;
  }
  chalk_snapshot_free(s);
  return value;
}

static void expect_gauge(chalk_segment *g, int metric, double value) {
  double is = gauge_of(g, metric);
  if (is != value && !(isnan(is) && isnan(value))) fail_msg("a gauge of %g is %g", value, is);
}

/* Gauges of VMs that share slot 0 */

typedef struct gauges {
  int sum, least, most;
} gauges;

static gauges define_gauges(chalk_writer *w) {
  return (gauges){define_across(w, "sum", CHALK_SUM), define_across(w, "least", CHALK_MIN),
                  define_across(w, "most", CHALK_MAX)};
}

static void set(chalk_writer *w, int metric, double v) {
  chalk_series *s = bind(w, metric, "x");
  CHILD_CHECK(chalk_set(s, v) >= CHALK_OK);
  free(s);
}

/* The first process has the least and the largest value. */
static void set_gauges(chalk_writer *w, gauges m, int i) {
  set(w, m.sum, 1);
  set(w, m.least, i == 0 ? -7 : 5);
  set(w, m.most, i == 0 ? 1000 : 5);
}

static pid_t fork_setter(chalk_segment *g, int i, int ready) {
  pid_t pid = fork_child();
  if (pid != 0) return pid;
  chalk_writer *w = chalk_writer_open(g, NULL);
  CHILD_CHECK(w);
  set_gauges(w, define_gauges(w), i);
  CHILD_CHECK(write(ready, "x", 1) == 1);
  for (;;) pause();
}

static void await(int ready, int n) {
  char byte;
  for (int i = 0; i < n; i++) assert_int_equal(read(ready, &byte, 1), 1);
}

static void test_each_of_two_hundred_processes_has_its_own_gauges(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  gauges m = define_gauges(w);
  chalk_writer_close(w);
  int ready[2];
  pid_t pids[ALL];
  assert_int_equal(pipe(ready), 0);
  for (int i = ALL; i-- > 0;) pids[i] = fork_setter(g, i, ready[1]); /* process 0 comes last, so it shares slot 0 */
  await(ready[0], ALL);
  expect_gauge(g, m.sum, ALL);
  expect_gauge(g, m.least, -7);
  expect_gauge(g, m.most, 1000);
  kill_child(pids[0]);
  expect_gauge(g, m.sum, ALL - 1);
  expect_gauge(g, m.least, 5);
  expect_gauge(g, m.most, 5);
  for (int i = 1; i < ALL; i++) kill_child(pids[i]);
  expect_gauge(g, m.sum, NAN);
  close(ready[0]), close(ready[1]);
  chalk_segment_close(g);
}

/* Each VM adds to its own value. */
static void test_vms_that_share_add_to_their_own_values(void **state) {
  (void)state;
  enum { SHARING = 3 };
  house h = full_house();
  chalk_writer *w[SHARING];
  chalk_series *s[SHARING];
  int metric = 0;
  for (int i = 0; i < SHARING; i++) {
    w[i] = open_writer(h.g);
    assert_int_equal(chalk_writer_slot(w[i]), 0);
    metric = define_across(w[i], "load", CHALK_SUM);
    s[i] = bind(w[i], metric, "x");
  }
  for (int k = 0; k < 10; k++) {
    for (int i = 0; i < SHARING; i++) assert_true(chalk_add(s[i], i + 1) >= CHALK_OK);
  }
  expect_gauge(h.g, metric, 60);
  chalk_set(s[0], 1);
  expect_gauge(h.g, metric, 51);
  chalk_writer_close(w[2]);
  expect_gauge(h.g, metric, 21);
  chalk_writer_close(w[1]);
  expect_gauge(h.g, metric, 1);
  chalk_writer_close(w[0]);
  expect_gauge(h.g, metric, NAN);
  for (int i = 0; i < SHARING; i++) free(s[i]);
  close_house(&h);
}

static void test_links_of_ended_vms_are_used_again(void **state) {
  (void)state;
  enum { WARM = 10, LIVES = 1000 };
  house h = full_house();
  uint64_t top = 0;
  for (int i = 0; i < LIVES; i++) {
    if (i == WARM) top = h.g->head->heap_top;
    chalk_writer *w = open_writer(h.g);
    int metric = define_across(w, "load", CHALK_SUM);
    expect_gauge(h.g, metric, NAN);
    set(w, metric, i);
    expect_gauge(h.g, metric, i);
    chalk_writer_close(w);
  }
  assert_int_equal(h.g->head->heap_top, top);
  assert_int_equal(atomic_load(&h.g->head->guest_top), WRITERS + 1);
  close_house(&h);
}

/* Slots that become free */

static void test_a_vm_that_shares_takes_a_free_row(void **state) {
  (void)state;
  house h = full_house();
  chalk_writer *w = open_writer(h.g);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), load = define_across(w, "load", CHALK_SUM);
  int latency = define(w, "latency", CHALK_HISTOGRAM, 1, 5);
  chalk_series *c = bind(w, count, "x"), *u = bind(w, load, "x"), *l = bind(w, latency, "x");
  chalk_add(c, 3), chalk_set(u, 7), chalk_record(l, 1);
  assert_false(is_bound(c) || is_bound(u) || is_bound(l));
  leave_row(&h, 5);
  assert_true(chalk_add(c, 1) >= CHALK_OK);
  assert_int_equal(chalk_writer_slot(w), 5);
  assert_true(is_bound(c) && !is_bound(u) && !is_bound(l));
  expect_gauge(h.g, load, 7); /* the VM has not set it since it got the row */
  assert_true(chalk_add(u, 1) >= CHALK_OK && chalk_record(l, 1) >= CHALK_OK);
  assert_true(is_bound(u) && is_bound(l));
  u->cell[0] = 20, u->cell[1] = 1; /* an inlined record */
  *c->cell += 1;
  expect_gauge(h.g, load, 20);
  assert_int_equal(total_of(h.g, count), 5);
  assert_int_equal(total_of(h.g, latency), 2);
  chalk_series *other = bind(w, load, "y");
  chalk_set(other, 2);
  assert_true(is_bound(other));
  assert_true(chalk_value(other) == 2 && chalk_value(u) == 20);
  chalk_writer_close(w);
  expect_gauge(h.g, load, NAN);
  free(c), free(u), free(l), free(other);
  close_house(&h);
}

static void test_a_tick_takes_a_free_row(void **state) {
  (void)state;
  house h = full_house();
  chalk_writer *w = open_writer(h.g);
  assert_int_equal(chalk_writer_slot(w), 0);
  leave_row(&h, 9);
  chalk_writer_tick(w);
  assert_int_equal(chalk_writer_slot(w), 9);
  chalk_writer_close(w);
  close_house(&h);
}

/* A process that is killed gives nothing back, so a VM that shares has to find the row. */
static void test_a_vm_that_shares_finds_a_dead_ones_row(void **state) {
  (void)state;
  house h = full_house();
  leave_row(&h, 77);
  int ready[2];
  assert_int_equal(pipe(ready), 0);
  pid_t pid = fork_child();
  if (pid == 0) {
    chalk_writer *w = chalk_writer_open(h.g, NULL);
    CHILD_CHECK(w && chalk_writer_slot(w) == 77);
    CHILD_CHECK(write(ready[1], "x", 1) == 1);
    for (;;) pause();
  }
  await(ready[0], 1);
  chalk_writer *w = open_writer(h.g);
  chalk_series *s = bind(w, define(w, "requests", CHALK_COUNT, 1, 0), "x");
  int64_t n = 0;
  uint32_t looked = atomic_load(&h.g->head->looked);
  double end = chalk_now() + DEADLINE;
  for (int looks = 0; looks < 2 && chalk_now() < end; n++) {
    assert_true(chalk_add(s, 1) >= CHALK_OK && chalk_writer_slot(w) == 0);
    if (atomic_load(&h.g->head->looked) != looked) looked = atomic_load(&h.g->head->looked), looks++;
  }
  kill_child(pid);
  for (; chalk_now() < end && chalk_writer_slot(w) == 0; n++) assert_true(chalk_add(s, 1) >= CHALK_OK);
  assert_int_equal(chalk_writer_slot(w), 77);
  assert_true(chalk_value(s) == (double)n);
  free(s);
  chalk_writer_close(w);
  close(ready[0]), close(ready[1]);
  close_house(&h);
}

/* A child has its parent's handles, but its own value, even if it shares slot 0 as its parent did. */
static void test_a_child_of_a_vm_that_shares_has_its_own_gauge(void **state) {
  (void)state;
  house h = full_house();
  chalk_writer *w = open_writer(h.g);
  int load = define_across(w, "load", CHALK_SUM);
  chalk_series *s = bind(w, load, "x");
  chalk_set(s, 1);
  for (int round = 0; round < 2; round++) { /* the parent shares, then has a row */
    pid_t pid = fork_child();
    if (pid == 0) {
      CHILD_CHECK(chalk_set(s, 10) >= CHALK_OK && chalk_value(s) == 11);
      CHILD_CHECK(chalk_writer_slot(w) == 0);
      chalk_writer_close(w);
      CHILD_CHECK(gauge_of(h.g, load) == 1);
      _exit(0);
    }
    join_child(pid);
    expect_gauge(h.g, load, 1);
    if (round == 0) leave_row(&h, 3), chalk_set(s, 1);
  }
  assert_int_equal(chalk_writer_slot(w), 3);
  free(s);
  chalk_writer_close(w);
  close_house(&h);
}

/* A dropped series is not reclaimed while a handle may still store into its link in slot 0. */
static void test_a_link_waits_for_its_vm_that_got_a_row(void **state) {
  (void)state;
  house h = full_house();
  chalk_writer *w = open_writer(h.g);
  int load = define_across(w, "load", CHALK_SUM);
  chalk_series *s = bind(w, load, "x");
  chalk_set(s, 1);
  drop(w, load, "x"); /* a VM that shares stores under the lock only, so the drop does not wait for it */
  sweep(h.g, 1000, 0);
  assert_int_equal(info_of(h.g).quarantined, 0);
  chalk_set(s, 1);
  leave_row(&h, 3);
  chalk_set(s, 2);
  assert_true(is_bound(s) && chalk_writer_slot(w) == 3);
  drop(h.rows[1], load, "x");
  for (int i = 2; i < 5; i++) sweep(h.g, 1000 * i, 0);
  assert_int_equal(info_of(h.g).quarantined, 1);
  s->cell[0] = 3, s->cell[1] = 1; /* stopped between its comparison and its store */
  assert_true(chalk_set(s, 4) >= CHALK_OK);
  sweep(h.g, 9000, 0);
  assert_int_equal(info_of(h.g).quarantined, 0);
  assert_true(chalk_value(s) == 4);
  free(s);
  chalk_writer_close(w);
  close_house(&h);
}

/* A late set of a VM that has got a row counts once, whether the VM has set the successor or not. */
static void test_a_late_gauge_of_a_vm_that_got_a_row(void **state) {
  (void)state;
  enum { IDLE = 5 };
  for (int has_set = 0; has_set < 2; has_set++) {
    house h = full_house();
    chalk_writer *w = open_writer(h.g);
    int load = define_across(w, "load", CHALK_SUM);
    chalk_series *s = bind(w, load, "x");
    chalk_set(s, 1);
    leave_row(&h, 3);
    chalk_set(s, 2);
    assert_true(is_bound(s) && chalk_writer_slot(w) == 3);
    sweep(h.g, 100, IDLE);
    assert_int_equal(sweep(h.g, 200, IDLE), 1);
    s->cell[0] = 7, s->cell[1] = GAUGE_TOUCHED; /* stopped between its comparison and its store */
    assert_true(chalk_rebind(s) == CHALK_OK);
    if (has_set) assert_int_equal(chalk_set(s, 4), CHALK_OK);
    sweep(h.g, 200, IDLE);
    assert_int_equal(info_of(h.g).quarantined, 0);
    expect_gauge(h.g, load, has_set ? 4 : 7);
    assert_true(chalk_set(s, 8) >= CHALK_OK);
    expect_gauge(h.g, load, 8);
    chalk_writer_close(w);
    expect_gauge(h.g, load, NAN);
    free(s);
    close_house(&h);
  }
}

/* While processes that share get rows, a reader finds the value of each of them once, at any time. */

enum { MOVERS = 12, MOVES = SANITIZED ? 100 : 300 };

static void mover(chalk_segment *g, shared_u32 *stop, int ready) {
  chalk_writer *w = chalk_writer_open(g, NULL);
  CHILD_CHECK(w);
  chalk_series *u = bind(w, define_across(w, "load", CHALK_SUM), "x");
  chalk_series *c = bind(w, define(w, "requests", CHALK_COUNT, 1, 0), "x");
  CHILD_CHECK(chalk_set(u, 1) >= CHALK_OK);
  CHILD_CHECK(write(ready, "x", 1) == 1);
  while (!atomic_load(stop)) {
    CHILD_CHECK(chalk_add(c, 1) >= CHALK_OK && chalk_set(u, 1) >= CHALK_OK);
    pause_ms(1);
  }
  for (;;) pause();
}

static void test_getting_a_row_changes_no_value(void **state) {
  (void)state;
  house h = full_house();
  shared_u32 *stop = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int ready[2], load = define_across(h.rows[1], "load", CHALK_SUM);
  pid_t pids[MOVERS];
  assert_true(stop != MAP_FAILED && pipe(ready) == 0);
  for (int i = 0; i < MOVERS; i++) {
    pids[i] = fork_child();
    if (pids[i] == 0) mover(h.g, stop, ready[1]);
  }
  await(ready[0], MOVERS);
  for (int i = 0; i < MOVES; i++) {
    if (i % 10 == 0 && i / 10 < MOVERS) leave_row(&h, 20 + i / 10);
    expect_gauge(h.g, load, MOVERS);
  }
  double end = chalk_now() + DEADLINE;
  for (int i = 20; i < 20 + MOVERS;) {
    assert_true(chalk_now() < end);
    expect_gauge(h.g, load, MOVERS);
    i += atomic_load(&h.g->slots[i].taken); /* in the end each process has a row */
  }
  atomic_store(stop, 1);
  for (int i = 0; i < MOVERS; i++) kill_child(pids[i]);
  munmap(stop, 4096);
  close(ready[0]), close(ready[1]);
  close_house(&h);
}

/* Definitions */

static uint32_t metrics_after_sweeps(chalk_segment *g) {
  for (int i = 0; i < 4; i++) sweep(g, 1000 * i, 0);
  return info_of(g).metrics;
}

static void test_a_metric_leaves_once_no_vm_that_shares_uses_it(void **state) {
  (void)state;
  house h = full_house();
  chalk_writer *w = open_writer(h.g), *other = open_writer(h.g);
  assert_int_equal(chalk_writer_slot(w) + chalk_writer_slot(other), 0);
  int count = define(w, "requests", CHALK_COUNT, 1, 0);
  define(other, "others", CHALK_COUNT, 1, 0);
  chalk_series *s = bind(w, count, "x");
  chalk_add(s, 1);
  chalk_generation(h.g, 1); /* a reload, after which no process defines it */
  assert_int_equal(metrics_after_sweeps(h.g), 2);
  assert_int_equal(total_of(h.g, count), 1);
  leave_row(&h, 3);
  chalk_add(s, 1);
  assert_int_equal(chalk_writer_slot(w), 3);
  assert_int_equal(metrics_after_sweeps(h.g), 2);
  chalk_undefine(w, (uint32_t)count);
  sweep(h.g, 5000, 0);
  chalk_writer_tick(w);
  assert_int_equal(metrics_after_sweeps(h.g), 1);
  chalk_writer_close(other);
  assert_int_equal(metrics_after_sweeps(h.g), 0);
  free(s);
  chalk_writer_close(w);
  close_house(&h);
}

static void test_a_metric_leaves_after_its_last_user_has_died(void **state) {
  (void)state;
  house h = full_house();
  int ready[2];
  assert_int_equal(pipe(ready), 0);
  pid_t pid = fork_setter(h.g, 1, ready[1]);
  await(ready[0], 1);
  chalk_generation(h.g, 1);
  assert_int_equal(metrics_after_sweeps(h.g), 3);
  kill_child(pid);
  assert_int_equal(metrics_after_sweeps(h.g), 0);
  close(ready[0]), close(ready[1]);
  close_house(&h);
}

/* VMs without a guest slot share one value of a gauge, and their definitions stay for good, but no count is lost. */
static void test_vms_without_a_guest_slot_share_values(void **state) {
  (void)state;
  house h = full_house();
  header *head = h.g->head;
  atomic_store(&head->memory_limit, atomic_load(&head->memory));
  chalk_writer *w = open_writer(h.g);
  atomic_store(&head->memory_limit, 64 << 20);
  assert_int_equal(w->guest, 0);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), load = define_across(w, "load", CHALK_SUM);
  chalk_series *c = bind(w, count, "x"), *u = bind(w, load, "x");
  assert_true(chalk_add(c, 2) >= CHALK_OK && chalk_set(u, 5) >= CHALK_OK && chalk_add(u, 1) >= CHALK_OK);
  expect_gauge(h.g, load, 6);
  assert_int_equal(total_of(h.g, count), 2);
  chalk_generation(h.g, 1);
  chalk_writer_close(w);
  assert_int_equal(metrics_after_sweeps(h.g), 2);
  free(c), free(u);
  close_house(&h);
}

/* A server's master that looks for a row in vain, because the lock is not released, still has its guest slot. */
static void test_a_master_that_waits_in_vain_keeps_its_guest_slot(void **state) {
  (void)state;
  house h = full_house();
  header *head = h.g->head;
  pid_t pid = fork_child();
  if (pid == 0) {
    chalk_inherit(1);
    segment_lock_patience = 0.05;
    chalk_writer *w = chalk_writer_open(h.g, NULL);
    CHILD_CHECK(w && w->guest != 0);
    chalk_series *s = bind(w, define(w, "requests", CHALK_COUNT, 1, 0), "x");
    shared_u32 *word = (shared_u32 *)(void *)&head->registry;
    atomic_store(word, (uint32_t)getppid());
    atomic_fetch_add(&head->vacancies, 1);
    CHILD_CHECK(chalk_add(s, 1) >= CHALK_OK && w->slot == 0 && w->guest != 0);
    atomic_store(word, 0);
    chalk_writer_close(w);
    _exit(0);
  }
  join_child(pid);
  assert_int_equal(atomic_load(&head->strangers), 0);
  chalk_generation(h.g, 1);
  assert_int_equal(metrics_after_sweeps(h.g), 0);
  close_house(&h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_each_of_two_hundred_processes_has_its_own_gauges),
      cmocka_unit_test(test_vms_that_share_add_to_their_own_values),
      cmocka_unit_test(test_links_of_ended_vms_are_used_again),
      cmocka_unit_test(test_a_vm_that_shares_takes_a_free_row),
      cmocka_unit_test(test_a_tick_takes_a_free_row),
      cmocka_unit_test(test_a_vm_that_shares_finds_a_dead_ones_row),
      cmocka_unit_test(test_a_child_of_a_vm_that_shares_has_its_own_gauge),
      cmocka_unit_test(test_a_link_waits_for_its_vm_that_got_a_row),
      cmocka_unit_test(test_a_late_gauge_of_a_vm_that_got_a_row),
      cmocka_unit_test(test_getting_a_row_changes_no_value),
      cmocka_unit_test(test_a_metric_leaves_once_no_vm_that_shares_uses_it),
      cmocka_unit_test(test_a_metric_leaves_after_its_last_user_has_died),
      cmocka_unit_test(test_vms_without_a_guest_slot_share_values),
      cmocka_unit_test(test_a_master_that_waits_in_vain_keeps_its_guest_slot),
  };
  alarm(2 * DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
