/*
 * What a user loses when this fails: records get lost, or are counted in the wrong series.
 *
 * An input is a program: it does everything that writers, the holder and exporters do with series. The same is done to
 * a model (model.h), and the segment must agree with it. Everything happens in one thread, so this target tries states
 * and not races; one race is played through: a writer is stopped between comparing the epoch and storing, and stores
 * later. Meanwhile the event tap is switched on and off, and must report exactly what was recorded, in its order
 * (watched.h).
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "fresh.h"
#include "model.h"
#include "open/recover.h"
#include "series/series.h"
#include "watched.h"
#include "record/writer.h"
#include "../die/consistent.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WRITERS_OPEN = 4, HANDLES = 8, NOBODY = 0x3fffffff, MOST_STEPS = 128, CROWD = 3 };

typedef struct handle {
  chalk_series *series;
  int writer, sort, tag;
} handle;

typedef struct bench {
  model m;
  kit kit;
  chalk_writer *writers[WRITERS_OPEN];
  handle handles[HANDLES];
  watched watched;
  /* A store into a count's cell that is still to come. Its writer does nothing until then. */
  struct {
    double *cell;
    int writer, sort, tag;
    uint32_t id, generation;
  } stopped;
  double now;
  bool crowded;
} bench;

/* Makes all slots but a few taken by another process, so that writers share slot 0. */
static void crowd(bench *b) {
  chalk_segment *g = b->m.g;
  for (uint32_t w = CROWD; w < WRITERS; w++) {
    atomic_store(&g->slots[w].taken, 1);
    atomic_store(&g->slots[w].owner.pid, 0);
  }
  atomic_store(&g->head->slot_top, WRITERS);
  b->crowded = true;
}

/* Inputs */

static double take_number(input *in) {
  static const double special[] = {0, 1, 2, 0.01, 100, BOUND, 0x1p-1030, 0x1p-1074, DBL_MAX, INFINITY, NAN};
  uint32_t how = take8(in);
  if (how < 22) return how & 1 ? special[how / 2] : -special[how / 2];
  if (how < 64) return as_double(take64(in));
  return ldexp(1 + take8(in) / 256.0, (int)how - 160) * (how & 1 ? 1 : -1);
}

static handle *take_handle(bench *b, input *in) { return &b->handles[take8(in) % HANDLES]; }

static bool is_stopped(const bench *b, int writer) { return b->stopped.cell && b->stopped.writer == writer; }

/* An open writer that is not stopped. NULL: the writer of that number is not. */
static chalk_writer *take_writer(bench *b, input *in, int *number) {
  *number = (int)(take8(in) % WRITERS_OPEN);
  return is_stopped(b, *number) ? NULL : b->writers[*number];
}

/* Writers */

static void open_writer(bench *b, input *in) {
  int i;
  chalk_writer *w = take_writer(b, in, &i);
  if (w || is_stopped(b, i)) return;
  w = b->writers[i] = must(chalk_writer_open(b->m.g, NULL));
  uint32_t slot = chalk_writer_slot(w);
  check(slot < SLOTS && (slot > 0 || b->crowded || b->m.starved) && (slot > 0 || w->guest > 0));
  model_open(&b->m, w);
  kit again = kit_define(w);
  check(memcmp(&again, &b->kit, sizeof again) == 0);
}

/* With `dead`: as if the writer's process was killed, so its slot is taken by a process that does not exist. */
static void close_writer(bench *b, input *in, bool dead) {
  int i;
  chalk_writer *w = take_writer(b, in, &i);
  if (!w) return;
  if (dead) {
    if (w->slot) atomic_store(&b->m.g->slots[w->slot].owner.pid, NOBODY);
    if (w->guest) atomic_store(&b->m.g->slots[w->guest].owner.pid, NOBODY);
    w->pid = 0;
  }
  model_close(&b->m, w);
  chalk_writer_close(w);
  b->writers[i] = NULL;
}

/* Series and records */

static void drop_handle(handle *h) {
  free(h->series);
  h->series = NULL;
}

static void new_handle(bench *b, input *in) {
  handle *h = take_handle(b, in);
  int i, sort = (int)(take8(in) % KINDS), tag = (int)(take8(in) % TAGS);
  chalk_writer *w = take_writer(b, in, &i);
  if (!w) return;
  drop_handle(h);
  *h = (handle){kit_series(w, &b->kit, sort, model_tags[tag]), i, sort, tag};
  check(h->series || b->m.starved);
}

/* Whether the limits allow a further series of this sort. */
static bool has_space(const bench *b, int sort) {
  const header *h = b->m.g->head;
  uint32_t narrow = 0;
  for (int tag = 0; tag < TAGS; tag++) narrow += model_find(&b->m, NARROW, tag) != NONE;
  return model_live(&b->m) < atomic_load((shared_u32 *)&h->max_series) && (sort != NARROW || narrow < NARROW_SERIES);
}

/* Checks the series into which a handle recorded: its own or, unless it `could` have one, the overflow series. */
static content *landed(bench *b, const handle *h, bool could) {
  const chalk_series *s = h->series;
  if (s->series < METRICS) {
    check(s->series == s->metric && (!could || h->sort >= PLAIN || b->m.starved));
  } else {
    check(model_has(b->m.g, s->series, s->generation) && model_find(&b->m, h->sort, h->tag) == s->series);
  }
  return model_content(&b->m, h->sort, s, h->tag);
}

static void note_value(content *p, double v) {
  if (p->n < VALUES) p->values[p->n] = v;
  p->n++;
}

/* `vm` is VMS for a gauge that has one value for all VMs. */
static void note_gauge(content *p, int vm, double v, bool add) {
  double *value = &p->value;
  if (vm < VMS) value = &p->by_vm[vm].value, p->by_vm[vm].set = true;
  *value = add ? *value + v : v;
  p->set = true;
}

static int record_one(chalk_series *s, uint32_t kind, double v, bool add) {
  if (kind == CHALK_HISTOGRAM) return chalk_record(s, v);
  return kind == CHALK_COUNT || add ? chalk_add(s, v) : chalk_set(s, v);
}

static void record(bench *b, handle *h, double v, bool add) {
  chalk_series *s = h->series;
  if (!s || is_stopped(b, h->writer)) return;
  uint32_t kind = kit_kind(h->sort);
  if (kind == CHALK_COUNT && isfinite(v)) v = floor(fabs(fmod(v, 0x1p40)));
  bool could = model_find(&b->m, h->sort, h->tag) != NONE || has_space(b, h->sort);
  int64_t before = kind == CHALK_HISTOGRAM ? model_total(&b->m, h->sort) : 0;
  watched_before(&b->watched);
  int rc = record_one(s, kind, v, add);
  watched_after(&b->watched, s, rc, kind == CHALK_GAUGE && !add ? CHALK_EVENT_SET : 0, v);
  if (kind != CHALK_GAUGE && !isfinite(v)) check(rc < 0);
  if (rc < 0) {
    check(rc == CHALK_ENUMBER || rc == CHALK_ECLOSED || (rc == CHALK_EMEMORY && b->m.starved));
    /* A histogram may have counted the value, without memory for a new bucket of its sketch. */
    if (kind != CHALK_HISTOGRAM || model_total(&b->m, h->sort) == before) return;
  }
  content *p = landed(b, h, could);
  p->lossy = p->lossy || rc < 0;
  p->touched = (kind != CHALK_COUNT || v > 0) && s->series >= METRICS && h->sort != TOGETHER && h->sort != HIGHEST;
  if (kind == CHALK_GAUGE) note_gauge(p, h->sort == GAUGE ? VMS : model_vm(&b->m, s->writer), v, add);
  if (kind == CHALK_HISTOGRAM) note_value(p, v);
  if (kind == CHALK_COUNT) p->count += (int64_t)v;
  b->m.added[h->sort] += kind == CHALK_COUNT ? (int64_t)v : kind == CHALK_HISTOGRAM;
}

/* Compares the epoch as an inlined record does, and does not store yet. */
static void stop(bench *b, input *in) {
  handle *h = take_handle(b, in);
  chalk_series *s = h->series;
  if (b->stopped.cell || !s || kit_kind(h->sort) != CHALK_COUNT || !b->writers[h->writer]) return;
  if (s->writer != b->writers[h->writer] || *s->shared + *s->own != s->epoch) return;
  b->stopped.cell = s->cell;
  b->stopped.writer = h->writer;
  b->stopped.sort = h->sort;
  b->stopped.tag = s->series < METRICS ? FOLDED : h->tag;
  b->stopped.id = s->series;
  b->stopped.generation = s->generation;
}

static void go_on(bench *b, uint32_t n) {
  if (!b->stopped.cell) return;
  model *m = &b->m;
  int sort = b->stopped.sort, tag = sort >= PLAIN ? 0 : b->stopped.tag;
  content *p = &m->contents[sort][tag];
  *b->stopped.cell += n;
  m->added[sort] += n;
  if (b->stopped.tag == FOLDED || model_has(m->g, b->stopped.id, b->stopped.generation)) {
    p->count += n;
    p->touched = p->touched || (n > 0 && b->stopped.tag != FOLDED);
  } else {
    /* The cell must not be reused yet. What it has now goes to the successor, or to the overflow series. */
    check(atomic_load(&m->g->series[b->stopped.id].generation) == b->stopped.generation);
    p->residue += n;
    m->contents[sort][FOLDED].residue += n;
    m->late = true;
  }
  b->stopped.cell = NULL;
}

/* The holder and the exporters */

static void remove_series(bench *b, input *in) {
  int i, sort = (int)(take8(in) % KINDS), tag = (int)(take8(in) % TAGS);
  chalk_writer *w = take_writer(b, in, &i);
  if (!w) return;
  uint32_t id = model_find(&b->m, sort, tag);
  model_before(&b->m);
  kit_remove(w, &b->kit, sort, model_tags[tag]);
  model_after(&b->m, false);
  check(id == NONE || b->m.starved || model_find(&b->m, sort, tag) == NONE);
}

static void clear(bench *b, input *in) {
  int i, sort = (int)(take8(in) % KINDS);
  chalk_writer *w = take_writer(b, in, &i);
  if (!w) return;
  model_before(&b->m);
  chalk_clear(w, (uint32_t)b->kit.metrics[sort]);
  model_after(&b->m, false);
}

static void sweep(bench *b, double seconds, double idle) {
  model *m = &b->m;
  b->now += seconds;
  model_before(m);
  kit_sweep(m->g, b->now, idle);
  model_after(m, true);
  for (int sort = 0; sort < KINDS; sort++) {
    for (int tag = 0; tag < CONTENTS; tag++) m->contents[sort][tag].touched = false;
  }
  for (uint32_t c = 0; c < TRACKED; c++) {
    tracked *t = &m->cursors[c];
    if (!t->cursor) continue;
    bool there = false;
    for (uint32_t i = 0; i < CURSORS; i++) {
      const cursor_head *h = &m->g->cursors[i];
      there = there || (atomic_load((shared_u32 *)&h->state) && h->name_size == 1 && h->name[0] == (char)('0' + c));
    }
    if (there) continue;
    chalk_cursor_close(t->cursor);
    memset(t, 0, sizeof *t);
  }
}

static void open_cursor(bench *b, input *in) {
  uint32_t c = take8(in), fresh_one = c & 128;
  c %= TRACKED;
  model *m = &b->m;
  tracked *t = &m->cursors[c];
  char name[2] = {(char)('0' + c), 0};
  bool known = t->cursor != NULL;
  if (known) chalk_cursor_close(t->cursor);
  t->cursor = chalk_cursor_open(m->g, name, fresh_one != 0, b->now, NULL);
  check(t->cursor || m->starved);
  if (!t->cursor) memset(t, 0, sizeof *t);
  if (!t->cursor || known) return;
  /* A cursor owes what it sees at first. A cursor that starts at the totals owes nothing. */
  int64_t deltas[KINDS];
  chalk_snapshot *s = must(chalk_snapshot_take(m->g, 1, NULL));
  model_deltas(m, t, s, deltas);
  chalk_snapshot_free(s);
  for (int sort = 0; sort < KINDS; sort++) {
    check(fresh_one || deltas[sort] == 0);
    if (kit_kind(sort) != CHALK_GAUGE) t->base[sort] = m->dropped[sort] + model_total(m, sort) - deltas[sort];
  }
}

static void flush(bench *b, input *in) {
  model *m = &b->m;
  tracked *t = &m->cursors[take8(in) % TRACKED];
  uint32_t first = take8(in) % 16, last = first + take8(in);
  if (!t->cursor) return;
  int64_t before[KINDS], after[KINDS];
  chalk_snapshot *s = must(chalk_snapshot_take(m->g, 1, NULL));
  model_check_cursor(m, t, s);
  model_deltas(m, t, s, before);
  int rc = chalk_cursor_commit(t->cursor, s, first, last, b->now);
  check(rc == CHALK_OK || m->starved);
  model_deltas(m, t, s, after);
  for (int sort = 0; sort < KINDS; sort++) {
    check(after[sort] <= before[sort]);
    t->sent[sort] += before[sort] - after[sort];
  }
  chalk_snapshot_free(s);
}

static void configure(bench *b, input *in) {
  static const uint32_t buckets[] = {8, 16, 64, 512}, series[] = {2, 5, 10, 1000};
  static const double errors[] = {0.0001, 0.001, 0.01, 0.5};
  uint32_t how = take8(in);
  chalk_options o = {.max_buckets = buckets[how & 3], .initial_error = errors[how >> 2 & 3]};
  if (how & 128) o = (chalk_options){.max_series = series[how & 3]};
  check(chalk_segment_configure(b->m.g, &o, NULL) == CHALK_OK);
}

/* Sets the memory limit: to plenty, to the memory in use, or to a little more, which is kept for overflow series. */
static void starve(bench *b, input *in) {
  header *h = b->m.g->head;
  uint64_t had = atomic_load(&h->memory);
  uint32_t how = take8(in) % 3;
  if (how) b->m.starved = true;
  atomic_store(&h->memory_limit, how == 0 ? 64 << 20 : how == 1 ? had : had + had / 12);
}

/* Records often: a few such steps fill a ring. */
static void record_many(bench *b, input *in) {
  handle *h = take_handle(b, in);
  uint32_t n = CHALK_TAP_LEAST / 64 * (take8(in) % 32);
  for (uint32_t i = 0; h->sort == COUNT && i < n; i++) record(b, h, i % 3, false);
}

/* Private sketches */

static void merge(input *in) {
  chalk_sketch *k[2];
  double values[VALUES];
  uint32_t n = 0, split = take8(in) % 16, all = split + take8(in) % 32;
  for (int i = 0; i < 2; i++) k[i] = must(chalk_sketch_new(i ? 0.001 : 0.02, 8 + take8(in)));
  for (uint32_t i = 0; i < all; i++) {
    double v = take_number(in);
    if (chalk_sketch_add(k[i < split], v, 1) == CHALK_OK)
      values[n++] = v;
    else
      check(!isfinite(v));
  }
  check(chalk_sketch_merge(k[0], k[1]) == CHALK_OK);
  model_check_sketch(k[0], values, n);
  chalk_sketch_free(k[0]), chalk_sketch_free(k[1]);
}

/* One step */

static void step(bench *b, input *in) {
  handle *h;
  int i;
  uint32_t what = take8(in);
  switch (what < 240 ? what % 20 : 20 + what % 3) {
    case 0:
      open_writer(b, in);
      break;
    case 1:
      close_writer(b, in, false);
      break;
    case 2:
      close_writer(b, in, true);
      break;
    case 3:
      remove_series(b, in);
      break;
    case 4:
      clear(b, in);
      break;
    case 5:
      i = (int)take8(in);
      sweep(b, i, i & 1 ? 10 : 0);
      break;
    case 6:
      sweep(b, take16(in), 60);
      break;
    case 7: {
      chalk_writer *w = take_writer(b, in, &i);
      if (w) chalk_writer_tick(w);
      break;
    }
    case 8:
      stop(b, in);
      break;
    case 9:
      go_on(b, take8(in));
      break;
    case 10:
      open_cursor(b, in);
      break;
    case 11:
      flush(b, in);
      break;
    case 12:
      configure(b, in);
      break;
    case 13:
      starve(b, in);
      break;
    case 14:
      h = take_handle(b, in);
      if (h->series && !is_stopped(b, h->writer)) chalk_rebind(h->series);
      break;
    case 15:
      merge(in);
      break;
    case 16:
      h = take_handle(b, in);
      for (i = (int)take8(in) % 32; i > 0; i--) record(b, h, take_number(in), false);
      break;
    case 17:
      new_handle(b, in);
      break;
    case 18:
      h = take_handle(b, in);
      record(b, h, take_number(in), true);
      break;
    case 20:
      watched_read(&b->watched, take8(in));
      break;
    case 21:
      watched_switch(&b->watched, take8(in));
      break;
    case 22:
      record_many(b, in);
      break;
    default:
      h = take_handle(b, in);
      record(b, h, take_number(in), false);
  }
}

/* Drops everything. No series and no memory may be left. */
static void end(bench *b) {
  model *m = &b->m;
  go_on(b, 1);
  watched_end(&b->watched);
  atomic_store(&m->g->head->memory_limit, 64 << 20);
  for (int i = 0; i < HANDLES; i++) drop_handle(&b->handles[i]);
  for (int i = 0; i < WRITERS_OPEN; i++) {
    if (b->writers[i]) chalk_writer_close(b->writers[i]);
  }
  for (uint32_t round = 0; round < 3 && (model_live(m) > 0 || atomic_load(&m->g->head->quarantined) > 0); round++) {
    model_before(m);
    for (int sort = 0; sort < KINDS; sort++) series_drop_metric(m->g, (uint32_t)b->kit.metrics[sort]);
    model_after(m, false);
    sweep(b, 1e4, 1), sweep(b, 1e4, 1);
  }
  model_check(m);
  check(model_live(m) == 0 && atomic_load(&m->g->head->quarantined) == 0);
  for (int sort = 0; sort < KINDS; sort++) {
    if (kit_kind(sort) != CHALK_GAUGE && !m->starved) check(m->dropped[sort] + model_total(m, sort) == m->added[sort]);
  }
  census c;
  const char *wrong = consistent(m->g, &c);
  if (wrong || c.lost) fprintf(stderr, "%s, %llu bytes lost\n", wrong ? wrong : "whole", (unsigned long long)c.lost);
  check(!wrong && c.lost == 0);
  for (int i = 0; i < TRACKED; i++) {
    if (m->cursors[i].cursor) chalk_cursor_close(m->cursors[i].cursor);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static bench b;
  memset(&b, 0, sizeof b);
  model_new(&b.m, fresh_segment());
  watched_new(&b.watched, b.m.g);
  b.now = 1;
  for (int i = 0; i < KINDS; i++) b.kit.metrics[i] = i;
  input in = {data, size};
  uint32_t how = take8(&in);
  if (how % 8 == 1) crowd(&b); /* seldom, because readers then go through all slots */
  open_writer(&b, &in);
  for (int i = 0; in.n > 0 && i < MOST_STEPS; i++) {
    step(&b, &in);
    if ((how & 6) == 2) model_check(&b.m);
  }
  model_check(&b.m);
  check(recover_check(b.m.g));
  end(&b);
  fresh_again();
  return 0;
}
