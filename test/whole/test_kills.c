/*
 * What is lost when these fail: counts of the living, whenever a worker is killed.
 *
 * A thousand processes are killed at random moments, one after the other, while they record, create series, grow and
 * collapse sketches, drop, sweep, and send with a cursor. What the others counted stays exact, what is exposed stays
 * readable, and a receiver gets what was counted, except for the batches that were under way at a death.
 */
#include <sys/mman.h>

#include "common.h"
#include "die/consistent.h"
#include "exposition.h"

enum { KILLS = SANITIZED ? 200 : 1000, VICTIMS = 4, TAGS = 60 };

static int count, latency, load, mine, my_latency;
static const chalk_segment *looked_at;

/* What the processes tell each other outside of the segment. */
typedef struct notes {
  shared_u64 sent;               /* what the receiver got of `mine` */
  shared_u64 under_way[VICTIMS]; /* what each victim has sent of it and not committed */
} notes;

/*
 * Reads all events, which must be of records that were made. Now and then switches the tap off, or wants larger rings.
 */
static void watch(chalk_segment *g) {
  chalk_tap *t = chalk_tap_open(g, 1, NULL);
  CHILD_CHECK(t != NULL);
  for (uint32_t n; (n = chalk_tap_read(t)) > 0;) {
    for (uint32_t i = 0; i < n; i++) {
      const chalk_event *e = &chalk_tap_events(t)[i];
      bool is_count = e->metric == (uint32_t)count || e->metric == (uint32_t)mine;
      CHILD_CHECK((e->verb == CHALK_EVENT_SET) == (e->metric == (uint32_t)load));
      CHILD_CHECK((e->verb == CHALK_EVENT_INC) == is_count && (!is_count || e->value == 1));
    }
  }
  chalk_tap_close(t);
  uint32_t how = (uint32_t)(random_bits() % 16), kinds = KIND_MASK;
  if (how < 4) chalk_tap_switch(g, how ? kinds : 0, CHALK_TAP_LEAST << how, 0);
}

/* A flush in the role of the flusher. The receiver adds up what it gets. */
static void flush(chalk_segment *g, notes *n, int victim, double now) {
  if (chalk_hold(g, chalk_generation(g, 0)) != 1) return;
  watch(g);
  chalk_cursor *c = chalk_cursor_open(g, "receiver", 1, now, NULL);
  chalk_snapshot *s = c ? chalk_snapshot_take(g, 1, NULL) : NULL;
  uint32_t entries = 0;
  const chalk_entry *e = s ? chalk_snapshot_entries(s, &entries) : NULL;
  for (uint32_t i = 0; i < entries; i++) {
    uint64_t delta = e[i].metric == (uint32_t)mine ? (uint64_t)chalk_cursor_delta(c, s, i) : 0;
    atomic_store(&n->under_way[victim], delta);
    atomic_fetch_add(&n->sent, delta);
    chalk_cursor_commit(c, s, i, i + 1, now);
    atomic_store(&n->under_way[victim], 0);
  }
  if (s) sweep_all(s, now, 0);
  chalk_snapshot_free(s);
  if (c) chalk_cursor_close(c);
  chalk_heartbeat(g);
  chalk_release(g);
}

static chalk_series *bind_own(chalk_writer *w, int metric, const char *tag) {
  size_t size = strlen(tag);
  chalk_series *s = chalk_series_new(w, (uint32_t)metric, &tag, &size);
  CHILD_CHECK(s != NULL);
  return s;
}

static void be_victim(chalk_segment *g, chalk_writer *w, notes *n, int victim, int round) {
  for (int i = 0; i < round; i++) random_bits();
  for (uint64_t i = 0;; i++) {
    char tag[32];
    snprintf(tag, sizeof tag, "v%u", (unsigned)(random_bits() % TAGS));
    chalk_series *c = bind_own(w, count, tag), *h = bind_own(w, latency, tag), *l = bind_own(w, load, tag);
    for (int k = 0; k < 30; k++) {
      chalk_add(c, 1);
      double v = exp(20 * random_unit() - 10);
      chalk_record(h, k % 5 ? v : -v);
      chalk_set(l, v);
    }
    free(c), free(h), free(l);
    if (i % 3 == 0) drop(w, count, tag), drop(w, latency, tag), drop(w, load, tag);
    if (i % 5 == 0) flush(g, n, victim, 1000);
    if (i % 200 == 199) chalk_clear(w, (uint32_t)count);
  }
}

static pid_t start(chalk_segment *g, chalk_writer *w, notes *n, int round) {
  pid_t pid = fork_child();
  if (pid == 0) be_victim(g, w, n, round % VICTIMS, round);
  return pid;
}

/* Kills a victim. One whose checks failed has ended before, with an exit code. */
static void kill_victim(pid_t pid) {
  int status;
  kill(pid, SIGKILL);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void check_text(chalk_segment *g) {
  size_t size;
  char *text = exposition_render(g, &size);
  assert_non_null(text);
  const char *bad = exposition_check(text, size);
  if (bad) fail_msg("not a line of an exposition: %s", bad);
  free(text);
}

/* Checks the output with Prometheus's own tool, if it is installed. Its exit code 3 is advice on names and help. */
static void check_with_promtool(chalk_segment *g) {
  if (system("command -v promtool >/dev/null 2>&1") != 0) return;
  size_t size;
  char *text = exposition_render(g, &size);
  FILE *p = popen("promtool check metrics >/dev/null 2>&1", "w");
  assert_non_null(p);
  assert_int_equal(fwrite(text, 1, size, p), size);
  int status = pclose(p);
  assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3));
  free(text);
}

/*
 * All series can be reclaimed, and the segment is whole. Late records create successors, so series are cleared twice.
 */
static void check_end(chalk_segment *g, chalk_writer *w) {
  assert_int_equal(chalk_hold(g, chalk_generation(g, 0)), 1);
  chalk_tap_switch(g, 0, 0, 0);
  for (int i = 0; i < 6; i++) {
    for (uint32_t m = 0; i % 3 == 0 && m < chalk_metric_top(g); m++) chalk_clear(w, m);
    chalk_writer_tick(w);
    sweep(g, 1e5 + 1000 * i, 0);
  }
  chalk_release(g);
  census c;
  const char *wrong = consistent(g, &c);
  if (wrong) fail_msg("%s", wrong);
  assert_int_equal(info_of(g).series, 0);
  assert_int_equal(info_of(g).quarantined, 0);
  print_message("%d kills: %llu bytes of the heap lost\n", KILLS, (unsigned long long)c.lost);
}

/* The survivor records into two series of `mine` and one of `my_latency`, for up to 25 ms. */
static void record_a_while(chalk_writer *w, chalk_series *s, chalk_series *h, int64_t *recorded) {
  double end = chalk_now() + 0.001 + random_unit() * 0.024;
  while (chalk_now() < end) {
    char tag[16];
    snprintf(tag, sizeof tag, "m%d", (int)(*recorded % 100));
    chalk_series *other = bind(w, mine, tag);
    assert_true(chalk_add(other, 1) >= CHALK_OK);
    assert_true(chalk_add(s, 1) >= CHALK_OK);
    assert_true(chalk_record(h, (double)(*recorded % 777) - 5) >= CHALK_OK);
    free(other);
    if (++*recorded % 16 == 0) pause_ms(1);
  }
  chalk_writer_tick(w);
}

static void check_sketch(chalk_series *h, int64_t recorded) {
  chalk_sketch *k = chalk_series_sketch(h);
  assert_int_equal(chalk_sketch_count(k), recorded);
  chalk_sketch_free(k);
}

static void test_a_thousand_kills_lose_no_count_of_the_living(void **state) {
  (void)state;
  chalk_options o = {.max_buckets = 16, .memory_limit = 64 << 20};
  chalk_segment *g = open_segment(&o);
  looked_at = g;
  chalk_writer *w = open_writer(g);
  count = define(w, "count_total", CHALK_COUNT, 1, 0), latency = define(w, "latency", CHALK_HISTOGRAM, 1, 5);
  mine = define(w, "mine_total", CHALK_COUNT, 1, 0), my_latency = define(w, "my_latency", CHALK_HISTOGRAM, 1, 5);
  load = define_across(w, "load", CHALK_MAX);
  notes *n = mmap(NULL, sizeof *n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_true(n != MAP_FAILED);
  pid_t victims[VICTIMS];
  for (int i = 0; i < VICTIMS; i++) victims[i] = start(g, w, n, i);
  chalk_series *s = bind(w, mine, "kept"), *h = bind(w, my_latency, "kept");
  int64_t recorded = 0, repeated = 0;
  for (int i = 0; i < KILLS; i++) {
    record_a_while(w, s, h, &recorded);
    kill_victim(victims[i % VICTIMS]);
    repeated += (int64_t)atomic_exchange(&n->under_way[i % VICTIMS], 0);
    victims[i % VICTIMS] = start(g, w, n, i);
    assert_int_equal(total_of(g, mine), 2 * recorded);
    assert_int_equal(total_of(g, my_latency), recorded);
    assert_true(info_of(g).writers <= VICTIMS + 2);
    if (i % 10 == 0) check_text(g);
    if (i % 250 == 0) check_with_promtool(g);
  }
  for (int i = 0; i < VICTIMS; i++) {
    kill_victim(victims[i]);
    repeated += (int64_t)atomic_load(&n->under_way[i]);
  }
  flush(g, n, 0, 1000);
  int64_t sent = (int64_t)atomic_load(&n->sent);
  assert_true(sent >= 2 * recorded && sent <= 2 * recorded + repeated);
  check_sketch(h, recorded);
  check_text(g);
  check_end(g, w);
  free(s), free(h);
  munmap(n, sizeof *n);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* The test hangs: says which thread has which lock, and what the processes do. */
static void on_alarm(int signal) {
  (void)signal;
  const segment_lock *named[] = {&looked_at->head->registry, &looked_at->head->ids_lock, &looked_at->head->heap_lock,
                                 &looked_at->head->acting};
  for (uint32_t i = 0; i < 4 + STRIPES; i++) {
    const segment_lock *l = i < 4 ? named[i] : &looked_at->stripes[i - 4].lock;
    int word = l->mutex.__data.__lock;
    if (word) fprintf(stderr, "lock %u: word %x, thread %d\n", i, (unsigned)word, word & 0x3fffffff);
  }
  char command[64];
  snprintf(command, sizeof command, "ps -o pid,stat,time,wchan:24 --pid %d --ppid %d >&2", getpid(), getpid());
  if (system(command) != 0) fprintf(stderr, "no ps\n");
  abort();
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_thousand_kills_lose_no_count_of_the_living)};
  signal(SIGALRM, on_alarm);
  alarm(4 * DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
