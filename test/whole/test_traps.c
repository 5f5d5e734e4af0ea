/* What is lost when these fail: counts land in a series that they do not belong to, are sent twice or not at all, or a
   slot or a lock is lost for good, because a process was stopped, forked or ran another program at a bad moment. */

#include "common.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/personality.h>

#include "value/histogram.h"
#include "record/writer.h"

static long resident_pages(void) {
  long size, resident = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  assert_non_null(file);
  assert_int_equal(fscanf(file, "%ld %ld", &size, &resident), 2);
  fclose(file);
  return resident;
}

static void *shared_page(void) {
  void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_true(page != MAP_FAILED);
  return page;
}

static void await_stop(pid_t pid) {
  int status;
  assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
  assert_true(WIFSTOPPED(status));
}

/* Writers */

/* A VM that defines two metrics, records into each, and closes. */
static void live_once(chalk_segment *g, int i) {
  char tag[16];
  snprintf(tag, sizeof tag, "%d", i % 10);
  chalk_writer *w = open_writer(g);
  chalk_series *c = bind(w, define(w, "lives", CHALK_COUNT, 1, 0), tag);
  chalk_series *h = bind(w, define(w, "age", CHALK_HISTOGRAM, 1, 5), tag);
  assert_true(chalk_add(c, 1) >= CHALK_OK && chalk_record(h, i % 100) >= CHALK_OK);
  free(c), free(h);
  chalk_writer_close(w);
}

static void test_ten_thousand_writers_in_turn_take_no_more_memory(void **state) {
  (void)state;
  enum { WARM = 1000, ALL = 11000 };
  chalk_segment *g = chalk_segment_open("lives", NULL, NULL);
  long pages = 0;
  uint64_t memory = 0;
  for (int i = 0; i < ALL; i++) {
    if (i == WARM) pages = resident_pages(), memory = info_of(g).memory;
    live_once(g, i);
  }
  assert_int_equal(info_of(g).memory, memory);
  long grown = resident_pages() - pages;
#ifdef __SANITIZE_ADDRESS__
  grown = 0; /* the sanitizer keeps freed memory */
#endif
  if (grown > 128) fail_msg("%ld pages more after %d writers", grown, ALL - WARM);
  assert_int_equal(info_of(g).writers, 0);
  assert_int_equal(atomic_load(&g->head->slot_top), 2);
  assert_int_equal(total_of(g, 0), ALL);
  assert_int_equal(total_of(g, 1), ALL);
  chalk_segment_close(g);
}

static void test_more_writers_than_slots_at_once(void **state) {
  (void)state;
  enum { N = 300, EACH = 100 };
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w[N];
  chalk_series *c[N], *h[N], *u[N];
  int count = 0, latency = 0, gauge = 0, sharing = 0;
  for (int i = 0; i < N; i++) {
    w[i] = open_writer(g);
    sharing += chalk_writer_slot(w[i]) == 0;
    count = define(w[i], "requests", CHALK_COUNT, 1, 0), latency = define(w[i], "latency", CHALK_HISTOGRAM, 1, 5);
    gauge = define_across(w[i], "load", CHALK_SUM);
    c[i] = bind(w[i], count, "x"), h[i] = bind(w[i], latency, "x"), u[i] = bind(w[i], gauge, "x");
  }
  assert_int_equal(sharing, N - (WRITERS - 1));
  for (int k = 0; k < EACH; k++) {
    if (k == EACH / 2) drop(w[0], count, "x");
    for (int i = 0; i < N; i++) {
      assert_true(chalk_add(c[i], 1) >= CHALK_OK && chalk_record(h[i], 1 + k) >= CHALK_OK);
      assert_true(chalk_add(u[i], 1) >= CHALK_OK);
    }
  }
  assert_true(chalk_value(c[0]) == N * EACH / 2);
  assert_true(chalk_value(u[0]) == N * EACH);
  assert_int_equal(total_of(g, latency), N * EACH);
  for (int i = 0; i < N; i++) {
    free(c[i]), free(h[i]), free(u[i]);
    chalk_writer_close(w[i]);
  }
  assert_int_equal(info_of(g).writers, 0);
  assert_int_equal(total_of(g, count), N * EACH / 2);
  chalk_writer *next = open_writer(g);
  assert_true(chalk_writer_slot(next) > 0);
  chalk_writer_close(next);
  chalk_segment_close(g);
}

/* Forks */

typedef struct hammer {
  chalk_segment *g;
  shared_u32 stop;
  int64_t recorded;
} hammer;

/*
 * The address sanitizer's allocator does not survive a fork while another thread holds its locks. So with it no thread
 * allocates while another one forks.
 */
static pthread_mutex_t allocator = PTHREAD_MUTEX_INITIALIZER;

static void allocator_take(void) {
  if (SANITIZED) pthread_mutex_lock(&allocator);
}

static void allocator_give(void) {
  if (SANITIZED) pthread_mutex_unlock(&allocator);
}

static void bind_scratch(chalk_writer *w, int metric, const char *tag) {
  size_t size = strlen(tag);
  assert_true(chalk_bind(w, (uint32_t)metric, &tag, &size) >= CHALK_OK);
}

/* Takes each of the locks again and again. */
static void *run_hammer(void *argument) {
  hammer *t = argument;
  for (uint32_t i = 0; !atomic_load(&t->stop); i++) {
    char tag[16];
    snprintf(tag, sizeof tag, "h%u", i % 400);
    allocator_take();
    chalk_writer *w = open_writer(t->g);
    allocator_give();
    bind_scratch(w, define(w, "hammered", CHALK_COUNT, 1, 0), tag);
    chalk_add(chalk_scratch(w), 1), t->recorded++;
    int dropped = define(w, "dropped", CHALK_COUNT, 1, 0);
    if (i % 16 == 0) drop(w, dropped, tag);
    bind_scratch(w, dropped, tag);
    allocator_take();
    chalk_writer_close(w);
    allocator_give();
  }
  return NULL;
}

static void child_of_hammered(chalk_segment *g, chalk_series *kept, int i) {
  alarm(20);
  char tag[16];
  snprintf(tag, sizeof tag, "child %d", i);
  CHILD_CHECK(chalk_add(kept, 1) >= CHALK_OK);
  chalk_writer *w = chalk_writer_open(g, NULL);
  CHILD_CHECK(w);
  chalk_series *s = bind(w, define(w, "requests", CHALK_COUNT, 1, 0), tag);
  CHILD_CHECK(chalk_add(s, 1) >= CHALK_OK && chalk_value(s) == 1);
  chalk_snapshot *all = chalk_snapshot_take(g, 0, NULL);
  CHILD_CHECK(all);
  chalk_snapshot_free(all);
  chalk_segment *other = chalk_segment_open("of the child", NULL, NULL);
  CHILD_CHECK(other);
  CHILD_CHECK(chalk_writer_slot(w) != chalk_writer_slot(kept->writer));
  _exit(0);
}

static void test_forks_while_other_threads_hold_locks(void **state) {
  (void)state;
  enum { CHILDREN = SANITIZED ? 50 : 150, THREADS = 2 };
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0), hammered = define(w, "hammered", CHALK_COUNT, 1, 0);
  chalk_series *s = bind(w, metric, "kept");
  hammer threads[THREADS];
  pthread_t id[THREADS];
  for (int t = 0; t < THREADS; t++) {
    threads[t] = (hammer){.g = g};
    assert_int_equal(pthread_create(&id[t], NULL, run_hammer, &threads[t]), 0);
  }
  for (int i = 0; i < CHILDREN; i++) {
    allocator_take();
    pid_t pid = fork_child();
    if (pid == 0) child_of_hammered(g, s, i);
    allocator_give();
    chalk_add(s, 1);
    join_child(pid);
  }
  int64_t recorded = 0;
  for (int t = 0; t < THREADS; t++) {
    atomic_store(&threads[t].stop, 1);
    assert_int_equal(pthread_join(id[t], NULL), 0);
    recorded += threads[t].recorded;
  }
  assert_true(chalk_value(s) == 2 * CHILDREN);
  assert_int_equal(total_of(g, metric), 3 * CHILDREN);
  assert_int_equal(total_of(g, hammered), recorded);
  assert_true(atomic_load(&g->head->slot_top) <= 12);
  free(s);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* After exec the process lives, but as another program, which neither gives the slot back nor sees a drop. */
static void test_exec_ends_a_writer(void **state) {
  (void)state;
  if (personality(0xffffffff) & ADDR_NO_RANDOMIZE) skip(); /* without random addresses two programs look the same */
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int metric = define(w, "requests", CHALK_COUNT, 1, 0);
  chalk_series *s = bind(w, metric, "x");
  int running[2];
  char byte;
  assert_int_equal(pipe2(running, O_CLOEXEC), 0);
  pid_t pid = fork_child();
  if (pid == 0) {
    CHILD_CHECK(chalk_add(s, 5) >= CHALK_OK && chalk_writer_slot(w) == 2);
    execl("/bin/sleep", "sleep", "60", NULL);
    _exit(1);
  }
  close(running[1]);
  assert_int_equal(read(running[0], &byte, 1), 0); /* closed by the exec */
  close(running[0]);
  assert_int_equal(kill(pid, 0), 0);
  drop(w, metric, "x");
  chalk_writer_tick(w);
  sweep(g, 1000, 0);
  assert_int_equal(info_of(g).quarantined, 0);
  chalk_writer *next = open_writer(g);
  assert_int_equal(chalk_writer_slot(next), 2);
  chalk_add(s, 1);
  assert_int_equal(total_of(g, metric), 1);
  kill_child(pid);
  free(s);
  chalk_writer_close(next), chalk_writer_close(w);
  chalk_segment_close(g);
}

/* Stops */

enum { STRANGERS = 200 };

/* Creates series under all numbers that may be free, and checks that each holds only what was recorded into it. */
static void check_strangers(chalk_writer *w, int count, int latency, int gauge) {
  for (int i = 0; i < STRANGERS; i++) {
    char tag[16];
    snprintf(tag, sizeof tag, "s%d", i);
    chalk_series *c = bind(w, count, tag), *h = bind(w, latency, tag), *u = bind(w, gauge, tag);
    assert_true(chalk_value(c) <= 1 && chalk_value(h) <= 1 && chalk_value(u) == 0);
    if (chalk_value(c) == 0) assert_true(chalk_add(c, 1) >= CHALK_OK && chalk_record(h, 1) >= CHALK_OK);
    assert_true(chalk_value(c) == 1 && chalk_value(h) == 1);
    free(c), free(h), free(u);
  }
}

/* The child compares each handle with the epoch, stops, and stores after it goes on. */
static void record_stopped(chalk_series *c, chalk_series *h, chalk_series *u, chalk_series *v) {
  chalk_series *all[] = {c, h, u, v};
  chalk_add(c, 10), chalk_record(h, 10), chalk_set(u, 10), chalk_set(v, 10);
  for (int i = 0; i < 4; i++) CHILD_CHECK(*all[i]->shared + *all[i]->own == all[i]->epoch);
  raise(SIGSTOP);
  *c->cell += 7;
  for (int k = 0; k < 7; k++) CHILD_CHECK(histogram_add(h, 1000 + k) == CHALK_OK);
  u->cell[0] = 77, u->cell[1] = 1;
  v->cell[0] = 77, v->cell[1] = 1;
  raise(SIGSTOP);
  for (int i = 0; i < 4; i++) CHILD_CHECK(*all[i]->shared + *all[i]->own != all[i]->epoch);
  CHILD_CHECK(chalk_add(c, 1) >= CHALK_OK && chalk_record(h, 2000) >= CHALK_OK);
  raise(SIGSTOP);
  _exit(0);
}

static void test_a_stop_between_comparison_and_store_harms_no_other_series(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  chalk_writer *w = open_writer(g);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), latency = define(w, "latency", CHALK_HISTOGRAM, 1, 5);
  int last = define(w, "size", CHALK_GAUGE, 1, 0), sum = define_across(w, "load", CHALK_SUM);
  chalk_series *c = bind(w, count, "x"), *h = bind(w, latency, "x"), *u = bind(w, last, "x"), *v = bind(w, sum, "x");
  chalk_add(c, 100), chalk_record(h, 5);
  pid_t pid = fork_child();
  if (pid == 0) record_stopped(c, h, u, v);
  await_stop(pid);
  chalk_clear(w, (uint32_t)count), chalk_clear(w, (uint32_t)latency);
  chalk_clear(w, (uint32_t)last), chalk_clear(w, (uint32_t)sum);
  chalk_add(c, 1000), chalk_record(h, 1);
  for (int i = 0; i < 3; i++) sweep(g, 1000 * i, 0);
  assert_int_equal(info_of(g).quarantined, 4);
  check_strangers(w, count, latency, last);
  kill(pid, SIGCONT);
  await_stop(pid);
  for (int i = 3; i < 6; i++) sweep(g, 1000 * i, 0);
  assert_int_equal(info_of(g).quarantined, 4);
  check_strangers(w, count, latency, last);
  kill(pid, SIGCONT);
  await_stop(pid);
  for (int i = 6; i < 9; i++) sweep(g, 1000 * i, 0);
  assert_int_equal(info_of(g).quarantined, 0);
  check_strangers(w, count, latency, last);
  assert_true(chalk_value(c) == 1000 + 7 + 1);
  chalk_sketch *k = chalk_series_sketch(h);
  assert_int_equal(chalk_sketch_count(k), 1 + 7 + 1);
  assert_true(fabs(chalk_sketch_sum(k) - (1 + 7 * 1000 + 21 + 2000)) < 1e-6);
  chalk_sketch_free(k);
  assert_int_equal(total_of(g, latency), 9 + STRANGERS);
  kill(pid, SIGCONT);
  join_child(pid);
  free(c), free(h), free(u), free(v);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* Recorders are stopped again and again, while another process drops their series. */

enum { RECORDERS = 3, TAGS = 6, ROUNDS = SANITIZED ? 50 : 150 };

typedef struct run {
  chalk_segment *g;
  chalk_writer *w;
  int count, latency, stranger;
  shared_u64 *page; /* shared: [0] stop, then what each recorder recorded */
  chalk_cursor *cursor;
  int64_t counted, sketched, strangers;
} run;

static void recorder(run *r, int me) {
  chalk_series *c[TAGS], *h[TAGS];
  for (int i = 0; i < TAGS; i++) {
    char tag[4] = {'t', (char)('0' + i), 0};
    c[i] = bind(r->w, r->count, tag), h[i] = bind(r->w, r->latency, tag);
  }
  uint64_t n = 0;
  for (; !atomic_load(&r->page[0]); n++) {
    chalk_series *s = c[n % TAGS];
    double epoch = s->epoch;
    if (load_double((const shared_u64 *)s->shared) + *s->own == epoch) {
      *s->cell += 1;
    } else {
      CHILD_CHECK(chalk_add(s, 1) >= CHALK_OK);
    }
    CHILD_CHECK(chalk_record(h[n % TAGS], (double)(n % 1000)) >= CHALK_OK);
  }
  atomic_store(&r->page[1 + me], n);
  chalk_writer_tick(r->w);
  _exit(0);
}

static void dropper(run *r) {
  for (int i = 0; !atomic_load(&r->page[0]); i++) {
    char tag[4] = {'t', (char)('0' + i % TAGS), 0};
    drop(r->w, r->count, tag);
    drop(r->w, r->latency, tag);
    if (i % 50 == 0) chalk_clear(r->w, (uint32_t)r->count);
    pause_ms(1);
  }
  _exit(0);
}

/* Adds up what a push exporter would send. */
static void flush(run *r, double now) {
  chalk_snapshot *s = take(r->g, 1);
  uint32_t n;
  const chalk_entry *e = chalk_snapshot_entries(s, &n);
  for (uint32_t i = 0; i < n; i++) {
    int64_t delta = chalk_cursor_delta(r->cursor, s, i);
    assert_true(delta >= 0 && delta < 1ll << 40);
    if (e[i].metric == (uint32_t)r->count) r->counted += delta;
    if (e[i].metric == (uint32_t)r->stranger) r->strangers += delta;
    if (e[i].metric != (uint32_t)r->latency) continue;
    chalk_sketch *k = chalk_cursor_delta_sketch(r->cursor, s, i);
    r->sketched += (int64_t)chalk_sketch_count(k);
    chalk_sketch_free(k);
  }
  assert_int_equal(chalk_cursor_commit(r->cursor, s, 0, n, now), CHALK_OK);
  chalk_snapshot_free(s);
  chalk_writer_tick(r->w);
  sweep(r->g, now, 0);
}

/*
 * A process that is stopped while it holds a lock stops all that wait for the lock, also this test. So a timer lets it
 * go on after a while.
 */
static volatile sig_atomic_t stopped;

static void let_go_on(int signal) {
  (void)signal;
  kill((pid_t)stopped, SIGCONT);
}

static timer_t new_timer(void) {
  struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
  timer_t timer;
  signal(SIGUSR1, let_go_on);
  assert_int_equal(timer_create(CLOCK_MONOTONIC, &e, &timer), 0);
  return timer;
}

static void one_round(run *r, const pid_t *pids, timer_t timer, int round) {
  pid_t pid = pids[random_bits() % RECORDERS];
  stopped = pid;
  struct timespec longest = {.tv_nsec = 200000000};
  timer_settime(timer, 0, &(struct itimerspec){longest, longest}, NULL);
  kill(pid, SIGSTOP);
  for (int i = 0; i < 10; i++) {
    char tag[24];
    snprintf(tag, sizeof tag, "%d/%d", round, i);
    chalk_series *s = bind(r->w, r->stranger, tag);
    assert_true(chalk_value(s) == 0);
    assert_true(chalk_add(s, 1) >= CHALK_OK && chalk_value(s) == 1);
    free(s);
  }
  flush(r, chalk_now());
  if (round % 5 == 0) chalk_clear(r->w, (uint32_t)r->stranger);
  pause_ms(2);
  flush(r, chalk_now());
  kill(pid, SIGCONT);
}

static void test_stops_beside_drops_are_exact(void **state) {
  (void)state;
  run r = {.g = open_segment(NULL), .page = shared_page()};
  r.w = open_writer(r.g);
  r.count = define(r.w, "requests", CHALK_COUNT, 1, 0), r.latency = define(r.w, "latency", CHALK_HISTOGRAM, 1, 5);
  r.stranger = define(r.w, "stranger", CHALK_COUNT, 1, 0);
  r.cursor = chalk_cursor_open(r.g, "one", 1, chalk_now(), NULL);
  pid_t pids[RECORDERS + 1];
  for (int i = 0; i <= RECORDERS; i++) {
    pids[i] = fork_child();
    if (pids[i] == 0 && i < RECORDERS) recorder(&r, i);
    if (pids[i] == 0) dropper(&r);
  }
  timer_t timer = new_timer();
  for (int i = 0; i < ROUNDS; i++) one_round(&r, pids, timer, i);
  timer_delete(timer);
  atomic_store(&r.page[0], 1);
  int64_t recorded = 0;
  for (int i = 0; i <= RECORDERS; i++) join_child(pids[i]);
  for (int i = 0; i < RECORDERS; i++) recorded += (int64_t)atomic_load(&r.page[1 + i]);
  for (int i = 0; i < 4; i++) flush(&r, chalk_now());
  assert_true(recorded > 1000);
  assert_int_equal(info_of(r.g).quarantined, 0);
  assert_int_equal(r.strangers, ROUNDS * 10);
  assert_int_equal(r.counted, recorded);
  assert_int_equal(r.sketched, recorded);
  munmap((void *)r.page, 4096);
  chalk_cursor_close(r.cursor);
  chalk_writer_close(r.w);
  chalk_segment_close(r.g);
}

/* A series is dropped during a flush that sends it. What is recorded late is sent once, with its successor. */
static void test_a_drop_during_a_flush_sends_nothing_twice(void **state) {
  (void)state;
  run r = {.g = open_segment(NULL)};
  r.w = open_writer(r.g);
  r.count = define(r.w, "requests", CHALK_COUNT, 1, 0), r.latency = define(r.w, "latency", CHALK_HISTOGRAM, 1, 5);
  r.cursor = chalk_cursor_open(r.g, "one", 1, 0, NULL);
  chalk_series *h = bind(r.w, r.latency, "x");
  chalk_record(h, 1), chalk_record(h, 2);
  chalk_snapshot *s = take(r.g, 1);
  drop(r.w, r.latency, "x");
  histogram_add(h, 3); /* compared before the drop */
  chalk_sketch *k = chalk_cursor_delta_sketch(r.cursor, s, 0);
  assert_int_equal(chalk_sketch_count(k), 2);
  chalk_sketch_free(k);
  assert_int_equal(chalk_cursor_commit(r.cursor, s, 0, 1, 0), CHALK_OK);
  chalk_snapshot_free(s);
  for (int i = 1; i < 4; i++) flush(&r, i);
  assert_int_equal(info_of(r.g).quarantined, 0);
  assert_int_equal(r.sketched, 1);
  assert_int_equal(total_of(r.g, r.latency), 1);
  free(h);
  chalk_cursor_close(r.cursor);
  chalk_writer_close(r.w);
  chalk_segment_close(r.g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ten_thousand_writers_in_turn_take_no_more_memory),
      cmocka_unit_test(test_more_writers_than_slots_at_once),
      cmocka_unit_test(test_forks_while_other_threads_hold_locks),
      cmocka_unit_test(test_exec_ends_a_writer),
      cmocka_unit_test(test_a_stop_between_comparison_and_store_harms_no_other_series),
      cmocka_unit_test(test_stops_beside_drops_are_exact),
      cmocka_unit_test(test_a_drop_during_a_flush_sends_nothing_twice),
  };
  alarm(4 * DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
