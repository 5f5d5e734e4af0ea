#include "bed.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exposition.h"
#include "runtime.h"
#include "sweep.h"

enum { DEADLINE = 30, ROUND = 10, SLOT_OF_VICTIM = 3 };

void bed_fail(bed *b, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(b->notes->wrong, sizeof b->notes->wrong, format, args);
  va_end(args);
  _exit(1);
}

/* For paths */

chalk_series *bed_bind(bed *b, int metric, const char *value) {
  size_t size = strlen(value);
  chalk_series *s = chalk_series_new(b->writer, (uint32_t)metric, &value, &size);
  if (!s) bed_fail(b, "no series for %s", value);
  return s;
}

int bed_define(bed *b, const char *name, uint32_t kind, uint32_t across, const char *blob) {
  static const double bounds[] = {1, 10, 100};
  size_t size = strlen(name);
  chalk_definition d = {.name = name,
                        .shape = name,
                        .blob = blob,
                        .name_size = size,
                        .shape_size = size,
                        .blob_size = strlen(blob),
                        .le = bounds,
                        .kind = kind,
                        .across = across,
                        .tags = 1,
                        .les = kind == CHALK_HISTOGRAM ? 3 : 0};
  return chalk_define(b->writer, &d, NULL);
}

void bed_add(bed *b, chalk_series *s) {
  atomic_fetch_add(&b->notes->begun, 1);
  chalk_add(s, 1);
  atomic_fetch_add(&b->notes->done, 1);
}

void bed_record(bed *b, chalk_series *s, double v) {
  atomic_fetch_add(&b->notes->begun, 1);
  chalk_record(s, v);
  atomic_fetch_add(&b->notes->done, 1);
}

void bed_sweep(bed *b, double idle) {
  EXPECT(chalk_hold(b->segment, chalk_generation(b->segment, 0)) == 1);
  chalk_snapshot *s = chalk_snapshot_take(b->segment, 1, NULL);
  EXPECT(s);
  sweep_all(s, b->now, idle);
  chalk_snapshot_free(s);
  chalk_release(b->segment);
  b->now += 1000;
}

int64_t bed_total(bed *b, int metric) {
  chalk_snapshot *s = chalk_snapshot_take(b->segment, 0, NULL);
  EXPECT(s);
  uint32_t n;
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  int64_t total = 0;
  for (uint32_t i = 0; i < n; i++) total += entries[i].metric == (uint32_t)metric ? entries[i].total : 0;
  chalk_snapshot_free(s);
  return total;
}

sending bed_begin_sending(bed *b, const char *name, bool fresh) {
  EXPECT(chalk_hold(b->segment, chalk_generation(b->segment, 0)) == 1);
  sending t = {.cursor = chalk_cursor_open(b->segment, name, fresh, b->now, NULL)};
  EXPECT(t.cursor);
  t.snapshot = chalk_snapshot_take(b->segment, 1, NULL);
  EXPECT(t.snapshot);
  t.entries = chalk_snapshot_entries(t.snapshot, &t.n);
  return t;
}

void bed_end_sending(bed *b, const sending *t) {
  chalk_snapshot_free(t->snapshot);
  chalk_cursor_close(t->cursor);
  chalk_release(b->segment);
}

void bed_send(bed *b, const char *name, bool fresh) {
  sending t = bed_begin_sending(b, name, fresh);
  /* Each entry is a batch of its own. */
  for (uint32_t i = 0; i < t.n; i++) {
    int64_t delta = chalk_cursor_delta(t.cursor, t.snapshot, i);
    bool histogram = t.entries[i].metric == (uint32_t)b->latency;
    if (histogram) {
      chalk_sketch *k = chalk_cursor_delta_sketch(t.cursor, t.snapshot, i);
      EXPECT(k);
      delta = (int64_t)chalk_sketch_count(k);
      chalk_sketch_free(k);
    }
    if (histogram || t.entries[i].metric == (uint32_t)b->count) {
      if ((uint64_t)delta > atomic_load(&b->notes->batch)) atomic_store(&b->notes->batch, (uint64_t)delta);
      atomic_fetch_add(&b->notes->sent[histogram], (uint64_t)delta);
    }
    EXPECT(chalk_cursor_commit(t.cursor, t.snapshot, i, i + 1, b->now) == CHALK_OK);
  }
  bed_end_sending(b, &t);
}

/* The bystander */

static void bystander_round(bed *b, uint32_t round) {
  static chalk_series *kept, *timed, *level;
  if (!kept) kept = bed_bind(b, b->count, "by"), timed = bed_bind(b, b->latency, "by");
  if (!level) level = bed_bind(b, b->load, "by");
  for (int i = 0; i < ROUND; i++) {
    char tag[32];
    snprintf(tag, sizeof tag, "by%u-%d", round, i);
    chalk_series *new = bed_bind(b, i % 2 ? b->count : b->latency, tag);
    if (chalk_add(kept, 1) < 0 || chalk_record(timed, 1 + i * 7) < 0 || chalk_set(level, i) < 0) _exit(2);
    if ((i % 2 ? chalk_add(new, 1) : chalk_record(new, i)) < 0) _exit(2);
    free(new);
  }
  atomic_fetch_add(&b->notes->counted, ROUND + ROUND / 2);
}

static void bystander(bed *b) {
  char command;
  for (uint32_t round = 0; read(b->go[0], &command, 1) == 1;) {
    if (command == 'r') bystander_round(b, round++);
    if (command == 't') chalk_writer_tick(b->writer);
    if (write(b->answer[1], &command, 1) != 1) break;
  }
  _exit(0);
}

static void ask(bed *b, char command) { EXPECT(write(b->go[1], &command, 1) == 1); }

static void await(bed *b) {
  char command;
  struct pollfd p = {.fd = b->answer[0], .events = POLLIN};
  int rc;
  do rc = poll(&p, 1, DEADLINE * 1000);
  while (rc < 0 && errno == EINTR);
  if (rc != 1) bed_fail(b, "the bystander hangs");
  EXPECT(read(b->answer[0], &command, 1) == 1);
}

void bed_tick(bed *b) {
  chalk_writer_tick(b->writer);
  ask(b, 't');
  await(b);
}

static pid_t fork_party(void) {
  pid_t pid = fork();
  if (pid == 0) prctl(PR_SET_PDEATHSIG, SIGKILL);
  return pid;
}

/* Checks */

static void check_exposition(bed *b) {
  size_t size;
  char *text = exposition_render(b->segment, &size);
  EXPECT(text);
  const char *bad = exposition_check(text, size);
  if (bad) bed_fail(b, "not a line of an exposition: %s", bad);
  free(text);
}

/* Counts and sketches may differ by the one record in which the victim died. */
static void check_sketches(bed *b) {
  chalk_snapshot *s = chalk_snapshot_take(b->segment, 0, NULL);
  uint32_t n;
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  int64_t differ = 0;
  for (uint32_t i = 0; i < n; i++) {
    if (entries[i].metric != (uint32_t)b->latency) continue;
    int64_t d = (int64_t)chalk_sketch_count(chalk_snapshot_sketch(s, i)) - entries[i].total;
    differ += d < 0 ? -d : d;
  }
  chalk_snapshot_free(s);
  if (differ > 1) bed_fail(b, "sketches and counts differ by %d", (int)differ);
}

static void check_totals(bed *b) {
  notes *n = b->notes;
  int64_t counts = bed_total(b, b->count), latencies = bed_total(b, b->latency),
          each = (int64_t)atomic_load(&n->counted);
  int64_t victims = counts + latencies - b->counts - b->latencies - 2 * each;
  if (victims < (int64_t)atomic_load(&n->done) || victims > (int64_t)atomic_load(&n->begun)) {
    bed_fail(b, "counted %lld and %lld; of the victim %lld, of the bystander %lld each, of others %lld and %lld",
             (long long)counts, (long long)latencies, (long long)atomic_load(&n->done), (long long)each,
             (long long)b->counts, (long long)b->latencies);
  }
}

static void check_whole(bed *b, const char *when) {
  census c;
  const char *wrong = consistent(b->segment, &c);
  if (wrong) bed_fail(b, "%s: %s", when, wrong);
  atomic_store(&b->notes->lost, (uint32_t)c.lost);
}

/* A new VM takes over the slot of the dead victim, and can create series in every stripe. */
static void check_succession(bed *b) {
  chalk_writer *w = chalk_writer_open(b->segment, NULL);
  EXPECT(w);
  if (chalk_writer_slot(w) > SLOT_OF_VICTIM) bed_fail(b, "slot %u was taken", chalk_writer_slot(w));
  int metric = bed_define(b, "after_total", CHALK_COUNT, 0, "after_total");
  EXPECT(metric >= 0);
  uint64_t stripes = 0;
  for (uint32_t i = 0; ~stripes && i < 4096; i++) {
    char tag[16];
    snprintf(tag, sizeof tag, "new%u", i);
    chalk_series *s = bed_bind(b, metric, tag);
    if (chalk_add(s, 1) < 0) bed_fail(b, "no record in a new series");
    stripes |= 1ull << (b->segment->series[s->series].hash >> 58);
    free(s);
  }
  EXPECT(~stripes == 0);
  chalk_writer_close(w);
}

static void check_sent(bed *b) {
  bed_send(b, "sender", true);
  notes *n = b->notes;
  int64_t each = (int64_t)atomic_load(&n->counted), batch = (int64_t)atomic_load(&n->batch);
  int64_t counts = b->counts + each, latencies = b->latencies + each;
  int64_t more = (int64_t)(atomic_load(&n->sent[0]) + atomic_load(&n->sent[1])) - counts - latencies -
                 (int64_t)atomic_load(&n->done);
  if (more < 0 || more > batch + 1)
    bed_fail(b, "%lld more sent than counted, in a batch %lld", (long long)more, (long long)batch);
}

/* All series can be dropped and reclaimed, and their memory is free again. */
static void check_departure(bed *b) {
  for (uint32_t m = 0; m < chalk_metric_top(b->segment); m++) chalk_clear(b->writer, m);
  for (int i = 0; i < 3; i++) {
    bed_tick(b);
    bed_sweep(b, 0);
  }
  chalk_info info;
  chalk_segment_info(b->segment, &info);
  if (info.series || info.quarantined) bed_fail(b, "%u series and %u dropped ones stay", info.series, info.quarantined);
  check_whole(b, "in the end");
}

static void check_all(bed *b, const path *p) {
  ask(b, 'r');
  check_exposition(b);
  await(b);
  if (p->tidy) p->tidy(b);
  check_succession(b);
  bed_tick(b);
  bed_sweep(b, 0);
  check_whole(b, "after the death");
  check_totals(b);
  check_sketches(b);
  check_exposition(b);
  if (p->sends) check_sent(b);
  if (p->check) p->check(b);
  check_departure(b);
}

/* The case */

static void victim(bed *b, const path *p, unsigned long n, bool after) {
  if (!p->bare) free(bed_bind(b, b->last, "victim")); /* takes its slot */
  if (p->ready) p->ready(b);
  die_arm(b->segment->base, b->segment->size, n, after);
  p->act(b);
  atomic_store(&b->notes->stores, (uint32_t)die_disarm());
  atomic_store(&b->notes->finished, 1);
  _exit(0);
}

static void run_case(bed *b, const path *p, unsigned long n, bool after) {
  alarm(DEADLINE + 10);
  chalk_options o = {.max_buckets = p->buckets, .memory_limit = 64 << 20, .max_series = 20000};
  b->segment = chalk_segment_open(NULL, &o, NULL);
  b->writer = b->segment ? chalk_writer_open(b->segment, NULL) : NULL;
  EXPECT(b->writer);
  b->now = 1000;
  b->count = bed_define(b, "count_total", CHALK_COUNT, 0, "count_total");
  b->latency = bed_define(b, "latency", CHALK_HISTOGRAM, 0, "latency");
  b->load = bed_define(b, "load", CHALK_GAUGE, CHALK_SUM, "load");
  b->last = bed_define(b, "last_load", CHALK_GAUGE, CHALK_LAST, "last_load");
  EXPECT(pipe(b->go) == 0 && pipe(b->answer) == 0);
  pid_t by = fork_party();
  if (by == 0) bystander(b);
  ask(b, 'r');
  await(b);
  if (p->prepare) p->prepare(b);
  ask(b, 'r');
  pid_t pid = fork_party();
  if (pid == 0) victim(b, p, n, after);
  int status;
  EXPECT(waitpid(pid, &status, 0) == pid);
  bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  if (!killed && !atomic_load(&b->notes->finished))
    bed_fail(b, "the victim: %s", *b->notes->wrong ? b->notes->wrong : "crashed");
  await(b);
  check_all(b, p);
  _exit(0);
}

bool bed_run(const path *p, unsigned long n, bool after, notes *out) {
  notes *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return false;
  pid_t pid = fork_party();
  if (pid == 0) run_case(&(bed){.notes = shared}, p, n, after);
  int status = 0;
  waitpid(pid, &status, 0);
  bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (!good && !*shared->wrong) {
    snprintf(shared->wrong, sizeof shared->wrong,
             WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "a deadlock" : "a crash, status %d", status);
  }
  memcpy(out, shared, sizeof *out);
  munmap(shared, sizeof *shared);
  return good;
}
