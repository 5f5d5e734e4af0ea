/*
 * What is lost when these fail: a process whose threads record, create, drop, flush and read at the same time miscounts
 * or crashes. Built with the thread sanitizer (make tsan), they also report where two threads access memory without
 * order.
 *
 * The recorders say what they recorded. The totals of metrics that no thread drops must equal that. For metrics whose
 * series come and go, the sum of the differences that a cursor was given must equal it, to the last unit.
 */

#include "common.h"
#include "host.h"
#include "read/snapshot.h"

enum { STABLE, STABLE_TIMES, CHURNED, CHURNED_TIMES, IN_FLIGHT, LOAD, KINDS };
enum { RECORDERS = 2, CREATORS = 2, DROPPERS = 1, READERS = 2, FLUSHERS = 2, TAGS = 6, MOST_THREADS = 16 };
enum { RECORDS = 6000, CREATIONS = 1500, DROPS = 400, DEFINITIONS = 300 };

/* Rings that are large enough for all events of a time in which a slow machine runs no reader. */
enum { EVENTS = 1 << 18 };

typedef struct stage {
  chalk_segment *g;
  int metrics[KINDS];
  _Atomic int64_t recorded[KINDS], received[KINDS], seen[KINDS];
  _Atomic int working; /* threads that record or drop */
  _Atomic uint32_t rounds;
  bool is_watched; /* the event tap is on all the time */
} stage;

typedef struct actor {
  stage *stage;
  uint64_t seed;
  void (*act)(struct actor *);
  pthread_t id;
  int64_t recorded[KINDS];
} actor;

/* cmocka cannot end a test from another thread, so this ends the program. */
#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      fprintf(stderr, "%s:%d: in a thread: %s\n", __FILE__, __LINE__, #condition); \
      _exit(1);                                                                    \
    }                                                                              \
  } while (0)

/* A random number below `sides`, by an xorshift generator of the thread. */
static uint32_t roll(actor *a, uint32_t sides) {
  a->seed ^= a->seed << 13, a->seed ^= a->seed >> 7, a->seed ^= a->seed << 17;
  return (uint32_t)((a->seed >> 11) % sides);
}

static void define_all(stage *t, chalk_writer *w) {
  t->metrics[STABLE] = define(w, "stable", CHALK_COUNT, 1, 0);
  t->metrics[STABLE_TIMES] = define(w, "stable_times", CHALK_HISTOGRAM, 1, 5);
  t->metrics[CHURNED] = define(w, "churned", CHALK_COUNT, 1, 0);
  t->metrics[CHURNED_TIMES] = define(w, "churned_times", CHALK_HISTOGRAM, 1, 5);
  t->metrics[IN_FLIGHT] = define(w, "in_flight", CHALK_GAUGE, 1, 0);
  t->metrics[LOAD] = define_across(w, "load", CHALK_SUM);
}

/* Opens a writer and defines the metrics again, as another VM does with the same schema. Their numbers are the same. */
static chalk_writer *join_in(stage *t) {
  chalk_writer *w = open_writer(t->g);
  stage again = {.g = t->g};
  define_all(&again, w);
  CHECK(memcmp(again.metrics, t->metrics, sizeof t->metrics) == 0);
  return w;
}

/* A record into a count without a call, as the accessors do it. */
static void inc(chalk_series *s) {
  double epoch = s->epoch;
  shared_u64 *cell = (shared_u64 *)s->cell;
  if (load_double((const shared_u64 *)s->shared) + *s->own == epoch) {
    store_double(cell, load_double(cell) + 1);
  } else {
    CHECK(chalk_add(s, 1) >= CHALK_OK);
  }
}

static void record(actor *a, chalk_series *const *s, const int *kinds, int n) {
  for (int i = 0; i < n; i++) {
    int kind = kinds[i];
    a->recorded[kind]++;
    if (kind == STABLE || kind == CHURNED) {
      inc(s[i]);
    } else if (kind == IN_FLIGHT || kind == LOAD) {
      CHECK(chalk_add(s[i], 1) >= CHALK_OK);
    } else {
      CHECK(chalk_record(s[i], exp(20.0 * roll(a, 1000) / 1000 - 10)) >= CHALK_OK);
    }
  }
}

static chalk_series *bind_numbered(stage *t, chalk_writer *w, int kind, uint32_t number) {
  char tag[16];
  snprintf(tag, sizeof tag, "%u", number);
  return bind(w, t->metrics[kind], tag);
}

/* Keeps its handles until it ends. */
static void act_recorder(actor *a) {
  stage *t = a->stage;
  chalk_writer *w = join_in(t);
  chalk_series *s[KINDS + 2 * TAGS];
  int kinds[KINDS + 2 * TAGS], n = 0;
  for (int kind = 0; kind < KINDS; kind++) {
    int tags = kind == CHURNED || kind == CHURNED_TIMES ? TAGS : 1;
    for (int i = 0; i < tags; i++) kinds[n] = kind, s[n++] = bind_numbered(t, w, kind, (uint32_t)i);
  }
  for (int i = 0; i < RECORDS; i++) {
    record(a, s, kinds, n);
    if (roll(a, 50) == 0) chalk_writer_tick(w);
  }
  for (int i = 0; i < n; i++) free(s[i]);
  chalk_writer_close(w);
}

/* Uses each handle for one record, creates more series than the limit allows, and takes a new writer now and then. */
static void act_creator(actor *a) {
  stage *t = a->stage;
  chalk_writer *w = join_in(t);
  for (int i = 0; i < CREATIONS; i++) {
    int kind = roll(a, 2) ? CHURNED : CHURNED_TIMES;
    chalk_series *s = bind_numbered(t, w, kind, roll(a, 300));
    record(a, &s, &kind, 1);
    free(s);
    if (i % 100 != 99) continue;
    chalk_writer_close(w);
    w = join_in(t);
  }
  chalk_writer_close(w);
}

static void act_dropper(actor *a) {
  stage *t = a->stage;
  chalk_writer *w = join_in(t);
  for (int i = 0; i < DROPS; i++) {
    int metric = t->metrics[roll(a, 2) ? CHURNED : CHURNED_TIMES];
    char tag[16];
    snprintf(tag, sizeof tag, "%u", roll(a, TAGS));
    if (roll(a, 20) == 0)
      chalk_clear(w, (uint32_t)metric);
    else
      drop(w, metric, tag);
    pause_ms(1);
  }
  chalk_writer_close(w);
}

/* Reloads: each defines one name differently, and leaves once no writer uses it. */
static void act_definer(actor *a) {
  stage *t = a->stage;
  for (int i = 0; i < DEFINITIONS; i++) {
    char shape[32];
    int n = snprintf(shape, sizeof shape, "the shape of %u", roll(a, 3));
    chalk_definition d = {.name = "reloaded", .shape = shape, .blob = shape, .kind = roll(a, 2) ? 1 : 3, .tags = 1};
    d.name_size = 8, d.shape_size = d.blob_size = (size_t)n;
    chalk_writer *w = join_in(t);
    int metric = chalk_define(w, &d, NULL);
    CHECK(metric >= 0);
    chalk_series *s = bind_numbered(t, w, STABLE, 0), *r = bind(w, metric, "x");
    CHECK((d.kind == CHALK_COUNT ? chalk_add(r, 1) : chalk_record(r, 1)) >= CHALK_OK);
    free(r), free(s);
    if (roll(a, 10) == 0) chalk_generation(t->g, 1);
    chalk_writer_close(w);
  }
}

/* Readers and flushers end after the last thread that records. */

static void render_all(chalk_snapshot *s) {
  static const char *const labels[] = {"tag"};
  static const char *const le[] = {"1.0"};
  static const uint32_t indexes[] = {2};
  char out[16384];
  uint32_t n, at = 0;
  const chalk_entry *e = chalk_snapshot_entries(s, &n);
  while (at < n) {
    uint32_t last = at;
    while (last < n && e[last].metric == e[at].metric) last++;
    chalk_family f = {.sample = "x", .bucket = "x_bucket", .sum = "x_sum", .count = "x_count", .constant = ""};
    f.labels = labels, f.n_labels = 1;
    if (s->segment->metrics[e[at].metric].les > 0) f.le = le, f.le_index = indexes, f.n_le = 1;
    while (at < last) {
      size_t size = chalk_snapshot_render(s, &f, &at, last, out, sizeof out);
      CHECK(size <= sizeof out && (size > 0 || at == last));
    }
  }
}

static void act_reader(actor *a) {
  stage *t = a->stage;
  chalk_writer *w = join_in(t);
  chalk_series *s = bind_numbered(t, w, STABLE, 0), *h = bind_numbered(t, w, CHURNED_TIMES, 1);
  double before = 0;
  do {
    chalk_snapshot *all = take(t->g, 0);
    render_all(all);
    chalk_snapshot_free(all);
    double now = chalk_value(s);
    CHECK(now >= before);
    before = now;
    chalk_sketch *k = chalk_series_sketch(h);
    CHECK(k);
    CHECK(isnan(chalk_sketch_quantile(k, 0.5)) || chalk_sketch_quantile(k, 0.5) > 0);
    chalk_sketch_free(k);
    CHECK(info_of(t->g).memory > 0);
    chalk_writer_tick(w);
  } while (atomic_load(&t->working) > 0);
  free(s), free(h);
  chalk_writer_close(w);
}

static int kind_at(const stage *t, uint32_t metric) {
  int kind = 0;
  while (kind < KINDS && t->metrics[kind] != (int)metric) kind++;
  return kind;
}

/* Reads all events and adds them to `seen`, as the flush adds to `received`. The rings get larger meanwhile. */
static void watch(stage *t) {
  chalk_tap *tap = chalk_tap_open(t->g, 1, NULL);
  CHECK(tap);
  chalk_tap_switch(t->g, KIND_MASK, EVENTS << (atomic_load(&t->rounds) > 3), 0);
  for (uint32_t n; (n = chalk_tap_read(tap)) > 0;) {
    for (uint32_t i = 0; i < n; i++) {
      const chalk_event *e = &chalk_tap_events(tap)[i];
      int kind = kind_at(t, e->metric);
      CHECK(kind < KINDS && (e->verb == CHALK_EVENT_INC) == (kind == STABLE || kind == CHURNED));
      CHECK(t->g->series[e->series].metric == e->metric);
      atomic_fetch_add(&t->seen[kind], e->verb == CHALK_EVENT_INC ? (int64_t)e->value : 1);
    }
  }
  CHECK(chalk_tap_dropped(tap) == 0);
  chalk_tap_close(tap);
}

/*
 * A flush: adds the differences since the last one to `received`, then sweeps. Its clock counts flushes, because with a
 * real one a slow machine would drop idle series that the cursor has not sent.
 */
static void flush(stage *t) {
  double now = 1 + atomic_fetch_add(&t->rounds, 1);
  chalk_cursor *c = chalk_cursor_open(t->g, "the only one", 1, now, NULL);
  CHECK(c);
  uint64_t ticket = chalk_flush_request(t->g);
  if (t->is_watched) watch(t);
  chalk_snapshot *s = take(t->g, 1);
  uint32_t n;
  const chalk_entry *e = chalk_snapshot_entries(s, &n);
  for (uint32_t i = 0; i < n; i++) {
    int kind = kind_at(t, e[i].metric);
    if (kind == STABLE || kind == CHURNED) atomic_fetch_add(&t->received[kind], chalk_cursor_delta(c, s, i));
    if (kind != STABLE_TIMES && kind != CHURNED_TIMES) continue;
    chalk_sketch *k = chalk_cursor_delta_sketch(c, s, i);
    CHECK(k);
    atomic_fetch_add(&t->received[kind], (int64_t)chalk_sketch_count(k));
    chalk_sketch_free(k);
  }
  CHECK(chalk_cursor_commit(c, s, 0, n, now) == CHALK_OK);
  chalk_sweep(s, now, (double[KIND_MOST]){[CHALK_HISTOGRAM - CHALK_COUNT] = 5});
  chalk_snapshot_free(s);
  chalk_cursor_close(c);
  chalk_heartbeat(t->g);
  chalk_flush_done(t->g, ticket);
  CHECK(chalk_flush_wait(t->g, ticket, 0) == CHALK_OK);
}

/* Stands in for lua_pcall on a flush thread: takes the role, flushes a few times, and gives the role back. */
static int flush_loop(void *state, int arguments, int results, int handler) {
  stage *t = state;
  (void)arguments, (void)results, (void)handler;
  chalk_thread *self = chalk_thread_self();
  chalk_thread_ready(self, NULL);
  bool last = false;
  while (!last) {
    last = chalk_thread_stopping(self);
    if (chalk_hold(t->g, chalk_generation(t->g, 0))) {
      for (int i = 0; i < (last ? 10 : 5); i++) flush(t);
      chalk_release(t->g);
    }
    chalk_thread_drain(self);
    pause_ms(1);
  }
  return 0;
}

static void *run(void *argument) {
  actor *a = argument;
  stage *t = a->stage;
  a->act(a);
  for (int kind = 0; kind < KINDS; kind++) atomic_fetch_add(&t->recorded[kind], a->recorded[kind]);
  if (a->act != act_reader) atomic_fetch_sub(&t->working, 1);
  return NULL;
}

typedef struct cast {
  void (*act)(actor *);
  int n;
} cast;

static void play(stage *t, const cast *roles) {
  static actor actors[MOST_THREADS];
  int n = 0;
  memset(actors, 0, sizeof actors);
  for (; roles->act; roles++) {
    for (int i = 0; i < roles->n; i++) actors[n++] = (actor){.stage = t, .act = roles->act};
    if (roles->act != act_reader) atomic_fetch_add(&t->working, roles->n);
  }
  for (int i = 0; i < n; i++) {
    actors[i].seed = random_bits();
    assert_int_equal(pthread_create(&actors[i].id, NULL, run, &actors[i]), 0);
  }
  for (int i = 0; i < n; i++) pthread_join(actors[i].id, NULL);
}

/* Plays the roles beside threads that flush. At the end the flush threads flush and sweep once more. */
static void play_flushed(stage *t, const cast *roles) {
  char message[CHALK_MESSAGE] = "";
  chalk_thread *flushers[FLUSHERS];
  for (int i = 0; i < FLUSHERS; i++) {
    flushers[i] = host_start(t, flush_loop, NULL, 0, message);
    if (!flushers[i]) fail_msg("%s", message);
    assert_int_equal(chalk_thread_wait_ready(flushers[i], DEADLINE, message), CHALK_OK);
  }
  play(t, roles);
  for (int i = 0; i < FLUSHERS; i++) {
    chalk_thread_stop(flushers[i]);
    assert_int_equal(chalk_thread_wait(flushers[i], DEADLINE), 1);
    chalk_thread_free(flushers[i]);
  }
}

/* Makes the series that readers look at before other series reach the limit. */
static stage *new_stage(void) {
  static stage t;
  memset(&t, 0, sizeof t);
  t.g = open_segment(&(chalk_options){.max_series = 150, .max_buckets = 64});
  chalk_writer *w = open_writer(t.g);
  define_all(&t, w);
  free(bind_numbered(&t, w, STABLE, 0));
  chalk_writer_close(w);
  return &t;
}

/*
 * The sum over all series of a gauge that no thread drops. A thread that binds while the segment is full adds to the
 * overflow series first, and to its own series after the epoch has moved.
 */
static double gauge_of(stage *t, int kind) {
  chalk_snapshot *s = take(t->g, 0);
  uint32_t n;
  const chalk_entry *e = chalk_snapshot_entries(s, &n);
  double value = 0;
  for (uint32_t i = 0; i < n; i++) value += (int)e[i].metric == t->metrics[kind] ? e[i].value : 0;
  chalk_snapshot_free(s);
  return value;
}

/* A cursor that lost nothing was given exactly what was recorded. */
static void check_exact(stage *t) {
  assert_true(atomic_load(&t->rounds) > 10);
  for (int kind = STABLE; kind <= CHURNED_TIMES; kind++) {
    assert_int_equal(t->received[kind], t->recorded[kind]);
    if (t->is_watched) assert_int_equal(t->seen[kind], t->recorded[kind]);
  }
}

static void test_all_roles_at_once_are_exact(void **state) {
  (void)state;
  static const cast roles[] = {
      {act_recorder, RECORDERS}, {act_creator, CREATORS}, {act_dropper, DROPPERS}, {act_reader, READERS}, {NULL, 0}};
  stage *t = new_stage();
  chalk_writer *w = join_in(t);
  play_flushed(t, roles);
  check_exact(t);
  assert_true(gauge_of(t, IN_FLIGHT) == (double)t->recorded[IN_FLIGHT]);
  assert_int_equal(info_of(t->g).quarantined, 0);
  chalk_writer_close(w);
  chalk_segment_close(t->g);
}

/* There are more VMs than slots, so the threads record through slot 0, while its series are dropped. */
static void test_threads_that_share_a_slot_are_exact(void **state) {
  (void)state;
  static const cast roles[] = {{act_recorder, RECORDERS}, {act_dropper, DROPPERS}, {act_reader, 1}, {NULL, 0}};
  stage *t = new_stage();
  chalk_writer *all[WRITERS];
  for (uint32_t i = 1; i < WRITERS; i++) all[i] = open_writer(t->g);
  play_flushed(t, roles);
  check_exact(t);
  for (uint32_t i = 1; i < WRITERS; i++) chalk_writer_close(all[i]);
  chalk_segment_close(t->g);
}

static void be_watched(stage *t) {
  t->is_watched = true;
  chalk_tap_switch(t->g, KIND_MASK, EVENTS, 1);
}

static void test_the_tap_sees_each_record_once(void **state) {
  (void)state;
  static const cast roles[] = {{act_recorder, RECORDERS}, {act_creator, 1}, {act_dropper, DROPPERS}, {NULL, 0}};
  stage *t = new_stage();
  chalk_writer *w = join_in(t);
  be_watched(t);
  play_flushed(t, roles);
  check_exact(t);
  assert_int_equal(info_of(t->g).quarantined, 0);
  chalk_writer_close(w);
  chalk_segment_close(t->g);
}

static void test_the_tap_sees_each_record_of_a_shared_slot_once(void **state) {
  (void)state;
  static const cast roles[] = {{act_recorder, RECORDERS}, {act_dropper, DROPPERS}, {NULL, 0}};
  stage *t = new_stage();
  chalk_writer *all[WRITERS];
  for (uint32_t i = 1; i < WRITERS; i++) all[i] = open_writer(t->g);
  be_watched(t);
  play_flushed(t, roles);
  check_exact(t);
  for (uint32_t i = 1; i < WRITERS; i++) chalk_writer_close(all[i]);
  chalk_segment_close(t->g);
}

static void test_reloads_beside_readers(void **state) {
  (void)state;
  static const cast roles[] = {{act_definer, 2}, {act_recorder, 1}, {act_reader, READERS}, {NULL, 0}};
  stage *t = new_stage();
  play_flushed(t, roles);
  check_exact(t);
  chalk_segment_close(t->g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_roles_at_once_are_exact),
      cmocka_unit_test(test_threads_that_share_a_slot_are_exact),
      cmocka_unit_test(test_the_tap_sees_each_record_once),
      cmocka_unit_test(test_the_tap_sees_each_record_of_a_shared_slot_once),
      cmocka_unit_test(test_reloads_beside_readers),
  };
  alarm(4 * DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
