/*
 * What is lost when these fail: the whole server, or the machine. The master of an nginx is root, and at each reload it
 * reads memory into which its workers, who are not root, can store. Whatever they store there, at whatever moment, the
 * master neither crashes nor hangs nor writes anywhere but into the segment's mapping.
 *
 * The test makes a segment with something of each structure in it, and overwrites word for word with hostile values.
 * After each store a child, in the role of the master, does all that a reload does.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "common.h"
#include "directory.h"
#include "value/histogram.h"
#include "record/tap.h"
#include "record/writer.h"

enum { TAGS = 12, SHOWN = 64 };

static const char *const kept = "master";
static chalk_segment *g;
static chalk_series *old[4]; /* handles of the previous configuration's VM */

/* What a configuration defines and does. */

typedef struct metrics {
  int count, histogram, bare, across;
} metrics;

static metrics define_all(chalk_writer *w, uint32_t les) {
  return (metrics){define(w, "requests", CHALK_COUNT, 1, 0), define(w, "latency", CHALK_HISTOGRAM, 1, les),
                   define(w, "bare", CHALK_COUNT, 0, 0), define_across(w, "memory", CHALK_SUM)};
}

/* Gives as many tag values as there can be, as Lua does, because a damaged metric may say that it has so many. */
static chalk_series *try_bind(chalk_writer *w, int metric, const char *value) {
  const char *values[CHALK_TAGS] = {value};
  size_t sizes[CHALK_TAGS] = {strlen(value)};
  return metric < 0 ? NULL : chalk_series_new(w, (uint32_t)metric, values, sizes);
}

static void try_drop(chalk_writer *w, int metric, const char *value) {
  const char *values[CHALK_TAGS] = {value};
  size_t sizes[CHALK_TAGS] = {strlen(value)};
  if (metric >= 0) chalk_remove(w, (uint32_t)metric, values, sizes);
}

static void record(chalk_series *s) {
  if (!s) return;
  chalk_add(s, 1), chalk_set(s, 2), chalk_value(s);
  for (int i = -3; i < 20; i++) chalk_record(s, i * i * i * 1.7);
}

static void use(chalk_writer *w, const metrics *m, int i) {
  char tag[16];
  snprintf(tag, sizeof tag, "%d", i);
  const int all[] = {m->count, m->histogram, m->bare, m->across};
  for (int k = 0; k < 4; k++) {
    chalk_series *s = try_bind(w, all[k], tag);
    record(s);
    if (s && k == 1) chalk_sketch_free(chalk_series_sketch(s));
    free(s);
  }
}

static void look(void) {
  char message[CHALK_MESSAGE], blob[256], key[1024];
  double bounds[CHALK_LES];
  chalk_snapshot *s = chalk_snapshot_take(g, 0, message);
  if (!s) return;
  uint32_t n;
  chalk_snapshot_entries(s, &n);
  for (uint32_t i = 0; i < n && i < SHOWN; i++) chalk_snapshot_key(s, i, key, sizeof key);
  for (uint32_t m = 0; m < chalk_metric_top(g) && m < SHOWN; m++) {
    chalk_metric_blob(g, m, blob, sizeof blob);
    chalk_metric_les(g, m, bounds);
    chalk_metric_shown(g, m);
  }
  chalk_snapshot_free(s);
}

/* All that a master does at a reload. Returns whether it found the metrics as they were defined. */
static bool reload(void) {
  char message[CHALK_MESSAGE] = "";
  chalk_segment *same = chalk_segment_open(kept, NULL, message);
  for (int k = 0; k < 4; k++) record(old[k]);
  if (!same) {
    CHILD_CHECK(strstr(message, "restart needed"));
    return false;
  }
  CHILD_CHECK(same == g);
  chalk_info info;
  chalk_segment_info(g, &info);
  chalk_writer *w = chalk_writer_open(g, message);
  CHILD_CHECK(w);
  metrics m = define_all(w, 5), more = define_all(w, 3);
  chalk_options o = {.max_series = 1000, .memory_limit = 8 * MIB};
  chalk_segment_configure(g, &o, message);
  chalk_tap_switch(g, KIND_MASK, 2 * CHALK_TAP_LEAST, 1);
  for (int i = 0; i < TAGS; i += 3) use(w, &m, i);
  use(w, &more, TAGS + 1);
  bool found = m.count == 0 && m.histogram == 1 && chalk_value(old[0]) > 0;
  define(w, "another", CHALK_COUNT, 2, 0);
  try_drop(w, m.histogram, "3"), try_drop(w, m.count, "4");
  if (m.count >= 0) chalk_clear(w, (uint32_t)m.count);
  look();
  if (m.bare >= 0) chalk_undefine(w, (uint32_t)m.bare);
  chalk_generation_reach(g, chalk_generation(g, 0) + 1);
  chalk_writer_tick(w);
  chalk_writer_close(w);
  chalk_segment_close(same);
  return found;
}

/* Fills the segment: counts, sketches, gauges of two writers, dropped series, a cursor, rings, a handover. */

static void fill(void) {
  chalk_writer *w = open_writer(g), *other = open_writer(g);
  metrics m = define_all(w, 5), n = define_all(other, 5);
  for (int i = 0; i < TAGS; i++) use(w, &m, i), use(other, &n, i);
  chalk_cursor *c = chalk_cursor_open(g, "one", 0, 1, NULL);
  assert_non_null(c);
  drop(w, m.count, "1"), drop(w, m.histogram, "2"), drop(w, m.across, "5");
  chalk_writer_tick(w), chalk_writer_tick(other);
  sweep(g, 10, 0), sweep(g, 1000, 0);
  drop(w, m.count, "6"), drop(w, m.histogram, "7");
  chalk_tap_switch(g, KIND_MASK, 0, 1);
  use(w, &m, 0), use(other, &n, 8);
  chalk_cursor_close(c);
  old[0] = bind(w, m.count, "0"), old[1] = bind(w, m.histogram, "0");
  old[2] = bind(w, m.bare, NULL), old[3] = bind(w, m.across, "0");
  stripe *t = &g->stripes[0];
  t->handover_from = METRICS, t->handover_to = METRICS + 1;
}

/* Parts of the mapping, with copies of their content. */

typedef struct part {
  const char *name;
  char *at, *then;
  size_t size;
  uint32_t step; /* every step-th word is overwritten */
} part;

enum { PARTS = 11 };
static part parts[PARTS];

static void note_part(int i, const char *name, void *at, size_t size, uint32_t step) {
  parts[i] = (part){name, at, malloc(size), size, step};
  assert_non_null(parts[i].then);
  memcpy(parts[i].then, at, size);
}

static void note_parts(void) {
  uint32_t n = atomic_load(&g->head->ids_top) - METRICS + 16;
  note_part(0, "header", g->base, sizeof(header), 1);
  note_part(1, "slots", g->slots, 4 * sizeof(slot), 3);
  note_part(2, "stripes", g->stripes, STRIPES * sizeof(stripe), 5);
  note_part(3, "cursors", g->cursors, 2 * sizeof(cursor_head), 3);
  note_part(4, "metrics", g->metrics, 16 * sizeof(metric), 1);
  note_part(5, "overflow series", g->series, 16 * sizeof(series), 3);
  note_part(6, "series", &g->series[METRICS], n * sizeof(series), 1);
  note_part(7, "cells", segment_cell(g, 1, METRICS), n * 8, 1);
  note_part(8, "heap", segment_at(g, g->heap), 64 * 1024, 13);
  note_part(9, "guests' slots", &g->slots[WRITERS], 3 * sizeof(slot), 3);
  note_part(10, "cells that are shared", segment_cell(g, 0, METRICS), n * 8, 1);
}

static void forget_parts(void) {
  for (int i = 0; i < PARTS; i++) free(parts[i].then);
}

static void restore(void) {
  for (int i = 0; i < PARTS; i++) memcpy(parts[i].at, parts[i].then, parts[i].size);
}

/* The i-th hostile value for the word at offset `at`, which holds `was`. */
enum { VALUES = 12 };
static uint64_t hostile(int i, uint64_t at, uint64_t was) {
  const uint64_t values[VALUES] = {0,
                                   UINT64_MAX,
                                   1,
                                   at,
                                   g->heap,
                                   g->size - 8,
                                   g->size - 16,
                                   0x4141414141414141,
                                   0x7fffffff7fffffff,
                                   was + 8,
                                   was | 0x40000000 /* of a lock: its owner has died */,
                                   (uint64_t)g->capacity << 32 | (g->capacity - 1)};
  return values[i];
}

/* The case that the child is in, which the parent reports if the child dies. */
typedef struct progress {
  volatile uint32_t part, word, value;
} progress;
static progress *now;

static void become_master(void) {
  for (int i = 1; i < 32; i++) signal(i, SIG_DFL);
  chalk_inherit(1);
  segment_lock_patience = 0.05;
}

static void overwrite(const part *p) {
  CHILD_CHECK(reload());
  restore();
  for (uint32_t word = 0; word < p->size / 8; word += SANITIZED ? 4 * p->step + 1 : p->step) {
    uint64_t *at = (uint64_t *)(void *)p->at + word;
    for (int i = 0; i < VALUES; i++) {
      now->word = word, now->value = (uint32_t)i;
      alarm(DEADLINE); /* for each case */
      *at = hostile(i, segment_offset(g, at), *at);
      reload();
      restore();
    }
  }
}

/* Waits for a child, which has to end without an error. */
static void expect_survival(pid_t pid) {
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  fail_msg("%s, word %u, value %u: the master died, status %x", parts[now->part].name, now->word, now->value, status);
}

static void overwrite_parts(uint32_t first) {
  for (uint32_t i = first; i < PARTS; i++) {
    now->part = i;
    pid_t pid = fork_child();
    if (pid == 0) {
      become_master();
      overwrite(&parts[i]);
      _exit(0);
    }
    expect_survival(pid);
    restore();
  }
}

static void test_any_word_may_be_overwritten(void **state) {
  (void)state;
  overwrite_parts(0);
}

static sigjmp_buf again;
static void go_on(int signal) { siglongjmp(again, signal); }

/*
 * Stores anything anywhere until it is killed. Opening a file that seems half made cuts it, which raises SIGBUS here.
 */
static pid_t start_vandal(void) {
  pid_t pid = fork_child();
  if (pid != 0) return pid;
  signal(SIGBUS, go_on);
  sigsetjmp(again, 1);
  for (;;) {
    const part *p = &parts[random_bits() % PARTS];
    uint64_t *at = (uint64_t *)(void *)p->at + random_bits() % (p->size / 8);
    uint64_t bits = random_bits(), was = *at;
    *at = bits % 3 ? hostile((int)(bits >> 8 & 0xffff) % VALUES, segment_offset(g, at), was) : random_bits();
    if (bits % 1024 == 0) restore();
  }
}

static void store_meanwhile(void) {
  enum { ROUNDS = SANITIZED ? 100 : 2000 };
  pid_t vandal = start_vandal(), pid = fork_child();
  if (pid == 0) {
    become_master();
    for (int i = 0; i < ROUNDS; i++) {
      alarm(DEADLINE);
      reload();
    }
    _exit(0);
  }
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  kill_child(vandal);
  restore();
  assert_int_equal(status, 0);
}

static void test_workers_store_during_reloads(void **state) {
  (void)state;
  store_meanwhile();
}

/* The master shares slot 0, so its gauges are in lists with those of workers that share it, too. */
static void test_a_master_that_shares_slot_0(void **state) {
  (void)state;
  chalk_writer *w[3];
  for (uint32_t i = 3; i < WRITERS; i++) { /* taken, by an owner whose death cannot be proven */
    memset(&g->slots[i].owner, 0, sizeof g->slots[i].owner);
    atomic_store(&g->slots[i].taken, 1);
  }
  atomic_store(&g->head->slot_top, WRITERS);
  for (int k = 0; k < 3; k++) {
    w[k] = open_writer(g);
    assert_true(w[k]->slot == 0 && w[k]->guest != 0);
    metrics m = define_all(w[k], 5);
    for (int i = 0; i < TAGS; i += 3) use(w[k], &m, i);
  }
  for (int k = 1; k < 3; k++) chalk_writer_close(w[k]); /* which leaves vacant links */
  forget_parts();
  note_parts();
  overwrite_parts(8);
  store_meanwhile();
}

/* Only memory can be sealed, a file cannot. */
static void test_memory_cannot_be_cut(void **state) {
  (void)state;
  assert_int_equal(ftruncate(g->fd, 4096), -1);
  assert_int_equal(errno, EPERM);
  assert_int_equal(ftruncate(g->fd, (off_t)(2 * g->size)), -1);
  assert_int_equal(ftruncate(g->fd, (off_t)g->size), 0);
  assert_int_equal(segment_allocate(g->fd, g->size - 4096, 4096), CHALK_OK);
}

/* The master refuses a header if it can tell that the values are wrong. */
static void test_a_master_refuses_a_header_that_makes_no_sense(void **state) {
  (void)state;
  char message[CHALK_MESSAGE] = "";
  atomic_store(&g->head->ids_top, UINT32_MAX);
  assert_null(chalk_segment_open(kept, NULL, message));
  assert_non_null(strstr(message, "restart needed"));
  assert_non_null(strstr(message, "written over"));
  restore();
  chalk_segment *same = chalk_segment_open(kept, NULL, message);
  assert_ptr_equal(same, g);
  chalk_segment_close(same);
}

/* Records of the master count as any others, and all processes see them. */
static void test_a_master_records(void **state) {
  (void)state;
  chalk_writer *reader = open_writer(g);
  int count = define(reader, "of_the_master", CHALK_COUNT, 1, 0);
  int histogram = define(reader, "seconds_of_the_master", CHALK_HISTOGRAM, 1, 5);
  pid_t pid = fork_child();
  if (pid == 0) {
    become_master();
    chalk_writer *w = chalk_writer_open(g, NULL);
    chalk_series *c = bind(w, define(w, "of_the_master", CHALK_COUNT, 1, 0), "x");
    chalk_series *h = bind(w, define(w, "seconds_of_the_master", CHALK_HISTOGRAM, 1, 5), "x");
    for (int i = 1; i <= 1000; i++) {
      CHILD_CHECK(chalk_add(c, 2) == CHALK_OK && chalk_record(h, i % 40 - 3) == CHALK_OK);
    }
    chalk_writer_close(w);
    _exit(0);
  }
  join_child(pid);
  assert_int_equal(total_of(g, count), 2000);
  assert_int_equal(total_of(g, histogram), 1000);
  chalk_series *h = bind(reader, histogram, "x");
  chalk_sketch *k = chalk_series_sketch(h);
  assert_int_equal(chalk_sketch_count(k), 1000);
  assert_int_equal(chalk_sketch_min(k), -3);
  assert_int_equal(chalk_sketch_max(k), 36);
  chalk_sketch_free(k);
  free(h);
  chalk_writer_close(reader);
}

/* A worker's record follows the block's word for where its table is. The master's record must not. */
static void test_a_masters_record_follows_no_damaged_block(void **state) {
  (void)state;
  pid_t pid = fork_child();
  if (pid == 0) {
    become_master();
    for (int i = 0; i < VALUES; i++) {
      chalk_record(old[1], 1.5);
      histogram *h = (histogram *)(void *)old[1]->cell;
      h->place = hostile(i, segment_offset(g, h), h->place);
      h->mask = UINT32_MAX;
      CHILD_CHECK(chalk_record(old[1], 1.5) == CHALK_OK);
      CHILD_CHECK(chalk_record(old[1], 1e9 + i) == CHALK_OK);
    }
    _exit(0);
  }
  join_child(pid);
  restore();
}

/* A master checks a file that no process uses, while a process stores into it that has it open all the same. */
static void test_a_file_changes_while_it_is_taken_up(void **state) {
  (void)state;
  enum { ROUNDS = SANITIZED ? 20 : 200 };
  char message[CHALK_MESSAGE] = "";
  chalk_segment *memory = g;
  g = open_path(message);
  assert_non_null(g);
  part before[PARTS];
  memcpy(before, parts, sizeof parts);
  chalk_series *before_old[4];
  memcpy(before_old, old, sizeof old);
  fill();
  note_parts();
  size_t size = g->size;
  chalk_segment_close(g);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  assert_true(base != MAP_FAILED);
  chalk_segment view = {.base = base, .size = size, .heap = parts[8].size};
  ptrdiff_t moved = (char *)base - (parts[0].at);
  for (int i = 0; i < PARTS; i++) parts[i].at += moved;
  g = &view;
  pid_t vandal = start_vandal(), pid = fork_child();
  if (pid == 0) {
    become_master();
    for (int i = 0; i < ROUNDS; i++) {
      alarm(DEADLINE);
      chalk_segment *taken = open_path(message);
      CHILD_CHECK(taken || message[0]);
      if (taken) chalk_segment_close(taken);
    }
    _exit(0);
  }
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  kill_child(vandal);
  munmap(base, size), close(fd);
  forget_parts();
  for (int k = 0; k < 4; k++) free(old[k]);
  memcpy(old, before_old, sizeof old);
  memcpy(parts, before, sizeof parts);
  g = memory;
  assert_int_equal(status, 0);
}

/* Sets the number of slots too high some time after now->word was set, and back once that is zero again. */
static pid_t start_grower(header *h) {
  enum { LONGEST = 400 /* us */ };
  pid_t pid = fork_child();
  if (pid != 0) return pid;
  for (;; atomic_store(&h->guest_top, WRITERS)) {
    while (!now->word) continue;
    for (double end = chalk_now() + (double)(random_bits() % LONGEST) * 1e-6; chalk_now() < end;) continue;
    atomic_store(&h->guest_top, UINT32_MAX);
    while (now->word) continue;
  }
}

/* The number of slots changes while the master resets the owners of all slots. */
static void test_the_number_of_slots_changes_while_a_file_is_taken_up(void **state) {
  (void)state;
  enum { ROUNDS = 1000 };
  char message[CHALK_MESSAGE] = "";
  unlink(path);
  chalk_segment *made = open_path(message);
  assert_non_null(made);
  size_t size = made->size;
  chalk_segment_close(made);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  header *h = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  assert_true((void *)h != MAP_FAILED);
  now->word = 0;
  pid_t vandal = start_grower(h);
  pid_t pid = fork_child();
  if (pid == 0) {
    become_master();
    for (int i = 0; i < ROUNDS; i++) {
      alarm(DEADLINE);
      now->word = 1;
      chalk_segment *taken = open_path(message);
      now->word = 0;
      if (taken) chalk_segment_close(taken);
      pause_ms(1);
    }
    _exit(0);
  }
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  kill_child(vandal);
  munmap(h, size), close(fd);
  assert_int_equal(status, 0);
}

static int make(void **state) {
  if (directory_make(state) != 0) return -1;
  now = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (now == MAP_FAILED) return -1;
  chalk_options o = {.memory_limit = 8 * MIB};
  g = chalk_segment_open(kept, &o, NULL);
  if (!g) return -1;
  fill();
  note_parts();
  return 0;
}

static int end(void **state) {
  forget_parts();
  for (int k = 0; k < 4; k++) free(old[k]);
  return directory_remove(state);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_master_records),
      cmocka_unit_test(test_a_masters_record_follows_no_damaged_block),
      cmocka_unit_test(test_memory_cannot_be_cut),
      cmocka_unit_test(test_a_master_refuses_a_header_that_makes_no_sense),
      cmocka_unit_test(test_any_word_may_be_overwritten),
      cmocka_unit_test(test_workers_store_during_reloads),
      cmocka_unit_test(test_a_master_that_shares_slot_0),
      cmocka_unit_test(test_a_file_changes_while_it_is_taken_up),
      cmocka_unit_test(test_the_number_of_slots_changes_while_a_file_is_taken_up),
  };
  return cmocka_run_group_tests(tests, make, end);
}
