#include <stdlib.h>
#include <string.h>

#include "read/cursor.h"
#include "shm/process.h"
#include "shm/role.h"
#include "series/number.h"
#include "read/snapshot.h"
#include "value/kind.h"
#include "value/stored.h"

enum { DAY = 86400 };

struct chalk_cursor {
  chalk_segment *segment;
  uint32_t number;
  chalk_sketch before; /* what was sent of the entry under way */
};

static cursor_head *head_of(const chalk_cursor *c) { return &c->segment->cursors[c->number]; }

static void forget(chalk_segment *g, uint32_t number) {
  cursor_head *h = &g->cursors[number];
  atomic_store(&h->state, 0);
  for (uint32_t id = 0, top = series_top(g); id < top; id++) {
    if (!segment_chunk_real(g, h->chunks, id)) continue;
    baseline *b = segment_baseline(g, number, id);
    uint64_t total = atomic_exchange(&b->total, 0);
    bool own = atomic_load(&b->generation) == atomic_load(&g->series[id].generation);
    atomic_store(&b->generation, 0);
    if (own && kind_has_histogram(segment_metric_of(g, id)->kind)) stored_give(g, total);
  }
}

static uint32_t find(chalk_segment *g, const char *name, size_t size, bool *known) {
  uint32_t free_one = NONE;
  for (uint32_t i = 0; i < CURSORS; i++) {
    cursor_head *h = &g->cursors[i];
    if (!atomic_load(&h->state)) {
      if (free_one == NONE) free_one = i;
    } else if (h->name_size == size && memcmp(h->name, name, size) == 0) {
      *known = true;
      return i;
    }
  }
  *known = false;
  return free_one;
}

static int commit(chalk_cursor *c, chalk_snapshot *s, uint32_t first, uint32_t last, double now);

/* A new cursor that is not the first starts at what all series stand at. */
static int start_at_totals(chalk_cursor *c, double now, char *message) {
  chalk_snapshot *s = chalk_snapshot_take(c->segment, 1, message);
  if (!s) return CHALK_EMEMORY;
  int e = commit(c, s, 0, s->n, now);
  if (e != CHALK_OK) process_say(message, "no room for an exporter's cursor");
  chalk_snapshot_free(s);
  return e;
}

static chalk_cursor *open_cursor(chalk_segment *g, const char *name, int fresh, double now, char *message) {
  size_t size = strlen(name);
  bool known = false;
  uint32_t number = size < sizeof g->cursors[0].name ? find(g, name, size, &known) : NONE;
  if (number == NONE && size < sizeof g->cursors[0].name) {
    cursor_sweep(g, now);
    number = find(g, name, size, &known);
  }
  chalk_cursor *c = number == NONE ? NULL : malloc(sizeof *c);
  if (!c) {
    process_say(message,
                number == NONE ? "no cursor for %s: at most %d exporters, names below 240 bytes" : "out of memory",
                name, CURSORS);
    return NULL;
  }
  *c = (chalk_cursor){.segment = g, .number = number};
  cursor_head *h = head_of(c);
  if (!known) forget(g, number); /* somebody may have died, or failed, at filling it */
  if (!known && !fresh && start_at_totals(c, now, message) != CHALK_OK) {
    chalk_cursor_close(c);
    return NULL;
  }
  if (!known) {
    h->name_size = (uint32_t)size;
    memcpy(h->name, name, size);
  }
  h->used = now;
  /* In this order: who dies in between leaves a cursor, and not the belief that there was one. */
  atomic_store_explicit(&h->state, 1, memory_order_release);
  atomic_store(&g->head->cursors_ever, 1);
  return c;
}

chalk_cursor *chalk_cursor_open(chalk_segment *g, const char *name, int fresh, double now, char *message) {
  if (!role_enter(g)) {
    process_say(message, "the flusher's role is another process's");
    return NULL;
  }
  chalk_cursor *c = open_cursor(g, name, fresh, now, message);
  role_leave(g);
  return c;
}

void chalk_cursor_close(chalk_cursor *c) {
  sketch_free_sides(&c->before);
  free(c);
}

void chalk_cursor_touch(chalk_cursor *c, double now) {
  if (!role_enter(c->segment)) return;
  head_of(c)->used = now;
  role_leave(c->segment);
}

void cursor_sweep(chalk_segment *g, double now) {
  for (uint32_t i = 0; i < CURSORS; i++) {
    if (atomic_load(&g->cursors[i].state) && now - g->cursors[i].used > DAY) forget(g, i);
  }
}

int chalk_cursors_ever(chalk_segment *g) {
  bool any = false;
  for (uint32_t i = 0; i < CURSORS; i++) any = any || atomic_load(&g->cursors[i].state);
  return any || atomic_load(&g->head->cursors_ever);
}

/* The total or block that was sent of this entry; 0 when nothing was, as without a cursor. */
static uint64_t sent_of(const chalk_cursor *c, const chalk_entry *e) {
  return c ? stored_sent(c->segment, c->number, e->series, e->generation) : 0;
}

static uint32_t kind_at(const chalk_cursor *c, const chalk_entry *e) { return c->segment->metrics[e->metric].kind; }

int64_t chalk_cursor_delta(chalk_cursor *c, chalk_snapshot *s, uint32_t i) {
  if (i >= s->n) return 0;
  const chalk_entry *e = &s->entries[i];
  chalk_segment *g = s->segment;
  uint32_t kind = g->metrics[e->metric].kind;
  uint64_t sent = sent_of(c, e);
  int64_t d = e->total - stored_total(g, sent, kind);
  if (d <= 0 && e->dropped && kind_has_histogram(kind)) {
    uint64_t at_drop = atomic_load(&g->series[e->series].at_drop);
    d = (int64_t)(stored_sketched(g, at_drop, kind) - stored_sketched(g, sent, kind));
  }
  return d > 0 ? d : 0;
}

static int load_before(chalk_cursor *c, uint64_t sent) {
  sketch_clear(&c->before);
  return sent ? stored_sketch(c->segment, sent, &c->before) : CHALK_OK;
}

int cursor_subtract(chalk_cursor *c, chalk_snapshot *s, uint32_t i, chalk_sketch *d) {
  static const chalk_sketch nothing = {.scale = SKETCH_MOST_SCALE};
  const snapshot_detail *now = snapshot_detail_of(s, i);
  if (!now) return CHALK_EMEMORY;
  if (!c) return sketch_subtract(d, &now->sketch, &nothing);
  if (load_before(c, sent_of(c, &s->entries[i])) != CHALK_OK) return CHALK_EMEMORY;
  return sketch_subtract(d, &now->sketch, &c->before);
}

chalk_sketch *chalk_cursor_delta_sketch(chalk_cursor *c, chalk_snapshot *s, uint32_t i) {
  if (i >= s->n) return NULL;
  chalk_sketch *d = sketch_new(SKETCH_MOST_SCALE, 0);
  if (d && cursor_subtract(c, s, i, d) == CHALK_OK) {
    sketch_clip(d, chalk_snapshot_sketch(s, i));
    return d;
  }
  chalk_sketch_free(d);
  return NULL;
}

uint32_t chalk_cursor_delta_les(chalk_cursor *c, chalk_snapshot *s, uint32_t i, uint64_t *counts) {
  if (i >= s->n) return 0;
  const snapshot_detail *d = snapshot_detail_of(s, i);
  histogram_sum before = {0};
  uint64_t sent = sent_of(c, &s->entries[i]);
  if (!d || (sent && stored_load(c->segment, sent, &before, NULL) != CHALK_OK)) return 0;
  for (uint32_t j = 0; j <= d->sum.les; j++) {
    counts[j] = d->sum.le[j] > before.le[j] ? d->sum.le[j] - before.le[j] : 0;
  }
  return d->sum.les + 1;
}

/* Whether `old` says all that was sent: what was read for the entry if it was, else what it stood at. */
static bool is_stored(const chalk_cursor *c, const chalk_snapshot *s, uint32_t i, uint64_t old) {
  const chalk_entry *e = &s->entries[i];
  uint32_t kind = kind_at(c, e);
  if (!kind_has_histogram(kind)) return (int64_t)old == e->total;
  if (!old) return false;
  const snapshot_detail *d = s->details ? s->details[i] : NULL;
  return d ? stored_is(c->segment, old, &d->sum, &d->sketch) : stored_total(c->segment, old, kind) == e->total;
}

/* The entry's baseline, and what it says; NULL: it is not real, and cannot be made so. */
static baseline *baseline_of(chalk_cursor *c, const chalk_entry *e, bool *same, uint64_t *sent) {
  chalk_segment *g = c->segment;
  uint64_t row = segment_offset(g, segment_baseline(g, c->number, 0));
  if (!segment_chunk_real(g, head_of(c)->chunks, e->series) &&
      segment_chunk_make(g, head_of(c)->chunks, row, sizeof(baseline), e->series, false) != CHALK_OK) {
    return NULL;
  }
  baseline *b = segment_baseline(g, c->number, e->series);
  *same = atomic_load(&b->generation) == e->generation;
  *sent = *same ? atomic_load(&b->total) : 0;
  return b;
}

static void publish(baseline *b, const chalk_entry *e, bool same, uint64_t total) {
  if (!same) {
    atomic_store(&b->total, 0);
    atomic_store(&b->generation, e->generation);
  }
  atomic_store_explicit(&b->total, total, memory_order_release);
}

static int commit_one(chalk_cursor *c, chalk_snapshot *s, uint32_t i, uint64_t *by) {
  const chalk_entry *e = &s->entries[i];
  uint32_t kind = kind_at(c, e);
  if (kind_has_value(kind)) return CHALK_OK;
  bool same;
  uint64_t old, total = (uint64_t)e->total;
  baseline *b = baseline_of(c, e, &same, &old);
  if (!b) return CHALK_EMEMORY;
  if (same && is_stored(c, s, i, old)) return CHALK_OK;
  if (kind_has_histogram(kind)) {
    const snapshot_detail *d = snapshot_detail_of(s, i);
    total = d ? stored_write_next(c->segment, &d->sum, &d->sketch, by) : 0;
    if (!total) return CHALK_EMEMORY;
  }
  publish(b, e, same, total);
  if (kind_has_histogram(kind)) stored_set_aside(c->segment, old, by);
  return CHALK_OK;
}

static int commit(chalk_cursor *c, chalk_snapshot *s, uint32_t first, uint32_t last, double now) {
  int e = CHALK_OK;
  uint64_t by = 0;
  for (uint32_t i = first; i < last && i < s->n; i++) {
    int code = commit_one(c, s, i, &by);
    if (code != CHALK_OK) e = code;
  }
  stored_give(c->segment, by);
  head_of(c)->used = now;
  return e;
}

/* What was sent, with the part: its counts in `sum`, its sketch in `before`. */
static int add_part(chalk_cursor *c, uint64_t sent, const chalk_sketch *part, const uint64_t *les, histogram_sum *sum) {
  int e = load_before(c, sent);
  if (e == CHALK_OK && sent) e = stored_load(c->segment, sent, sum, NULL);
  if (e == CHALK_OK) e = chalk_sketch_merge(&c->before, part);
  sum->sum += part->sum;
  for (uint32_t j = 0; les && j <= sum->les; j++) sum->le[j] += les[j];
  return e;
}

static int commit_part(chalk_cursor *c, chalk_snapshot *s, uint32_t i, const chalk_sketch *part, const uint64_t *les) {
  const chalk_entry *e = &s->entries[i];
  const snapshot_detail *d = snapshot_detail_of(s, i);
  bool same;
  uint64_t old;
  baseline *b = d ? baseline_of(c, e, &same, &old) : NULL;
  if (!b) return CHALK_EMEMORY;
  histogram_sum sum = {.les = d->sum.les};
  int code = add_part(c, old, part, les, &sum);
  uint64_t total = code == CHALK_OK ? stored_write(c->segment, &sum, &c->before, false) : 0;
  if (!total) return CHALK_EMEMORY;
  publish(b, e, same, total);
  stored_give(c->segment, old);
  return CHALK_OK;
}

int cursor_commit_part(chalk_cursor *c, chalk_snapshot *s, uint32_t i, const chalk_sketch *part, const uint64_t *les,
                       double now) {
  if (!role_enter(c->segment)) return CHALK_EINVALID;
  int e = commit_part(c, s, i, part, les);
  head_of(c)->used = now;
  role_leave(c->segment);
  return e;
}

int chalk_cursor_commit(chalk_cursor *c, chalk_snapshot *s, uint32_t first, uint32_t last, double now) {
  if (!role_enter(c->segment)) return CHALK_EINVALID;
  int e = commit(c, s, first, last, now);
  role_leave(c->segment);
  return e;
}
