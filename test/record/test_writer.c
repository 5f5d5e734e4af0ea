/* What is lost when these fail: counts of processes that fork, die or share a slot; or the whole application hangs on a
   lock that a killed worker held. */

#include "common.h"

#include <sys/mman.h>

#include "record/writer.h"

static void add_many(chalk_series *s, int n) {
  for (int i = 0; i < n; i++) CHILD_CHECK(chalk_add(s, 1) >= CHALK_OK);
}

static void test_a_slot_keeps_the_counts_of_its_last_owner(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *a = open_writer(g), *b = open_writer(g);
  assert_int_equal(chalk_writer_slot(a), 1);
  assert_int_equal(chalk_writer_slot(b), 2);
  assert_int_equal(info_of(g).writers, 2);
  int metric = define(a, "requests", CHALK_COUNT, 1, 0);
  chalk_series *s = bind(a, metric, "x");
  chalk_add(s, 3);
  free(s);
  chalk_writer_close(a);
  /* What the last owner counted stays, and the next owner goes on from there. */
  for (int i = 0; i < 1000; i++) {
    chalk_writer *next = open_writer(g);
    assert_int_equal(chalk_writer_slot(next), 1);
    define(next, "requests", CHALK_COUNT, 1, 0);
    s = bind(next, metric, "x");
    chalk_add(s, 1);
    free(s);
    chalk_writer_close(next);
  }
  assert_int_equal(total_of(g, metric), 1003);
  chalk_writer_close(b);
  chalk_segment_close(g);
}

static void test_a_handle_outlives_its_writer(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  chalk_series *s = bind(w, metric, "x");
  chalk_add(s, 3);
  chalk_writer_close(w);
  assert_true(*s->shared + *s->own != s->epoch);
  assert_int_equal(chalk_add(s, 1), CHALK_ECLOSED);
  assert_int_equal(total_of(g, metric), 3);
  chalk_segment_close(g);
  assert_int_equal(chalk_add(s, 1), CHALK_ECLOSED);
  assert_true(isnan(chalk_value(s)));
  free(s);
}

static void test_records_of_wrong_numbers_are_refused(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  chalk_series *c = bind(w, define(w, "c", CHALK_COUNT, 1, 0), "x");
  chalk_series *u = bind(w, define(w, "u", CHALK_GAUGE, 1, 0), "x");
  chalk_series *h = bind(w, define(w, "h", CHALK_HISTOGRAM, 1, 0), "x");
  static const double refused[] = {-1, 0.5, NAN, INFINITY, 9007199254740994.0};
  for (int i = 0; i < 5; i++) assert_int_equal(chalk_add(c, refused[i]), CHALK_ENUMBER);
  assert_int_equal(chalk_set(c, 1), CHALK_EVERB);
  assert_int_equal(chalk_record(c, 1), CHALK_EVERB);
  assert_int_equal(chalk_record(u, 1), CHALK_EVERB);
  assert_int_equal(chalk_add(h, 1), CHALK_EVERB);
  assert_int_equal(chalk_record(h, NAN), CHALK_ENUMBER);
  assert_int_equal(chalk_record(h, -INFINITY), CHALK_ENUMBER);
  assert_true(chalk_add(c, 9007199254740992.0) >= CHALK_OK);
  assert_true(chalk_value(c) == 9007199254740992.0);
  assert_int_equal(chalk_value(h), 0);
  free(c), free(u), free(h);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* Parent and children use handles that were bound before the fork. */
static void test_forked_processes_count_exactly(void **state) {
  (void)state;
  enum { CHILDREN = 4, EACH = 200000 };
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), gauge = define(w, "in_flight", CHALK_GAUGE, 1, 0);
  int latency = define(w, "latency", CHALK_HISTOGRAM, 1, 5);
  chalk_series *c = bind(w, count, "x"), *u = bind(w, gauge, "x"), *h = bind(w, latency, "x");
  chalk_add(c, 1), chalk_add(u, 1), chalk_record(h, 1);
  pid_t pids[CHILDREN];
  for (int i = 0; i < CHILDREN; i++) {
    pids[i] = fork_child();
    if (pids[i] != 0) continue;
    CHILD_CHECK(*c->shared + *c->own != c->epoch);
    add_many(c, EACH);
    for (int k = 0; k < EACH / 10; k++) CHILD_CHECK(chalk_add(u, 1) >= CHALK_OK && chalk_record(h, k) >= CHALK_OK);
    CHILD_CHECK(chalk_writer_slot(w) > 1);
    _exit(0);
  }
  add_many(c, EACH);
  for (int i = 0; i < CHILDREN; i++) join_child(pids[i]);
  assert_int_equal(total_of(g, count), 1 + (CHILDREN + 1) * EACH);
  assert_int_equal(total_of(g, latency), 1 + CHILDREN * EACH / 10);
  assert_true(chalk_value(u) == 1 + CHILDREN * EACH / 10);
  chalk_sketch *k = chalk_series_sketch(h);
  assert_int_equal(chalk_sketch_count(k), 1 + CHILDREN * EACH / 10);
  chalk_sketch_free(k);
  free(c), free(u), free(h);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_a_dead_owners_slot_is_taken_over(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  chalk_series *s = bind(w, metric, "x");
  for (int i = 0; i < 300; i++) {
    pid_t pid = fork_child();
    if (pid == 0) {
      chalk_add(s, 1);
      CHILD_CHECK(chalk_writer_slot(w) == 2);
      kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(pid, NULL, 0), pid);
  }
  assert_int_equal(total_of(g, metric), 300);
  assert_int_equal(chalk_writer_slot(w), 1);
  free(s);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* Dead, but not yet waited for. */
static void test_a_zombie_is_dead(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  chalk_series *s = bind(w, metric, "x");
  pid_t pid = fork_child();
  if (pid == 0) {
    chalk_add(s, 1);
    _exit(0);
  }
  siginfo_t status;
  assert_int_equal(waitid(P_PID, (id_t)pid, &status, WEXITED | WNOWAIT), 0);
  chalk_writer *next = open_writer(g);
  assert_int_equal(chalk_writer_slot(next), 2);
  join_child(pid);
  free(s);
  chalk_writer_close(next);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* A child that is stopped as if between its comparison and its store, and ticks when it is asked to. */
static void be_stopped(chalk_writer *w, chalk_series *s, int ready, int go) {
  char byte = 0;
  chalk_add(s, 1);
  CHILD_CHECK(write(ready, &byte, 1) == 1);
  raise(SIGSTOP);
  *s->cell += 1;
  CHILD_CHECK(read(go, &byte, 1) == 1);
  chalk_writer_tick(w);
  CHILD_CHECK(write(ready, &byte, 1) == 1);
  pause();
}

static void test_a_stopped_process_keeps_its_slot(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  chalk_series *s = bind(w, metric, "x"), *y = bind(w, metric, "y");
  int ready[2], go[2];
  char byte = 0;
  assert_int_equal(pipe(ready) + pipe(go), 0);
  pid_t pid = fork_child();
  if (pid == 0) be_stopped(w, s, ready[1], go[0]);
  assert_int_equal(read(ready[0], &byte, 1), 1);
  int status;
  assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
  assert_true(WIFSTOPPED(status));
  drop(w, metric, "x");
  chalk_writer_tick(w);
  for (int i = 0; i < 5; i++) sweep(g, 1000 * i, 0);
  assert_int_equal(info_of(g).quarantined, 1);
  kill(pid, SIGCONT);
  assert_int_equal(write(go[1], &byte, 1), 1);
  assert_int_equal(read(ready[0], &byte, 1), 1);
  sweep(g, 9000, 0);
  assert_int_equal(info_of(g).quarantined, 0);
  assert_int_equal(total_of(g, metric), 1);
  kill_child(pid);
  close(ready[0]), close(ready[1]), close(go[0]), close(go[1]);
  free(s), free(y);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

enum { OLD_NUMBERS = 2 };

/* Defines two metrics with one tag each. */
static void define_old(chalk_writer *w, int *numbers) {
  numbers[0] = define(w, "old", CHALK_COUNT, 1, 0);
  numbers[1] = define(w, "older", CHALK_COUNT, 1, 0);
}

/*
 * Defines two others that get their numbers: one with the same tag and a series of the same value, and one with as many
 * tags as there can be.
 */
static void define_strangers(chalk_writer *w, const int *numbers) {
  int alike = define(w, "stranger", CHALK_COUNT, 1, 0);
  assert_int_equal(alike, numbers[0]);
  chalk_series *s = bind(w, alike, "x");
  assert_int_equal(chalk_add(s, 7), CHALK_OK);
  free(s);
  assert_int_equal(define(w, "broad", CHALK_COUNT, CHALK_TAGS, 0), numbers[1]);
}

/* Memory for one pointer or size, right before memory that cannot be read. */
static void *last_word(void) {
  char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHILD_CHECK(pages != MAP_FAILED && mprotect(pages + 4096, 4096, PROT_NONE) == 0);
  return pages + 4096 - 8;
}

/* A child uses numbers that have gone to other metrics since it was forked. */
static void use_old(chalk_writer *w, const int *numbers, chalk_series *s, bool shared) {
  const char **value = last_word();
  size_t *size = last_word();
  *value = "x", *size = 1;
  CHILD_CHECK(chalk_add(s, 1) == CHALK_EGONE);
  CHILD_CHECK(chalk_rebind(s) == CHALK_EGONE);
  for (int i = 0; i < OLD_NUMBERS; i++) {
    CHILD_CHECK(chalk_bind(w, (uint32_t)numbers[i], value, size) == CHALK_EGONE);
    CHILD_CHECK(chalk_remove(w, (uint32_t)numbers[i], value, size) == CHALK_EGONE);
    CHILD_CHECK(chalk_clear(w, (uint32_t)numbers[i]) == CHALK_EGONE);
  }
  CHILD_CHECK((chalk_writer_slot(w) == 0) == shared);
  /* Once it has defined the metric again, the child records as before. */
  int new = define(w, "old", CHALK_COUNT, 1, 0);
  CHILD_CHECK(new >= 0 && chalk_bind(w, (uint32_t) new, value, size) == CHALK_OK);
  CHILD_CHECK(chalk_add(chalk_scratch(w), 1) >= CHALK_OK);
  CHILD_CHECK(chalk_remove(w, (uint32_t) new, value, size) == 1);
  _exit(0);
}

/*
 * A child sleeps while its parent's metrics leave and others get their numbers. Then it neither records into the others
 * nor drops their series, nor reads behind its tag values, of which the others have more. `shared`: the child finds no
 * slot with a row.
 */
static void check_old_numbers(bool shared) {
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g), *others[WRITERS];
  int numbers[OLD_NUMBERS], go[2], n = 0;
  define_old(w, numbers);
  chalk_series *s = bind(w, numbers[0], "x");
  char byte = 0;
  assert_int_equal(pipe(go), 0);
  pid_t pid = fork_child();
  if (pid == 0) {
    CHILD_CHECK(read(go[0], &byte, 1) == 1);
    use_old(w, numbers, s, shared);
  }
  chalk_writer_close(w);
  chalk_generation(g, 1);
  for (int i = 0; i < 4; i++) sweep(g, 1000 * i, 0);
  assert_int_equal(info_of(g).metrics, 0);
  chalk_writer *next = open_writer(g);
  define_strangers(next, numbers);
  while (shared && info_of(g).writers < WRITERS - 1) others[n++] = open_writer(g);
  assert_int_equal(write(go[1], &byte, 1), 1);
  join_child(pid);
  assert_int_equal(total_of(g, numbers[0]), 7);
  while (n > 0) chalk_writer_close(others[--n]);
  close(go[0]), close(go[1]);
  free(s);
  chalk_writer_close(next);
  chalk_segment_close(g);
}

static void test_a_child_leaves_other_metrics_of_its_numbers_alone(void **state) {
  (void)state;
  check_old_numbers(false);
}

static void test_a_child_in_the_shared_slot_leaves_them_alone(void **state) {
  (void)state;
  check_old_numbers(true);
}

enum { SHARING = 4, EACH = 20000 };

/* A child that shares slot 0 records. Its key is another one than that of its siblings, but is folded like theirs. */
static void record_in_shared_slot(chalk_writer *w, chalk_series *c, int latency, int gauge, int i) {
  char tag[8];
  snprintf(tag, sizeof tag, "%d", i);
  chalk_series *h = bind(w, latency, tag), *u = bind(w, gauge, tag);
  for (int k = 0; k < EACH; k++) {
    CHILD_CHECK(chalk_add(c, 1) >= CHALK_OK);
    CHILD_CHECK(chalk_record(h, 1 + k % 1000) >= CHALK_OK);
    CHILD_CHECK(chalk_add(u, 1) >= CHALK_OK);
  }
  CHILD_CHECK(chalk_writer_slot(w) == 0);
}

static void open_all_rows(chalk_segment *g, chalk_writer **all) {
  for (uint32_t i = 1; i < WRITERS; i++) {
    all[i] = open_writer(g);
    assert_int_equal(chalk_writer_slot(all[i]), i);
  }
}

/* All slots are in use, so VMs of several processes share slot 0 at the same time. They lose nothing. */
static void test_the_shared_slot_is_exact(void **state) {
  (void)state;
  chalk_options o = {.max_series = 1};
  chalk_segment *g = open_segment(&o);
  chalk_writer *all[WRITERS];
  open_all_rows(g, all);
  chalk_writer *w = open_writer(g);
  assert_int_equal(chalk_writer_slot(w), 0);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), latency = define(w, "latency", CHALK_HISTOGRAM, 1, 5);
  int gauge = define_across(w, "load", CHALK_SUM);
  chalk_series *c = bind(w, count, "x");
  assert_true(*c->shared + *c->own != c->epoch);
  chalk_add(c, 1);
  int done[2], end[2];
  char byte;
  assert_int_equal(pipe(done) + pipe(end), 0);
  pid_t pids[SHARING];
  for (int i = 0; i < SHARING; i++) {
    pids[i] = fork_child();
    if (pids[i] != 0) continue;
    close(end[1]);
    record_in_shared_slot(w, c, latency, gauge, i);
    CHILD_CHECK(write(done[1], "x", 1) == 1 && read(end[0], &byte, 1) == 0);
    _exit(0);
  }
  for (int i = 0; i < SHARING; i++) assert_int_equal(read(done[0], &byte, 1), 1);
  assert_int_equal(total_of(g, count), 1 + SHARING * EACH);
  assert_int_equal(total_of(g, latency), SHARING * EACH);
  chalk_series *overflow = bind(w, latency, "y"), *load = bind(w, gauge, "y");
  chalk_sketch *k = chalk_series_sketch(overflow);
  assert_int_equal(chalk_sketch_count(k), SHARING * EACH);
  assert_true(chalk_value(load) == SHARING * EACH);
  close(end[1]);
  for (int i = 0; i < SHARING; i++) join_child(pids[i]);
  assert_true(chalk_value(load) == 0); /* the values of processes that have ended are gone */
  close(done[0]), close(done[1]), close(end[0]);
  chalk_sketch_free(k);
  free(c), free(overflow), free(load);
  for (uint32_t i = 1; i < WRITERS; i++) chalk_writer_close(all[i]);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* A loop that records as compiled Lua code does sees a drop of another process. */
static void test_the_epoch_moves_from_another_process(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  chalk_series *s = bind(w, metric, "x");
  pid_t pid = fork_child();
  if (pid == 0) {
    pause_ms(20);
    CHILD_CHECK(drop(w, metric, "x") == 1);
    _exit(0);
  }
  const shared_u64 *shared = (const shared_u64 *)s->shared;
  double end = chalk_now() + DEADLINE;
  int64_t before = 0;
  while (load_double(shared) + *s->own == s->epoch && chalk_now() < end) *s->cell += 1, before++;
  assert_true(load_double(shared) + *s->own != s->epoch);
  assert_true(chalk_add(s, 1) >= CHALK_OK);
  join_child(pid);
  chalk_writer_tick(w);
  sweep(g, 1000, 0);
  assert_true(chalk_value(s) >= 1 && chalk_value(s) < before);
  free(s);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* Creates series, records and drops without end. */
static void churn(chalk_writer *w, int count, int latency) {
  for (uint64_t i = 0;; i++) {
    char tag[32];
    snprintf(tag, sizeof tag, "%d-%llu", (int)getpid(), (unsigned long long)(i % 500));
    chalk_series *c = bind(w, count, tag), *h = bind(w, latency, tag);
    chalk_add(c, 1), chalk_record(h, (double)i);
    free(c), free(h);
    if (i % 50 == 49) drop(w, count, tag), drop(w, latency, tag);
  }
}

static void test_a_hundred_kills_lose_no_count_of_the_living(void **state) {
  (void)state;
  enum { KILLS = 100 };
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int mine = define(w, "mine", CHALK_COUNT, 1, 0), count = define(w, "churned", CHALK_COUNT, 1, 0);
  int latency = define(w, "latency", CHALK_HISTOGRAM, 1, 5), kept = define(w, "kept", CHALK_HISTOGRAM, 1, 5);
  chalk_series *s = bind(w, mine, "x"), *h = bind(w, kept, "x");
  int64_t recorded = 0;
  for (int i = 0; i < KILLS; i++) {
    pid_t pid = fork_child();
    if (pid == 0) churn(w, count, latency);
    double end = chalk_now() + 0.002 + random_unit() * 0.03;
    while (chalk_now() < end) {
      char tag[16];
      snprintf(tag, sizeof tag, "%d", (int)(recorded % 1000));
      chalk_series *other = bind(w, mine, tag);
      assert_true(chalk_add(other, 1) >= CHALK_OK);
      assert_true(chalk_add(s, 1) >= CHALK_OK);
      assert_true(chalk_record(h, (double)(recorded % 777)) >= CHALK_OK);
      recorded++;
      free(other);
    }
    kill_child(pid);
    if (i % 10 == 9) sweep(g, 1000.0 * i, 0);
  }
  assert_int_equal(total_of(g, mine), 2 * recorded);
  assert_int_equal(total_of(g, kept), recorded);
  chalk_sketch *k = chalk_series_sketch(h);
  assert_int_equal(chalk_sketch_count(k), recorded);
  chalk_sketch_free(k);
  assert_true(info_of(g).writers <= 2);
  /* The segment is of use, and what the dead processes left can be reclaimed. */
  chalk_clear(w, (uint32_t)count), chalk_clear(w, (uint32_t)latency);
  chalk_writer_tick(w);
  for (int i = 0; i < 3; i++) sweep(g, 1e6 + 1000 * i, 0);
  chalk_snapshot *all = take(g, 1);
  uint32_t n;
  const chalk_entry *e = chalk_snapshot_entries(all, &n);
  for (uint32_t i = 0; i < n; i++) assert_true(e[i].metric == (uint32_t)mine || e[i].metric == (uint32_t)kept);
  chalk_snapshot_free(all);
  free(s), free(h);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* The definitions of a refused configuration leave the table of metrics to the next one. */
static void test_definitions_taken_back_leave_the_table_free(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g), *other = open_writer(g);
  int shared = define(w, "shared", CHALK_COUNT, 1, 0), bound = define(w, "bound", CHALK_COUNT, 1, 0), last = 0;
  assert_int_equal(define(other, "shared", CHALK_COUNT, 1, 0), shared);
  chalk_series *s = bind(w, bound, "x");
  char name[32];
  for (int i = 0; last >= 0; i++) {
    snprintf(name, sizeof name, "vain_%d", i);
    last = define(w, name, CHALK_HISTOGRAM, 1, 3);
  }
  assert_int_equal(info_of(g).metrics, METRICS);
  for (uint32_t i = 0; i < METRICS; i++) chalk_take_back(w, i);
  assert_int_equal(info_of(g).metrics, 2); /* one that another VM uses, and one that has a series */
  assert_true(define(other, "next", CHALK_GAUGE, 1, 0) >= 0);
  free(s);
  chalk_writer_close(w), chalk_writer_close(other);
  chalk_segment_close(g);
}

/* Numbers beyond those of metrics, and one that no metric has yet. */
static void test_numbers_that_are_no_metric_are_refused(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  const char *value = "x";
  size_t size = 1;
  char blob[16];
  double bounds[CHALK_LES];
  assert_int_equal(define(w, "h", CHALK_HISTOGRAM, 1, 5), 0);
  assert_int_equal(chalk_metric_top(g), 1);
  const uint32_t none[] = {1, METRICS, METRICS + 1, UINT32_MAX};
  for (int i = 0; i < 4; i++) {
    assert_int_equal(chalk_bind(w, none[i], &value, &size), none[i] < METRICS ? CHALK_EGONE : CHALK_EINVALID);
    assert_null(chalk_series_new(w, none[i], &value, &size));
    assert_int_equal(chalk_remove(w, none[i], &value, &size), 0);
    assert_int_equal(chalk_clear(w, none[i]), 0);
    chalk_undefine(w, none[i]);
    chalk_take_back(w, none[i]);
    assert_int_equal(chalk_metric_blob(g, none[i], blob, sizeof blob), 0);
    assert_int_equal(chalk_metric_les(g, none[i], bounds), 0);
    assert_int_equal(chalk_metric_shown(g, none[i]), 0);
    assert_int_equal(chalk_metric_folded(g, none[i]), 0);
  }
  assert_int_equal(chalk_metric_les(g, 0, bounds), 5);
  assert_true(chalk_metric_shown(g, 0));
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_definitions_out_of_range_are_refused(void **state) {
  (void)state;
  static const double rising[CHALK_LES + 1] = {1, 2}, falling[] = {2, 1}, equal[] = {1, 1}, endless[] = {1, INFINITY};
  const chalk_definition good = {
      .name = "h", .shape = "", .blob = "b", .name_size = 1, .blob_size = 1, .le = rising, .kind = 3, .les = 2};
  chalk_definition bad[10];
  for (int i = 0; i < 10; i++) bad[i] = good;
  bad[0].kind = 0, bad[1].kind = CHALK_HISTOGRAM + 1, bad[2].across = CHALK_MAX + 1, bad[3].tags = CHALK_TAGS + 1;
  bad[4].les = CHALK_LES + 1, bad[5].le = falling, bad[6].le = equal, bad[7].le = endless, bad[8].name_size = 0;
  bad[9].les = UINT32_MAX;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  char message[CHALK_MESSAGE];
  for (int i = 0; i < 10; i++) {
    message[0] = 0;
    assert_int_equal(chalk_define(w, &bad[i], message), CHALK_EINVALID);
    assert_non_null(strstr(message, "not a valid definition"));
  }
  assert_int_equal(chalk_metric_top(g), 0);
  assert_int_equal(chalk_define(w, &good, message), 0);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_definitions_taken_back_leave_the_table_free),
      cmocka_unit_test(test_a_slot_keeps_the_counts_of_its_last_owner),
      cmocka_unit_test(test_a_handle_outlives_its_writer),
      cmocka_unit_test(test_records_of_wrong_numbers_are_refused),
      cmocka_unit_test(test_forked_processes_count_exactly),
      cmocka_unit_test(test_a_dead_owners_slot_is_taken_over),
      cmocka_unit_test(test_a_zombie_is_dead),
      cmocka_unit_test(test_a_stopped_process_keeps_its_slot),
      cmocka_unit_test(test_a_child_leaves_other_metrics_of_its_numbers_alone),
      cmocka_unit_test(test_a_child_in_the_shared_slot_leaves_them_alone),
      cmocka_unit_test(test_the_shared_slot_is_exact),
      cmocka_unit_test(test_the_epoch_moves_from_another_process),
      cmocka_unit_test(test_a_hundred_kills_lose_no_count_of_the_living),
      cmocka_unit_test(test_numbers_that_are_no_metric_are_refused),
      cmocka_unit_test(test_definitions_out_of_range_are_refused),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
