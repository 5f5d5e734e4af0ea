/*
 * What is lost when these fail: the totals of a service whose machine or last process died, because its file is refused
 * or read wrong; or the service itself, because a damaged file passes for a sound one.
 */

#include "common.h"
#include "directory.h"

#include "open/recover.h"
#include "series/series.h"

static chalk_segment *open_file(void) {
  char message[CHALK_MESSAGE] = "";
  chalk_segment *g = open_path(message);
  if (!g) fail_msg("%s", message);
  return g;
}

/* Fills a segment: series of every kind, some of them dropped. */
static void fill(chalk_segment *g) {
  chalk_writer *w = chalk_writer_open(g, NULL);
  int count = define(w, "requests", CHALK_COUNT, 1, 0), latency = define(w, "latency", CHALK_HISTOGRAM, 1, 5);
  int load = define_across(w, "load", CHALK_SUM);
  for (int i = 0; i < 100; i++) {
    char tag[16];
    snprintf(tag, sizeof tag, "%d", i);
    chalk_series *c = bind(w, count, tag), *h = bind(w, latency, tag), *u = bind(w, load, tag);
    chalk_add(c, 1), chalk_record(h, i), chalk_set(u, i);
    free(c), free(h), free(u);
    if (i % 10 == 0) drop(w, count, tag), drop(w, latency, tag);
  }
}

/* Asserts the totals of a segment that was filled. */
static void assert_filled(chalk_segment *g) {
  assert_int_equal(info_of(g).series, 3 * 100 - 2 * 10);
  int64_t totals[3] = {0};
  chalk_snapshot *s = take(g, 0);
  uint32_t n;
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  for (uint32_t i = 0; i < n; i++) totals[entries[i].metric % 3] += entries[i].total;
  chalk_snapshot_free(s);
  assert_int_equal(totals[0], 90);
  assert_int_equal(totals[1], 90);
}

/* Forks a child that fills the file, takes some locks, and is killed. */
static void leave_by_death(void) {
  int ready[2];
  char byte = 0;
  unlink(path);
  assert_int_equal(pipe(ready), 0);
  pid_t pid = fork_child();
  if (pid == 0) {
    chalk_segment *g = open_file();
    fill(g);
    segment_lock_take(&g->head->registry);
    segment_lock_take(&g->stripes[7].lock);
    segment_lock_take(&g->head->heap_lock);
    CHILD_CHECK(write(ready[1], &byte, 1) == 1);
    for (;;) pause();
  }
  assert_int_equal(read(ready[0], &byte, 1), 1);
  kill_child(pid);
  close(ready[0]), close(ready[1]);
}

static void test_a_file_whose_process_was_killed_opens_with_its_totals(void **state) {
  (void)state;
  leave_by_death();
  chalk_segment *g = open_file();
  assert_true(recover_check(g));
  assert_filled(g);
  chalk_writer *w = open_writer(g);
  assert_int_equal(chalk_writer_slot(w), 1); /* the slot of the dead process is free */
  chalk_series *s = bind(w, define(w, "requests", CHALK_COUNT, 1, 0), "1");
  chalk_add(s, 1);
  assert_true(chalk_value(s) == 2);
  free(s);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* Chains and free numbers are derived from the series, so a death cannot leave wrong ones. */
static void test_chains_and_free_numbers_are_rebuilt(void **state) {
  (void)state;
  leave_by_death();
  chalk_segment *g = open_file();
  for (int i = 0; i < STRIPES; i++) {
    uint32_t *heads = segment_at(g, g->stripes[i].heads);
    for (uint32_t k = 0; k < g->stripes[i].size; k++) heads[k] = NONE;
    g->stripes[i].used = 0;
  }
  g->head->ids_free = NONE;
  atomic_store(&g->head->live, 12345);
  chalk_segment_close(g);
  g = open_file();
  assert_filled(g);
  chalk_writer *w = open_writer(g);
  chalk_series *s = bind(w, define(w, "requests", CHALK_COUNT, 1, 0), "1");
  assert_true(chalk_value(s) == 1); /* the series is found, not created again */
  free(s);
  chalk_writer_close(w);
  chalk_segment_close(g);
}

/* Each of these would lead a reader or a writer astray. */
enum { DAMAGES = 10 };
static void damage(chalk_segment *g, int how) {
  series *s = &g->series[METRICS];
  switch (how) {
    case 0:
      atomic_store(&s->metric, METRICS - 1);
      break;
    case 1:
      atomic_store(&s->key, g->size);
      break;
    case 2:
      atomic_store(&s[1].key, atomic_load(&s[3].key));
      break; /* two series share a block */
    case 3:
      g->metrics[0].hash++;
      break;
    case 4:
      atomic_store(&g->metrics[1].les, CHALK_LES + 1);
      break;
    case 5:
      *(double *)segment_at(g, atomic_load(&g->metrics[1].le)) = NAN;
      break;
    case 6:
      g->head->heap_top = g->size + 8;
      break;
    case 7:
      atomic_store(&g->head->ids_top, g->capacity + 1);
      break;
    case 8:
      atomic_store(segment_cell(g, 1, METRICS), as_bits(0x1p63));
      break; /* more than the sum of counts may be */
    default:
      atomic_store(&g->head->epoch, as_bits(0.5));
      break;
  }
}

static void test_damage_is_refused(void **state) {
  (void)state;
  for (int how = 0; how < DAMAGES; how++) {
    leave_by_death();
    chalk_segment *g = open_file();
    damage(g, how);
    chalk_segment_close(g);
    char message[CHALK_MESSAGE] = "";
    if (open_path(message)) fail_msg("damage %d was taken up", how);
    assert_non_null(strstr(message, "damaged"));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_file_whose_process_was_killed_opens_with_its_totals),
      cmocka_unit_test(test_chains_and_free_numbers_are_rebuilt),
      cmocka_unit_test(test_damage_is_refused),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, directory_make, directory_remove);
}
