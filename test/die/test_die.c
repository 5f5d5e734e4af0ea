/*
 * What is lost when these fail: the counts of all processes, or the segment, when one process is killed. On each path
 * that changes more than a value, a victim is killed at its n-th store to shared memory, for every n. The other
 * processes go on, their totals are exact, and what the victim left can be used, taken over and freed.
 *
 *   test_die               a sample: each path dies at some of its stores
 *   test_die --all [WORD]  at every store, before it and behind it; only paths with the word in their name
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "bed.h"
#include "cursors.h"
#include "shm/heap.h"
#include "value/histogram.h"
#include "series/key.h"
#include "runtime.h"
#include "sharing.h"
#include "value/kind.h"

/* Creating */

static void create_count(bed *b) { bed_add(b, b->series[0] = bed_bind(b, b->count, "new")); }
static void create_histogram(bed *b) { bed_record(b, b->series[0] = bed_bind(b, b->latency, "new"), 42); }

static void create_gauges(bed *b) {
  chalk_set(bed_bind(b, b->load, "new"), 1);
  chalk_set(bed_bind(b, b->last, "new"), 2);
}

/* The next tag whose series is in the stripe. */
static void tag_of_stripe(bed *b, uint32_t stripe, uint32_t *next, char *tag) {
  for (;;) {
    char key[KEY_MOST];
    snprintf(tag, 16, "t%u", (*next)++);
    const char *value = tag;
    size_t size = strlen(tag);
    uint32_t n = key_encode(key, &value, &size, 1);
    if (key_hash((uint32_t)b->count, key, n) >> 58 == stripe) return;
  }
}

static uint32_t next_tag;

static void fill_stripe(bed *b) {
  char tag[16];
  next_tag = 0;
  while (b->segment->stripes[5].used < 2 * b->segment->stripes[5].size - 1) {
    tag_of_stripe(b, 5, &next_tag, tag);
    free(bed_bind(b, b->count, tag));
  }
}

static void grow_stripe(bed *b) {
  char tag[16];
  tag_of_stripe(b, 5, &next_tag, tag);
  bed_add(b, bed_bind(b, b->count, tag));
}

/* Takes the heap up to the end of its real memory. */
static void fill_heap(bed *b) {
  header *h = b->segment->head;
  while (h->heap_real - h->heap_top >= 128) heap_take(b->segment, 64);
}

/* Takes numbers of series up to the end of a chunk. */
static void fill_chunk(bed *b) {
  for (uint32_t i = 0; atomic_load(&b->segment->head->ids_top) % CHUNK_LEAST != 0; i++) {
    char tag[16];
    snprintf(tag, sizeof tag, "f%u", i);
    free(bed_bind(b, b->last, tag));
  }
}

/*
 * A process has died already, with the locks of the stripe, of the free numbers and of the heap. The victim dies while
 * it repairs what they protect.
 */
static void die_in_stripe(bed *b) {
  fill_stripe(b);
  pid_t pid = fork();
  if (pid == 0) {
    free(bed_bind(b, b->last, "other"));
    stripe *t = &b->segment->stripes[5];
    segment_lock_take(&t->lock);
    segment_lock_take(&b->segment->head->ids_lock);
    segment_lock_take(&b->segment->head->heap_lock);
    memset(segment_at(b->segment, t->heads), 0xff, t->size * sizeof(uint32_t));
    t->used = 0;
    b->segment->head->ids_free = NONE;
    kill(getpid(), SIGKILL);
  }
  int status;
  waitpid(pid, &status, 0);
}

/* Sketches */

static void few_buckets(bed *b) {
  b->series[0] = bed_bind(b, b->latency, "grown");
  for (int i = 0; i < 6; i++) bed_record(b, b->series[0], 1 + i);
}

static void one_more(bed *b) { bed_record(b, b->series[0], 1000); }
static void one_negative(bed *b) { bed_record(b, b->series[0], -1000); }

static void both_signs(bed *b) {
  b->series[0] = bed_bind(b, b->latency, "both");
  for (int i = 0; i < 5; i++) bed_record(b, b->series[0], 1 + i * 1.1);
  for (int i = 0; i < 3; i++) bed_record(b, b->series[0], -1 - i * 1.1);
}

/* A bucket with space for a few more values, as after four billion records. */
static void fill_bucket(bed *b) {
  enum { MANY = 0x7ffffffe };
  b->series[0] = bed_bind(b, b->latency, "wide");
  bed_record(b, b->series[0], 5);
  histogram *h = b->series[0]->histogram;
  uint64_t word = atomic_load(&h->table[0]);
  shared_u64 *bucket = segment_at(b->segment, (word & ((1ull << 40) - 1)) * 8);
  while ((uint32_t)atomic_load(bucket) == 0) bucket++;
  for (int i = 0; i < 2; i++) {
    atomic_fetch_add(bucket, MANY);
    atomic_fetch_add(&h->le[1], MANY);
    atomic_fetch_add(&b->notes->begun, MANY);
    atomic_fetch_add(&b->notes->done, MANY);
  }
}

static void overflow_bucket(bed *b) {
  for (int i = 0; i < 4; i++) bed_record(b, b->series[0], 5);
}

/* Dropping */

static int drop(bed *b, int metric, const char *value) {
  size_t size = strlen(value);
  return chalk_remove(b->writer, (uint32_t)metric, &value, &size);
}

/* Series that only the survivor has recorded into, so dropping them loses no count of the others. */
static void make_series(bed *b) {
  b->series[0] = bed_bind(b, b->count, "gone"), chalk_add(b->series[0], 3);
  b->series[1] = bed_bind(b, b->latency, "gone"), chalk_record(b->series[1], 3), chalk_record(b->series[1], -30);
  b->series[2] = bed_bind(b, b->load, "gone"), chalk_set(b->series[2], 3);
}

static void drop_count(bed *b) { drop(b, b->count, "gone"); }
static void drop_histogram(bed *b) { drop(b, b->latency, "gone"); }

/* The survivor drops the series that the victim did not get to drop. */
static void drop_both(bed *b) {
  drop_count(b);
  drop_histogram(b);
}

static void make_many(bed *b) {
  for (int i = 0; i < 6; i++) {
    char tag[16];
    snprintf(tag, sizeof tag, "n%d", i);
    free(bed_bind(b, b->last, tag));
  }
}

static void clear(bed *b) { chalk_clear(b->writer, (uint32_t)b->last); }

static void make_idle(bed *b) {
  b->series[0] = bed_bind(b, b->last, "idle0"), chalk_set(b->series[0], 3);
  b->series[1] = bed_bind(b, b->load, "idle1"), chalk_set(b->series[1], 3);
  bed_sweep(b, 0);
}

/* Only gauges can be idle, because whether a count is would depend on when the bystander recorded. */
static void sweep_idle(bed *b) {
  double limits[KIND_MOST] = {[CHALK_GAUGE - CHALK_COUNT] = 10};
  EXPECT(chalk_hold(b->segment, chalk_generation(b->segment, 0)) == 1);
  chalk_snapshot *s = chalk_snapshot_take(b->segment, 1, NULL);
  chalk_sweep(s, b->now, limits);
  chalk_snapshot_free(s);
  chalk_release(b->segment);
}

/* Reclaiming */

/* Late records: of a writer that compared the epoch before the drop. */
static void record_late(bed *b) {
  *b->series[0]->cell += 7;
  for (int i = 0; i < 7; i++) histogram_add(b->series[1], i - 3);
  b->counts += 7, b->latencies += 7;
}

static void leave_residue(bed *b) {
  make_series(b);
  drop_count(b), drop_histogram(b), drop(b, b->load, "gone");
  record_late(b);
  bed_tick(b);
}

/*
 * Two dropped series of one key have residues. Both go to the cell of slot 0 of the present series, which was recorded
 * into since.
 */
static void leave_residue_twice(bed *b) {
  make_series(b);
  drop_both(b), drop(b, b->load, "gone");
  record_late(b);
  chalk_series *late = bed_bind(b, b->count, "gone"), *timed = bed_bind(b, b->latency, "gone");
  drop_both(b);
  *late->cell += 2;
  for (int i = 0; i < 20; i++) histogram_add(timed, 1 + i * 17);
  b->counts += 2, b->latencies += 20;
  chalk_add(bed_bind(b, b->count, "gone"), 1);
  chalk_record(bed_bind(b, b->latency, "gone"), 100);
  b->counts++, b->latencies++;
  bed_tick(b);
}

static void sweep(bed *b) { bed_sweep(b, 0); }

/* Gauges that were dropped as idle and have a late value. */
static void leave_late_gauges(bed *b) {
  make_idle(b);
  b->now += 100;
  sweep_idle(b);
  for (int i = 0; i < 2; i++) {
    EXPECT(*b->series[i]->shared + *b->series[i]->own != b->series[i]->epoch);
    b->series[i]->cell[0] = 7 + i;
    b->series[i]->cell[1] = GAUGE_TOUCHED;
  }
  bed_tick(b);
}

/* Their successors exist, but are not set. */
static void leave_gauges_to_successors(bed *b) {
  leave_late_gauges(b);
  free(bed_bind(b, b->last, "idle0")), free(bed_bind(b, b->load, "idle1"));
}

static void late_gauges_are_there(bed *b) {
  EXPECT(chalk_value(bed_bind(b, b->last, "idle0")) == 7);
  EXPECT(chalk_value(bed_bind(b, b->load, "idle1")) == 8);
}

/* A holder has died already, after it published the histogram's handover and before it stored the values. */
static void die_at_handover(bed *b) {
  leave_residue_twice(b);
  pid_t pid = fork();
  if (pid == 0) {
    free(bed_bind(b, b->last, "other"));
    stripe *t = &b->segment->stripes[b->segment->series[b->series[1]->series].hash >> 58];
    die_arm(&t->handing_over, sizeof t->handing_over, 1, true);
    sweep(b);
    _exit(0);
  }
  int status;
  waitpid(pid, &status, 0);
  EXPECT(WIFSIGNALED(status));
}

/* The limit of series is reached, so the residue goes to the overflow series. */
static void leave_residue_when_full(bed *b) {
  make_series(b);
  drop_count(b), drop_histogram(b), drop(b, b->load, "gone");
  record_late(b);
  bed_tick(b);
  atomic_store(&b->segment->head->max_series, 1);
}

static void raise_limit(bed *b) { atomic_store(&b->segment->head->max_series, 20000); }

/* Slots */

static void die_in_slot(bed *b) {
  pid_t pid = fork();
  if (pid == 0) {
    chalk_set(bed_bind(b, b->load, "dead"), 5);
    chalk_add(bed_bind(b, b->count, "dead"), 5);
    kill(getpid(), SIGKILL);
  }
  int status;
  waitpid(pid, &status, 0);
  b->counts += 5;
}

static void take_over(bed *b) { chalk_set(bed_bind(b, b->load, "successor"), 6); }

/* The gauge of the dead process does not count any more. */
static void gauge_is_gone(bed *b) {
  chalk_series *s = bed_bind(b, b->load, "dead");
  EXPECT(chalk_value(s) == 0);
  free(s);
}

static void give_slot(bed *b) { chalk_writer_close(b->writer); }

static void second_slot(bed *b) {
  b->writer = chalk_writer_open(b->segment, NULL);
  EXPECT(b->writer);
}

/* Definitions */

static void define_new(bed *b) { EXPECT(bed_define(b, "new_latency", CHALK_HISTOGRAM, 0, "new_latency") >= 0); }
static void refresh_blob(bed *b) { EXPECT(bed_define(b, "latency", CHALK_HISTOGRAM, 0, "latency_renamed") >= 0); }

static int old_metric;

static void define_old(bed *b) {
  old_metric = bed_define(b, "turned", CHALK_HISTOGRAM, 0, "turned_latency");
  chalk_record(bed_bind(b, old_metric, "x"), 1);
  uint32_t was = atomic_load(&b->segment->head->max_series);
  atomic_store(&b->segment->head->max_series, 1);
  chalk_record(bed_bind(b, old_metric, "y"), 1); /* into the overflow series */
  atomic_store(&b->segment->head->max_series, was);
}

static void supersede(bed *b) { EXPECT(bed_define(b, "turned", CHALK_COUNT, 0, "turned_total") >= 0); }

static void abandon(bed *b) {
  define_old(b);
  bed_send(b, "sender", true);
  supersede(b);
  chalk_undefine(b->writer, (uint32_t)old_metric);
}

static void sweep_thrice(bed *b) {
  for (int i = 0; i < 3; i++) {
    chalk_writer_tick(b->writer);
    sweep(b);
  }
}

/* A definition to which nothing was bound is freed at once, without a sweep. */
static void take_back(bed *b) {
  int number = bed_define(b, "vain", CHALK_HISTOGRAM, 1, "vain_latency");
  chalk_take_back(b->writer, (uint32_t)number);
}

static void define_in_vain_again(bed *b) {
  int number = bed_define(b, "vain", CHALK_COUNT, 0, "vain_total");
  EXPECT(number >= 0);
  chalk_add(bed_bind(b, number, "x"), 1);
}

/* Whether the definition was freed or not, the survivor supersedes it, and it leaves. */
static void define_again(bed *b) {
  supersede(b);
  for (int i = 0; i < 3; i++) bed_tick(b), bed_sweep(b, 0);
  chalk_snapshot *s = chalk_snapshot_take(b->segment, 0, NULL);
  uint32_t n;
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  for (uint32_t i = 0; i < n; i++) EXPECT(entries[i].metric != (uint32_t)old_metric);
  chalk_snapshot_free(s);
}

/* The flusher's role */

static void flush(bed *b) {
  EXPECT(chalk_hold(b->segment, chalk_generation(b->segment, 0)) == 1);
  chalk_heartbeat(b->segment);
  chalk_flush_done(b->segment, chalk_flush_request(b->segment));
  chalk_release(b->segment);
}

/* The survivor takes the role and serves the tickets that the victim was asked for. */
static void serve_tickets(bed *b) {
  uint64_t ticket = chalk_flush_request(b->segment);
  EXPECT(chalk_hold(b->segment, chalk_generation(b->segment, 0)) == 1);
  chalk_flush_done(b->segment, ticket);
  EXPECT(chalk_flush_wait(b->segment, ticket, 1) == CHALK_OK);
  chalk_release(b->segment);
}

/* The event tap */

static void switch_on(bed *b) { chalk_tap_switch(b->segment, KIND_MASK, 0, 0); }

static void record_events(bed *b) {
  bed_add(b, b->series[0] = bed_bind(b, b->count, "new"));
  bed_record(b, bed_bind(b, b->latency, "new"), 42);
}

static uint32_t read_events(bed *b) {
  char message[CHALK_MESSAGE] = "";
  chalk_tap *t = chalk_tap_open(b->segment, 1, message);
  uint32_t read = 0;
  EXPECT(t != NULL);
  for (uint32_t n, i = 0; i < 10 && (n = chalk_tap_read(t)) > 0; i++) {
    for (uint32_t k = 0; k < n; k++) {
      const chalk_event *event = &chalk_tap_events(t)[k];
      uint32_t kind = b->segment->metrics[event->metric].kind;
      EXPECT((kind == CHALK_COUNT) == (event->verb == CHALK_EVENT_INC));
      EXPECT((kind == CHALK_HISTOGRAM) == (event->verb == CHALK_EVENT_RECORD));
      EXPECT(kind == b->segment->metrics[b->segment->series[event->series].metric].kind);
    }
    read += n;
  }
  chalk_tap_close(t);
  return read;
}

/* The ring is empty, and a larger one is wanted. */
static void outgrow(bed *b) {
  record_events(b);
  read_events(b);
  chalk_tap_switch(b->segment, KIND_MASK, 2 * CHALK_TAP_LEAST, 0);
}

static void read_and_free(bed *b) { read_events(b); }
static void outgrow_and_record(bed *b) { outgrow(b), record_events(b); }

static void events_go_on(bed *b) {
  b->series[1] = bed_bind(b, b->count, "survivor");
  for (int i = 0; i < 3; i++) chalk_add(b->series[1], 0);
  EXPECT(read_events(b) >= 3);
  free(b->series[1]);
  chalk_tap_switch(b->segment, 0, 0, 0); /* dropped series do not wait for a reader any more */
}

/* A handle that was bound before the switch. */
static void bind_before(bed *b) { b->series[2] = bed_bind(b, b->count, "before"); }

static void events_go_on_after_switch(bed *b) {
  switch_on(b);
  read_events(b);
  chalk_add(b->series[2], 0);
  EXPECT(read_events(b) >= 1);
  events_go_on(b);
}

static const path paths[] = {
    {.name = "create a count", .act = create_count, .least = 30},
    {.name = "create a histogram and its first bucket", .act = create_histogram},
    {.name = "create gauges", .act = create_gauges},
    {.name = "create at the end of a chunk", .prepare = fill_chunk, .act = create_histogram},
    {.name = "grow a stripe", .prepare = fill_stripe, .act = grow_stripe},
    {.name = "grow the heap", .prepare = fill_heap, .act = create_histogram},
    {.name = "repair what a death left", .prepare = die_in_stripe, .act = grow_stripe},
    {.name = "grow a sketch", .ready = few_buckets, .act = one_more},
    {.name = "first negative bucket", .ready = few_buckets, .act = one_negative},
    {.name = "widen a sketch", .ready = fill_bucket, .act = overflow_bucket},
    {.name = "collapse a sketch", .ready = both_signs, .act = one_more, .buckets = 8},
    {.name = "drop a count", .prepare = make_series, .act = drop_count, .tidy = drop_both},
    {.name = "drop a histogram", .prepare = make_series, .act = drop_histogram, .tidy = drop_both},
    {.name = "clear a metric", .prepare = make_many, .act = clear},
    {.name = "drop what is idle", .prepare = make_idle, .act = sweep_idle},
    {.name = "reclaim with residue", .prepare = leave_residue, .act = sweep},
    {.name = "residue of two drops", .prepare = leave_residue_twice, .act = sweep},
    {.name = "finish a handover", .prepare = die_at_handover, .act = sweep},
    {.name = "residue into overflow", .prepare = leave_residue_when_full, .act = sweep, .tidy = raise_limit},
    {.name = "late gauges come back", .prepare = leave_late_gauges, .act = sweep, .check = late_gauges_are_there},
    {.name = "late gauges and successors",
     .prepare = leave_gauges_to_successors,
     .act = sweep,
     .check = late_gauges_are_there},
    {.name = "take over a slot", .prepare = die_in_slot, .act = take_over, .check = gauge_is_gone, .bare = true},
    {.name = "take a second slot", .act = second_slot},
    {.name = "give a slot back", .act = give_slot},
    {.name = "share slot 0",
     .prepare = sharing_crowd,
     .act = sharing_record,
     .tidy = sharing_disperse,
     .check = sharing_is_gone,
     .bare = true},
    {.name = "share a link that another VM left",
     .prepare = sharing_crowd_and_leave,
     .act = sharing_record,
     .tidy = sharing_disperse,
     .check = sharing_is_gone,
     .bare = true},
    {.name = "get a row",
     .prepare = sharing_crowd,
     .ready = sharing_vacate,
     .act = sharing_record,
     .tidy = sharing_disperse,
     .check = sharing_is_gone},
    {.name = "find the row of a dead VM",
     .prepare = sharing_crowd,
     .ready = sharing_orphan,
     .act = sharing_record,
     .tidy = sharing_disperse,
     .check = sharing_is_gone},
    {.name = "give back a row and a guest slot",
     .prepare = sharing_crowd,
     .ready = sharing_get_row,
     .act = sharing_close,
     .tidy = sharing_disperse,
     .check = sharing_is_gone},
    {.name = "reclaim a list of links",
     .prepare = sharing_crowd_and_drop,
     .act = sweep,
     .tidy = sharing_disperse,
     .check = sharing_is_gone},
    {.name = "late gauge of a guest comes back",
     .prepare = sharing_leave_late,
     .act = sweep,
     .tidy = sharing_disperse,
     .check = sharing_late_is_there},
    {.name = "late gauge of a guest and a successor",
     .prepare = sharing_leave_late_to_successor,
     .act = sweep,
     .tidy = sharing_disperse,
     .check = sharing_late_is_there},
    {.name = "late gauge of a guest and a vacant link",
     .prepare = sharing_leave_late_to_vacancy,
     .act = sweep,
     .tidy = sharing_disperse,
     .check = sharing_late_is_there},
    {.name = "define a metric", .act = define_new, .check = define_new},
    {.name = "refresh a definition", .act = refresh_blob, .check = refresh_blob},
    {.name = "supersede a definition", .prepare = define_old, .act = supersede},
    {.name = "a definition leaves", .prepare = abandon, .act = sweep_thrice, .check = define_again},
    {.name = "take a definition back", .act = take_back, .check = define_in_vain_again},
    {.name = "first commit", .prepare = cursors_record_some, .act = cursors_send_first, .sends = true},
    {.name = "further commit", .prepare = cursors_record_and_send, .act = cursors_send_first, .sends = true},
    {.name = "commit several", .prepare = cursors_record_several_and_send, .act = cursors_send_at_once, .sends = true},
    {.name = "commit a part", .prepare = cursors_record_and_send, .act = cursors_send_parts, .sends = true},
    {.name = "commit after a part",
     .prepare = cursors_record_and_send,
     .ready = cursors_send_parts,
     .act = cursors_send_first,
     .sends = true},
    {.name = "a later cursor", .prepare = cursors_record_some, .act = cursors_open_late, .check = cursors_open_late},
    {.name = "a cursor leaves", .prepare = cursors_age_cursor, .act = sweep, .check = cursors_sent_all_anew},
    {.name = "send and reclaim what was dropped",
     .prepare = cursors_drop_unsent,
     .act = cursors_send_and_sweep,
     .check = cursors_sent_what_was_dropped},
    {.name = "hold, flush, release", .act = flush, .check = serve_tickets},
    {.name = "switch the tap on", .prepare = bind_before, .act = switch_on, .tidy = events_go_on_after_switch},
    {.name = "first event", .prepare = switch_on, .act = record_events, .tidy = events_go_on},
    {.name = "a larger ring", .prepare = switch_on, .ready = outgrow, .act = record_events, .tidy = events_go_on},
    {.name = "read events, free a ring",
     .prepare = switch_on,
     .ready = outgrow_and_record,
     .act = read_and_free,
     .tidy = events_go_on},
};

/* Running */

static bool all;

static void sentence(char *out, size_t size, const char *what, unsigned long n, bool after, const notes *got) {
  snprintf(out, size, "%s, killed %s store %lu: %s", what, after ? "behind" : "before", n, got->wrong);
}

/* Runs a path to its end first, which counts its stores, then once for each store at which the victim is to die. */
static void test_path(void **state) {
  const path *p = *state;
  enum { SAMPLES = 12 };
  notes n;
  char wrong[1024];
  unsigned failures = 0, deaths = 0;
  uint32_t lost = 0;
  if (!bed_run(p, 0, false, &n)) fail_msg("%s: %s", p->name, n.wrong);
  if (n.stores < p->least)
    fail_msg("%s: only %u stores were seen: the core was compiled without them", p->name, n.stores);
  uint32_t stores = n.stores, usual = n.lost, step = all ? 1 : stores / SAMPLES + 1;
  for (int after = 0; after < 2; after++) {
    for (unsigned long i = all ? 1 : 1 + (unsigned long)after * step / 2; i <= stores; i += step) {
      if (!bed_run(p, i, after, &n)) {
        sentence(wrong, sizeof wrong, p->name, i, after, &n);
        if (failures++ < 20) print_message("%s\n", wrong);
      }
      deaths += !n.finished;
      if (n.lost > usual && n.lost - usual > lost) lost = n.lost - usual;
    }
  }
  print_message("%s: %u stores, %u deaths, at most %u bytes lost in one\n", p->name, stores, deaths, lost);
  if (failures) fail_msg("%u deaths did harm; the last: %s", failures, wrong);
}

int main(int argc, char **argv) {
  enum { PATHS = sizeof paths / sizeof *paths };
  all = argc > 1 && strcmp(argv[1], "--all") == 0;
  struct CMUnitTest tests[PATHS];
  size_t n = 0;
  for (size_t i = 0; i < PATHS; i++) {
    if (argc > 2 && !strstr(paths[i].name, argv[2])) continue;
    tests[n++] = (struct CMUnitTest){paths[i].name, test_path, NULL, NULL, (void *)&paths[i]};
  }
  return _cmocka_run_group_tests("deaths", tests, n, NULL, NULL);
}
