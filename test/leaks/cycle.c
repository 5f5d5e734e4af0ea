/*
 * What is lost when it fails: memory, each time a host opens and closes its VM and its segment. It does all that a C
 * host does from its start to its end, a few times. Run under valgrind (make valgrind), it has to free all memory that
 * nothing points to any more.
 */
#include "common.h"
#include "exposition.h"
#include "host.h"

enum { CYCLES = 3, RECORDS = 500, TAGS = 20 };

static void record(chalk_writer *w, const int *metrics) {
  for (int i = 0; i < RECORDS; i++) {
    char tag[16];
    snprintf(tag, sizeof tag, "%d", i % TAGS);
    chalk_series *c = bind(w, metrics[0], tag), *g = bind(w, metrics[1], tag), *h = bind(w, metrics[2], tag);
    assert_true(chalk_add(c, 1) >= CHALK_OK && chalk_set(g, i) >= CHALK_OK);
    assert_true(chalk_record(h, exp(20 * random_unit() - 10)) >= CHALK_OK);
    free(c), free(g), free(h);
    if (i % 100 == 0) drop(w, metrics[i / 100 % 3], tag);
  }
}

static void flush(chalk_segment *g, double now) {
  assert_int_equal(chalk_hold(g, chalk_generation(g, 0)), 1);
  chalk_cursor *c = chalk_cursor_open(g, "receiver", 1, now, NULL);
  chalk_snapshot *s = take(g, 1);
  uint32_t n;
  const chalk_entry *e = chalk_snapshot_entries(s, &n);
  for (uint32_t i = 0; i < n; i++) {
    if (g->metrics[e[i].metric].kind == CHALK_HISTOGRAM) chalk_sketch_free(chalk_cursor_delta_sketch(c, s, i));
  }
  assert_int_equal(chalk_cursor_commit(c, s, 0, n, now), CHALK_OK);
  sweep_all(s, now, 1);
  chalk_snapshot_free(s);
  chalk_cursor_close(c);
  chalk_release(g);
  size_t size;
  free(exposition_render(g, &size));
}

static int flush_once(void *state, int arguments, int results, int handler) {
  (void)arguments, (void)results, (void)handler;
  chalk_thread_ready(chalk_thread_self(), NULL);
  flush(state, 3);
  return 0;
}
static void flush_on_a_thread(chalk_segment *g) {
  char message[CHALK_MESSAGE] = "";
  chalk_thread *t = host_start(g, flush_once, g, chalk_generation(g, 0), message);
  if (!t) fail_msg("%s", message);
  assert_int_equal(chalk_thread_wait(t, DEADLINE), 1);
  chalk_thread_free(t);
}

static void cycle(const char *name) {
  char message[CHALK_MESSAGE] = "";
  chalk_options o = {.max_buckets = 32, .max_series = 50};
  chalk_segment *g = chalk_segment_open(name, &o, message);
  if (!g) fail_msg("%s", message);
  chalk_writer *w = open_writer(g);
  int metrics[] = {define(w, "requests", CHALK_COUNT, 1, 0), define(w, "size", CHALK_GAUGE, 1, 0),
                   define(w, "latency", CHALK_HISTOGRAM, 1, 5)};
  record(w, metrics);
  flush(g, 1);
  record(w, metrics);
  flush(g, 10);
  flush_on_a_thread(g);
  assert_true(chalk_listen(name ? name : "private", "127.0.0.1:0", message) >= 0);
  chalk_unlisten(name ? name : "private", "127.0.0.1:0");
  chalk_undefine(w, (uint32_t)metrics[0]);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

static void test_cycles_leave_nothing(void **state) {
  (void)state;
  for (int i = 0; i < CYCLES; i++) cycle(NULL), cycle("named");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_cycles_leave_nothing)};
  alarm(4 * DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
