#include "read/snapshot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "series/cells.h"
#include "series/key.h"
#include "series/metric.h"
#include "shm/process.h"
#include "series/series.h"
#include "series/series_key.h"
#include "value/kind.h"
#include "value/stored.h"
#include "record/writer.h"

/* What is looked up once: which metrics are shown, and who lives. */
typedef struct plan {
  chalk_segment *g;
  bool dropped, unset;
  lives alive;
  uint32_t metrics;
  bool shown[METRICS];
  uint32_t first[METRICS + 1]; /* counts, then places */
} plan;

/* An overflow series that was never set holds nothing, and nobody asked for it. */
static bool gauge_wanted(plan *p, uint32_t id, double *value) {
  if (cells_gauge(p->g, id, &p->alive, value)) return true;
  *value = 0;
  return p->unset && id >= METRICS;
}

static bool wanted(plan *p, uint32_t id, chalk_entry *e) {
  series *s = &p->g->series[id];
  e->series = id;
  e->generation = atomic_load_explicit(&s->generation, memory_order_acquire);
  uint32_t state = series_state(s);
  e->dropped = state == SERIES_DROPPED;
  if (state != SERIES_LIVE && !(e->dropped && p->dropped)) return false;
  e->metric = s->metric;
  e->total = 0;
  if (e->metric >= p->metrics || !p->shown[e->metric]) return false;
  const metric *m = &p->g->metrics[e->metric];
  if (kind_has_value(m->kind)) return !e->dropped && gauge_wanted(p, id, &e->value);
  return id >= METRICS || cells_bound(p->g, id);
}

/* Adds one writer's cells to the entries of counts. */
static void add_writer(chalk_snapshot *s, uint32_t w) {
  chalk_segment *g = s->segment;
  uint32_t chunk = NONE;
  bool real = false;
  for (uint32_t i = 0; i < s->n; i++) {
    chalk_entry *e = &s->entries[i];
    kind_content holds = kind_of(g->metrics[e->metric].kind)->holds;
    if (holds == KIND_VALUE) continue;
    if (segment_chunk_of(g, e->series) != chunk) {
      chunk = segment_chunk_of(g, e->series);
      real = segment_chunk_real(g, g->slots[w].chunks, e->series);
    }
    if (!real) continue;
    uint64_t bits = atomic_load_explicit(segment_cell(g, w, e->series), memory_order_acquire);
    e->total = (int64_t)((uint64_t)e->total + cells_amount(g, holds, bits));
  }
}

/* For the holder only: it alone takes away what a dropped series stood at. Waits for a drop that is under way. */
static bool is_dropped(const chalk_snapshot *s, const chalk_entry *e) {
  series *x = &s->segment->series[e->series];
  if (!s->dropped || e->series < METRICS) return e->dropped;
  while (series_state(x) == SERIES_DROPPED) {
    if (series_is_settled(x)) return true;
    series_repair(s->segment, x->hash);
  }
  return false;
}

/* Whether nothing of the same key can have been found beside it. */
static bool is_alive(const chalk_snapshot *s, const chalk_entry *e) {
  return e->series < METRICS || series_state(&s->segment->series[e->series]) == SERIES_LIVE;
}

/*
 * A dropped series stands at what it was dropped with, even if it was alive before its cells were read: what came later
 * is its successor's. Where dropped ones are not shown it must not be shown at all, since its successor may be.
 */
static void settle(chalk_snapshot *s) {
  chalk_segment *g = s->segment;
  uint32_t n = 0;
  for (uint32_t i = 0; i < s->n; i++) {
    chalk_entry e = s->entries[i];
    uint32_t kind = g->metrics[e.metric].kind;
    if (!kind_has_value(kind)) e.dropped = is_dropped(s, &e);
    uint64_t at_drop = atomic_load(&g->series[e.series].at_drop);
    if (e.dropped) e.total = stored_total(g, at_drop, kind);
    bool seen = (s->dropped && !kind_has_value(kind)) || is_alive(s, &e);
    if (seen && snapshot_is_current(s, &e)) s->entries[n++] = e;
  }
  s->n = n;
}

static int collect(chalk_snapshot *s, plan *p) {
  uint32_t top = series_top(p->g), n = 0;
  uint32_t low = segment_metrics(p->g), most = top > METRICS ? top - METRICS + low : low;
  size_t size = ((size_t)most + 1) * sizeof(chalk_entry);
  chalk_entry *found = bulk_take(size);
  if (!found) return CHALK_EMEMORY;
  for (uint32_t id = 0; id < top; id++) {
    if (id == low) id = METRICS;
    if (id < top && wanted(p, id, &found[n])) p->first[found[n++].metric]++;
  }
  uint32_t at = 0;
  for (uint32_t m = 0; m <= p->metrics; m++) {
    uint32_t count = m < p->metrics ? p->first[m] : 0;
    p->first[m] = at;
    at += count;
  }
  s->entries = bulk_take(((size_t)n + 1) * sizeof *s->entries);
  for (uint32_t i = 0; s->entries && i < n; i++) s->entries[p->first[found[i].metric]++] = found[i];
  s->n = s->room = n;
  bulk_free(found, size);
  return s->entries ? CHALK_OK : CHALK_EMEMORY;
}

chalk_snapshot *chalk_snapshot_take(chalk_segment *g, int what, char *message) {
  chalk_snapshot *s = calloc(1, sizeof *s);
  plan *p = calloc(1, sizeof *p);
  int e = s && p ? CHALK_OK : CHALK_EMEMORY;
  if (e == CHALK_OK) {
    s->segment = g;
    p->g = g;
    lives_begin(&p->alive, g);
    p->dropped = s->dropped = what & CHALK_DROPPED;
    p->unset = what & CHALK_UNSET;
    p->metrics = segment_metrics(g);
    for (uint32_t m = 0; m < p->metrics; m++) p->shown[m] = metric_is_shown(g, m);
    e = collect(s, p);
  }
  free(p);
  if (e != CHALK_OK) {
    process_say(message, "out of memory");
    chalk_snapshot_free(s);
    return NULL;
  }
  for (uint32_t w = 0; w < segment_slots(g); w++) add_writer(s, w);
  settle(s);
  return s;
}

void chalk_snapshot_free(chalk_snapshot *s) {
  if (!s) return;
  arena_free(&s->arena);
  sketch_free_sides(&s->reading);
  bulk_free(s->details, ((size_t)s->room + 1) * sizeof *s->details);
  bulk_free(s->entries, ((size_t)s->room + 1) * sizeof *s->entries);
  free(s);
}

const chalk_entry *chalk_snapshot_entries(const chalk_snapshot *s, uint32_t *count) {
  *count = s->n;
  return s->entries;
}

uint32_t snapshot_key(const chalk_snapshot *s, const chalk_entry *e, void *out) {
  return series_key_read(s->segment, e->metric, e->series, e->generation, out);
}

size_t chalk_snapshot_key(chalk_snapshot *s, uint32_t i, char *out, size_t size) {
  uint64_t key[(KEY_MOST + 7) / 8];
  uint32_t n = i < s->n ? snapshot_key(s, &s->entries[i], key) : NONE;
  if (n > size) return 0;
  memcpy(out, key, n);
  return n;
}

bool snapshot_sum(const chalk_snapshot *s, const chalk_entry *e, histogram_sum *sum) {
  uint64_t at_drop = e->dropped ? atomic_load(&s->segment->series[e->series].at_drop) : 0;
  if (at_drop) {
    stored_load(s->segment, at_drop, sum, NULL);
  } else if (e->dropped) {
    *sum = (histogram_sum){0};
  } else {
    stored_read(s->segment, e->series, sum, NULL);
  }
  return snapshot_is_current(s, e);
}

static int read_nothing(chalk_snapshot *s, const chalk_entry *e, histogram_sum *sum) {
  sketch_clear(&s->reading);
  *sum = (histogram_sum){.les = s->segment->metrics[e->metric].les};
  return CHALK_OK;
}

static int detail_read(chalk_snapshot *s, const chalk_entry *e, histogram_sum *sum) {
  chalk_segment *g = s->segment;
  sketch_clear(&s->reading);
  s->reading.max_buckets = atomic_load(&g->head->max_buckets);
  if (!is_dropped(s, e)) {
    int code = stored_read(g, e->series, sum, &s->reading);
    if (code != CHALK_OK || !is_dropped(s, e)) return code;
    sketch_clear(&s->reading);
  }
  uint64_t at_drop = atomic_load(&g->series[e->series].at_drop);
  return at_drop ? stored_load(g, at_drop, sum, &s->reading) : read_nothing(s, e, sum);
}

static void keep_side(sketch_side *side, sketch_bucket *at, const sketch_side *from) {
  if (from->n > 0) memcpy(at, from->at, from->n * sizeof *at);
  *side = (sketch_side){at, from->n, from->n};
}

/* What was read, in as much memory as it takes. */
static snapshot_detail *detail_keep(chalk_snapshot *s, const histogram_sum *sum) {
  const chalk_sketch *k = &s->reading;
  size_t sum_size = offsetof(histogram_sum, le) + (sum->les + 1) * sizeof *sum->le;
  size_t head = offsetof(snapshot_detail, sum) + sum_size, buckets = (size_t)k->positive.n + k->negative.n;
  snapshot_detail *d = arena_take(&s->arena, head + buckets * sizeof(sketch_bucket));
  if (!d) return NULL;
  sketch_bucket *at = (sketch_bucket *)((char *)d + head);
  d->sketch = *k;
  keep_side(&d->sketch.positive, at, &k->positive);
  keep_side(&d->sketch.negative, at + k->positive.n, &k->negative);
  memcpy(&d->sum, sum, sum_size);
  return d;
}

const snapshot_detail *snapshot_detail_of(chalk_snapshot *s, uint32_t i) {
  if (!s->details) s->details = bulk_take(((size_t)s->room + 1) * sizeof *s->details);
  if (!s->details) return NULL;
  if (s->details[i]) return s->details[i];
  const chalk_entry *e = &s->entries[i];
  histogram_sum sum;
  if (detail_read(s, e, &sum) != CHALK_OK) return NULL;
  /* Of a series that went while it was read: what was read may be anything. */
  if (!snapshot_is_current(s, e)) read_nothing(s, e, &sum);
  return s->details[i] = detail_keep(s, &sum);
}

const chalk_sketch *chalk_snapshot_sketch(chalk_snapshot *s, uint32_t i) {
  const snapshot_detail *d = i < s->n ? snapshot_detail_of(s, i) : NULL;
  return d ? &d->sketch : NULL;
}

uint32_t chalk_snapshot_les(chalk_snapshot *s, uint32_t i, double *bounds, uint64_t *counts) {
  const snapshot_detail *d = i < s->n ? snapshot_detail_of(s, i) : NULL;
  if (!d) return 0;
  uint32_t n = chalk_metric_les(s->segment, s->entries[i].metric, bounds);
  if (n != d->sum.les) return 0;
  bounds[n] = INFINITY;
  memcpy(counts, d->sum.le, (n + 1) * sizeof *counts);
  return n + 1;
}

chalk_sketch *chalk_series_sketch(chalk_series *s) {
  if (!writer_is_bound(s) && chalk_rebind(s) < 0) return NULL;
  chalk_segment *g = s->writer->segment;
  chalk_sketch *k = sketch_new(SKETCH_MOST_SCALE, atomic_load(&g->head->max_buckets));
  histogram_sum sum = {0};
  if (k && stored_read(g, s->series, &sum, k) != CHALK_OK) {
    chalk_sketch_free(k);
    return NULL;
  }
  return k;
}
