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
  chalk_sketch before; /* what was sent of the histogram that is being read or committed; it keeps its memory */
};

static cursor_head *head_of(const chalk_cursor *c) { return &c->segment->cursors[c->number]; }

/* Frees a cursor: sets its baselines to 0 and gives their blocks back. */
static void forget(chalk_segment *g, uint32_t number) {
  cursor_head *head = &g->cursors[number];
  atomic_store(&head->state, 0);
  for (uint32_t id = 0, top = series_top(g); id < top; id++) {
    if (!segment_chunk_real(g, head->chunks, id)) continue;
    baseline *b = segment_baseline(g, number, id);
    uint64_t total = atomic_exchange(&b->total, 0);
    bool valid = atomic_load(&b->generation) == atomic_load(&g->series[id].generation);
    atomic_store(&b->generation, 0);
    if (valid && kind_has_histogram(segment_metric_of(g, id)->kind)) stored_give(g, total);
  }
}

/* Returns the number of the cursor of this name (*known), or else of a free cursor. NONE: there is neither. */
static uint32_t find(chalk_segment *g, const char *name, size_t size, bool *known) {
  uint32_t free_one = NONE;
  for (uint32_t i = 0; i < CURSORS; i++) {
    cursor_head *head = &g->cursors[i];
    if (!atomic_load(&head->state)) {
      if (free_one == NONE) free_one = i;
    } else if (head->name_size == size && memcmp(head->name, name, size) == 0) {
      *known = true;
      return i;
    }
  }
  *known = false;
  return free_one;
}

static int commit(chalk_cursor *c, chalk_snapshot *s, uint32_t first, uint32_t last, double now);

/* Commits the present totals of all series, so that a new cursor owes only what is recorded from now on. */
static int start_at_totals(chalk_cursor *c, double now, char *message) {
  chalk_snapshot *s = chalk_snapshot_take(c->segment, 1, message);
  if (!s) return CHALK_EMEMORY;
  int rc = commit(c, s, 0, s->n, now);
  if (rc != CHALK_OK) process_say(message, "no memory for an exporter's cursor");
  chalk_snapshot_free(s);
  return rc;
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
                number == NONE ? "no cursor for %s: at most %d exporters have one, with names of at most 239 bytes"
                               : "out of memory",
                name, CURSORS);
    return NULL;
  }
  *c = (chalk_cursor){.segment = g, .number = number};
  cursor_head *head = head_of(c);
  if (!known) forget(g, number); /* a process may have died, or failed, while it filled this cursor */
  if (!known && !fresh && start_at_totals(c, now, message) != CHALK_OK) {
    chalk_cursor_close(c);
    return NULL;
  }
  if (!known) {
    head->name_size = (uint32_t)size;
    memcpy(head->name, name, size);
  }
  head->used = now;
  /* A death between these stores leaves a cursor without `cursors_ever`, but never `cursors_ever` without a cursor. */
  atomic_store_explicit(&head->state, 1, memory_order_release);
  atomic_store(&g->head->cursors_ever, 1);
  return c;
}

chalk_cursor *chalk_cursor_open(chalk_segment *g, const char *name, int fresh, double now, char *message) {
  if (!role_enter(g)) {
    process_say(message, "the flusher's role belongs to another process");
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

/* The baseline's total, or the offset of its block; 0 if nothing was sent or there is no cursor. */
static uint64_t sent_of(const chalk_cursor *c, const chalk_entry *entry) {
  return c ? stored_sent(c->segment, c->number, entry->series, entry->generation) : 0;
}

static uint32_t kind_at(const chalk_cursor *c, const chalk_entry *entry) {
  return c->segment->metrics[entry->metric].kind;
}

int64_t chalk_cursor_delta(chalk_cursor *c, chalk_snapshot *s, uint32_t i) {
  if (i >= s->n) return 0;
  const chalk_entry *entry = &s->entries[i];
  chalk_segment *g = s->segment;
  uint32_t kind = g->metrics[entry->metric].kind;
  uint64_t sent = sent_of(c, entry);
  int64_t delta = entry->total - stored_total(g, sent, kind);
  if (delta <= 0 && entry->dropped && kind_has_histogram(kind)) {
    uint64_t at_drop = atomic_load(&g->series[entry->series].at_drop);
    delta = (int64_t)(stored_sketched(g, at_drop, kind) - stored_sketched(g, sent, kind));
  }
  return delta > 0 ? delta : 0;
}

/* Reads what was sent of a histogram, a block or 0, into `before`. */
static int load_before(chalk_cursor *c, uint64_t sent) {
  sketch_clear(&c->before);
  return sent ? stored_sketch(c->segment, sent, &c->before) : CHALK_OK;
}

int cursor_subtract(chalk_cursor *c, chalk_snapshot *s, uint32_t i, chalk_sketch *delta) {
  static const chalk_sketch nothing = {.scale = SKETCH_MOST_SCALE};
  const snapshot_detail *now = snapshot_detail_of(s, i);
  if (!now) return CHALK_EMEMORY;
  if (!c) return sketch_subtract(delta, &now->sketch, &nothing);
  if (load_before(c, sent_of(c, &s->entries[i])) != CHALK_OK) return CHALK_EMEMORY;
  return sketch_subtract(delta, &now->sketch, &c->before);
}

chalk_sketch *chalk_cursor_delta_sketch(chalk_cursor *c, chalk_snapshot *s, uint32_t i) {
  if (i >= s->n) return NULL;
  chalk_sketch *delta = sketch_new(SKETCH_MOST_SCALE, 0);
  if (delta && cursor_subtract(c, s, i, delta) == CHALK_OK) {
    sketch_clip(delta, chalk_snapshot_sketch(s, i));
    return delta;
  }
  chalk_sketch_free(delta);
  return NULL;
}

uint32_t chalk_cursor_delta_les(chalk_cursor *c, chalk_snapshot *s, uint32_t i, uint64_t *counts) {
  if (i >= s->n) return 0;
  const snapshot_detail *now = snapshot_detail_of(s, i);
  histogram_sum before = {0};
  uint64_t sent = sent_of(c, &s->entries[i]);
  if (!now || (sent && stored_load(c->segment, sent, &before, NULL) != CHALK_OK)) return 0;
  for (uint32_t j = 0; j <= now->sum.les; j++) {
    counts[j] = now->sum.le[j] > before.le[j] ? now->sum.le[j] - before.le[j] : 0;
  }
  return now->sum.les + 1;
}

/*
 * Whether the baseline's total or block, `old`, already has all that is to be committed: the histogram as it was read
 * for this entry or, if it was not read, the entry's total.
 */
static bool is_stored(const chalk_cursor *c, const chalk_snapshot *s, uint32_t i, uint64_t old) {
  const chalk_entry *entry = &s->entries[i];
  uint32_t kind = kind_at(c, entry);
  if (!kind_has_histogram(kind)) return (int64_t)old == entry->total;
  if (!old) return false;
  const snapshot_detail *detail = s->details ? s->details[i] : NULL;
  if (detail) return stored_is(c->segment, old, &detail->sum, &detail->sketch);
  return stored_total(c->segment, old, kind) == entry->total;
}

/*
 * Returns the entry's baseline, whose chunk is made real memory first. *same: the baseline is of the entry's
 * generation; then *sent is its total or block, otherwise 0. NULL: out of memory.
 */
static baseline *baseline_of(chalk_cursor *c, const chalk_entry *entry, bool *same, uint64_t *sent) {
  chalk_segment *g = c->segment;
  uint64_t row = segment_offset(g, segment_baseline(g, c->number, 0));
  if (!segment_chunk_real(g, head_of(c)->chunks, entry->series) &&
      segment_chunk_make(g, head_of(c)->chunks, row, sizeof(baseline), entry->series, false) != CHALK_OK) {
    return NULL;
  }
  baseline *b = segment_baseline(g, c->number, entry->series);
  *same = atomic_load(&b->generation) == entry->generation;
  *sent = *same ? atomic_load(&b->total) : 0;
  return b;
}

/* Stores what was sent. The total is 0 while the generation changes, so no generation ever has another one's total. */
static void publish(baseline *b, const chalk_entry *entry, bool same, uint64_t total) {
  if (!same) {
    atomic_store(&b->total, 0);
    atomic_store(&b->generation, entry->generation);
  }
  atomic_store_explicit(&b->total, total, memory_order_release);
}

/* Commits one entry. `aside` is the block that was replaced last, see stored_write_next. */
static int commit_one(chalk_cursor *c, chalk_snapshot *s, uint32_t i, uint64_t *aside) {
  const chalk_entry *entry = &s->entries[i];
  uint32_t kind = kind_at(c, entry);
  if (kind_has_value(kind)) return CHALK_OK;
  bool same;
  uint64_t old, total = (uint64_t)entry->total;
  baseline *b = baseline_of(c, entry, &same, &old);
  if (!b) return CHALK_EMEMORY;
  if (same && is_stored(c, s, i, old)) return CHALK_OK;
  if (kind_has_histogram(kind)) {
    const snapshot_detail *detail = snapshot_detail_of(s, i);
    total = detail ? stored_write_next(c->segment, &detail->sum, &detail->sketch, aside) : 0;
    if (!total) return CHALK_EMEMORY;
  }
  publish(b, entry, same, total);
  if (kind_has_histogram(kind)) stored_set_aside(c->segment, old, aside);
  return CHALK_OK;
}

static int commit(chalk_cursor *c, chalk_snapshot *s, uint32_t first, uint32_t last, double now) {
  int rc = CHALK_OK;
  uint64_t aside = 0;
  for (uint32_t i = first; i < last && i < s->n; i++) {
    int one = commit_one(c, s, i, &aside);
    if (one != CHALK_OK) rc = one;
  }
  stored_give(c->segment, aside);
  head_of(c)->used = now;
  return rc;
}

/* Adds a part to what was sent. The counts of both end in `sum`, the sketch in `before`. */
static int add_part(chalk_cursor *c, uint64_t sent, const chalk_sketch *part, const uint64_t *les, histogram_sum *sum) {
  int rc = load_before(c, sent);
  if (rc == CHALK_OK && sent) rc = stored_load(c->segment, sent, sum, NULL);
  if (rc == CHALK_OK) rc = chalk_sketch_merge(&c->before, part);
  sum->sum += part->sum;
  for (uint32_t j = 0; les && j <= sum->les; j++) sum->le[j] += les[j];
  return rc;
}

static int commit_part(chalk_cursor *c, chalk_snapshot *s, uint32_t i, const chalk_sketch *part, const uint64_t *les) {
  const chalk_entry *entry = &s->entries[i];
  const snapshot_detail *detail = snapshot_detail_of(s, i);
  bool same;
  uint64_t old;
  baseline *b = detail ? baseline_of(c, entry, &same, &old) : NULL;
  if (!b) return CHALK_EMEMORY;
  histogram_sum sum = {.les = detail->sum.les};
  int rc = add_part(c, old, part, les, &sum);
  uint64_t total = rc == CHALK_OK ? stored_write(c->segment, &sum, &c->before, false) : 0;
  if (!total) return CHALK_EMEMORY;
  publish(b, entry, same, total);
  stored_give(c->segment, old);
  return CHALK_OK;
}

int cursor_commit_part(chalk_cursor *c, chalk_snapshot *s, uint32_t i, const chalk_sketch *part, const uint64_t *les,
                       double now) {
  if (!role_enter(c->segment)) return CHALK_EINVALID;
  int rc = commit_part(c, s, i, part, les);
  head_of(c)->used = now;
  role_leave(c->segment);
  return rc;
}

int chalk_cursor_commit(chalk_cursor *c, chalk_snapshot *s, uint32_t first, uint32_t last, double now) {
  if (!role_enter(c->segment)) return CHALK_EINVALID;
  int rc = commit(c, s, first, last, now);
  role_leave(c->segment);
  return rc;
}
