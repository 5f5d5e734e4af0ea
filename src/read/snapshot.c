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

/* The state of taking one snapshot. What holds for all series of a metric is looked up once a metric. */
typedef struct taking {
  chalk_segment *g;
  bool dropped, unset; /* whether dropped series and unset gauges are entries */
  lives alive;
  uint32_t metrics;
  bool shown[METRICS];
  uint32_t first[METRICS + 1]; /* by metric: first the number of its entries, then the index of its next entry */
} taking;

/* The value of a gauge. A gauge that was never set is an entry only on request; a gauge's overflow series that was never set is no entry at all. */
static bool is_gauge_wanted(taking *t, uint32_t id, double *value) {
  if (cells_gauge(t->g, id, &t->alive, value)) return true;
  *value = 0;
  return t->unset && id >= METRICS;
}

/* Fills in the entry of a series, without the total of a count or histogram. False: the series is no entry. */
static bool is_wanted(taking *t, uint32_t id, chalk_entry *entry) {
  series *x = &t->g->series[id];
  entry->series = id;
  entry->generation = atomic_load_explicit(&x->generation, memory_order_acquire);
  uint32_t state = series_state(x);
  entry->dropped = state == SERIES_DROPPED;
  if (state != SERIES_LIVE && !(entry->dropped && t->dropped)) return false;
  entry->metric = x->metric;
  entry->total = 0;
  if (entry->metric >= t->metrics || !t->shown[entry->metric]) return false;
  const metric *m = &t->g->metrics[entry->metric];
  if (kind_has_value(m->kind)) return !entry->dropped && is_gauge_wanted(t, id, &entry->value);
  return id >= METRICS || cells_bound(t->g, id);
}

/* Adds one slot's cells to the totals of counts and histograms. */
static void add_slot(chalk_snapshot *s, uint32_t slot) {
  chalk_segment *g = s->segment;
  uint32_t chunk = NONE;
  bool real = false;
  for (uint32_t i = 0; i < s->n; i++) {
    chalk_entry *entry = &s->entries[i];
    kind_content holds = kind_of(g->metrics[entry->metric].kind)->holds;
    if (holds == KIND_VALUE) continue;
    if (segment_chunk_of(g, entry->series) != chunk) {
      chunk = segment_chunk_of(g, entry->series);
      real = segment_chunk_real(g, g->slots[slot].chunks, entry->series);
    }
    if (!real) continue;
    uint64_t bits = atomic_load_explicit(segment_cell(g, slot, entry->series), memory_order_acquire);
    entry->total = (int64_t)((uint64_t)entry->total + cells_amount(g, holds, bits));
  }
}

/*
 * Whether the series is dropped by now. Only the holder's snapshots look, because only the holder
 * frees what a dropped series was dropped with. Waits for a drop that is under way.
 */
static bool is_dropped(const chalk_snapshot *s, const chalk_entry *entry) {
  series *x = &s->segment->series[entry->series];
  if (!s->dropped || entry->series < METRICS) return entry->dropped;
  while (series_state(x) == SERIES_DROPPED) {
    if (series_is_settled(x)) return true;
    series_repair(s->segment, x->hash);
  }
  return false;
}

/* Whether the series is live, so that it has no successor with the same key. Overflow series always are. */
static bool is_alive(const chalk_snapshot *s, const chalk_entry *entry) {
  return entry->series < METRICS || series_state(&s->segment->series[entry->series]) == SERIES_LIVE;
}

/*
 * Checks all entries again after their cells were read. A series that was dropped has the total that it was dropped
 * with, even if it was live before its cells were read, because later records belong to its successor. A snapshot
 * without dropped series leaves such a series out, because it may have the successor.
 */
static void finish(chalk_snapshot *s) {
  chalk_segment *g = s->segment;
  uint32_t n = 0;
  for (uint32_t i = 0; i < s->n; i++) {
    chalk_entry entry = s->entries[i];
    uint32_t kind = g->metrics[entry.metric].kind;
    if (!kind_has_value(kind)) entry.dropped = is_dropped(s, &entry);
    uint64_t at_drop = atomic_load(&g->series[entry.series].at_drop);
    if (entry.dropped) entry.total = stored_total(g, at_drop, kind);
    bool seen = (s->dropped && !kind_has_value(kind)) || is_alive(s, &entry);
    if (seen && snapshot_is_current(s, &entry)) s->entries[n++] = entry;
  }
  s->n = n;
}

/* Moves n entries, which are in the order of their series, to the snapshot in the order of their metrics. */
static int keep_by_metric(chalk_snapshot *s, taking *t, const chalk_entry *found, uint32_t n) {
  uint32_t next = 0;
  for (uint32_t m = 0; m <= t->metrics; m++) {
    uint32_t count = m < t->metrics ? t->first[m] : 0;
    t->first[m] = next;
    next += count;
  }
  s->entries = bulk_take(((size_t)n + 1) * sizeof *s->entries);
  for (uint32_t i = 0; s->entries && i < n; i++) s->entries[t->first[found[i].metric]++] = found[i];
  s->n = s->capacity = n;
  return s->entries ? CHALK_OK : CHALK_EMEMORY;
}

/* Finds the series that are entries. A series number below METRICS is that of the metric's overflow series. */
static int collect(chalk_snapshot *s, taking *t) {
  uint32_t top = series_top(t->g), n = 0;
  uint32_t low = segment_metrics(t->g), most = top > METRICS ? top - METRICS + low : low;
  size_t size = ((size_t)most + 1) * sizeof(chalk_entry);
  chalk_entry *found = bulk_take(size);
  if (!found) return CHALK_EMEMORY;
  for (uint32_t id = 0; id < top; id++) {
    if (id == low) id = METRICS;
    if (id < top && is_wanted(t, id, &found[n])) t->first[found[n++].metric]++;
  }
  int rc = keep_by_metric(s, t, found, n);
  bulk_free(found, size);
  return rc;
}

chalk_snapshot *chalk_snapshot_take(chalk_segment *g, int what, char *message) {
  chalk_snapshot *s = calloc(1, sizeof *s);
  taking *t = calloc(1, sizeof *t);
  int rc = s && t ? CHALK_OK : CHALK_EMEMORY;
  if (rc == CHALK_OK) {
    s->segment = g;
    t->g = g;
    lives_begin(&t->alive, g);
    t->dropped = s->dropped = what & CHALK_DROPPED;
    t->unset = what & CHALK_UNSET;
    t->metrics = segment_metrics(g);
    for (uint32_t m = 0; m < t->metrics; m++) t->shown[m] = metric_is_shown(g, m);
    rc = collect(s, t);
  }
  free(t);
  if (rc != CHALK_OK) {
    process_say(message, "out of memory");
    chalk_snapshot_free(s);
    return NULL;
  }
  for (uint32_t slot = 0; slot < segment_slots(g); slot++) add_slot(s, slot);
  finish(s);
  return s;
}

void chalk_snapshot_free(chalk_snapshot *s) {
  if (!s) return;
  arena_free(&s->arena);
  sketch_free_sides(&s->reading);
  bulk_free(s->details, ((size_t)s->capacity + 1) * sizeof *s->details);
  bulk_free(s->entries, ((size_t)s->capacity + 1) * sizeof *s->entries);
  free(s);
}

const chalk_entry *chalk_snapshot_entries(const chalk_snapshot *s, uint32_t *count) {
  *count = s->n;
  return s->entries;
}

uint32_t snapshot_key(const chalk_snapshot *s, const chalk_entry *entry, void *out) {
  return series_key_read(s->segment, entry->metric, entry->series, entry->generation, out);
}

size_t chalk_snapshot_key(chalk_snapshot *s, uint32_t i, char *out, size_t size) {
  uint64_t key[SERIES_KEY_WORDS];
  uint32_t n = i < s->n ? snapshot_key(s, &s->entries[i], key) : NONE;
  if (n > size) return 0;
  memcpy(out, key, n);
  return n;
}

bool snapshot_sum(const chalk_snapshot *s, const chalk_entry *entry, histogram_sum *sum) {
  uint64_t at_drop = entry->dropped ? atomic_load(&s->segment->series[entry->series].at_drop) : 0;
  if (at_drop) {
    stored_load(s->segment, at_drop, sum, NULL);
  } else if (entry->dropped) {
    *sum = (histogram_sum){0};
  } else {
    stored_read(s->segment, entry->series, sum, NULL);
  }
  return snapshot_is_current(s, entry);
}

/* Reads an empty histogram. */
static int read_nothing(chalk_snapshot *s, const chalk_entry *entry, histogram_sum *sum) {
  sketch_clear(&s->reading);
  *sum = (histogram_sum){.les = s->segment->metrics[entry->metric].les};
  return CHALK_OK;
}

/* Reads an entry's histogram. If the series is dropped meanwhile, the one that it was dropped with replaces it. */
static int read_detail(chalk_snapshot *s, const chalk_entry *entry, histogram_sum *sum) {
  chalk_segment *g = s->segment;
  sketch_clear(&s->reading);
  s->reading.max_buckets = atomic_load(&g->head->max_buckets);
  if (!is_dropped(s, entry)) {
    int rc = stored_read(g, entry->series, sum, &s->reading);
    if (rc != CHALK_OK || !is_dropped(s, entry)) return rc;
    sketch_clear(&s->reading);
  }
  uint64_t at_drop = atomic_load(&g->series[entry->series].at_drop);
  return at_drop ? stored_load(g, at_drop, sum, &s->reading) : read_nothing(s, entry, sum);
}

static void keep_side(sketch_side *side, sketch_bucket *buckets, const sketch_side *from) {
  if (from->n > 0) memcpy(buckets, from->at, from->n * sizeof *buckets);
  *side = (sketch_side){buckets, from->n, from->n};
}

/* Copies what was read into the arena, in as much memory as it takes. NULL: out of memory. */
static snapshot_detail *keep_detail(chalk_snapshot *s, const histogram_sum *sum) {
  const chalk_sketch *k = &s->reading;
  size_t sum_size = offsetof(histogram_sum, le) + (sum->les + 1) * sizeof *sum->le;
  size_t head = offsetof(snapshot_detail, sum) + sum_size, buckets = (size_t)k->positive.n + k->negative.n;
  snapshot_detail *detail = arena_take(&s->arena, head + buckets * sizeof(sketch_bucket));
  if (!detail) return NULL;
  sketch_bucket *at = (sketch_bucket *)((char *)detail + head);
  detail->sketch = *k;
  keep_side(&detail->sketch.positive, at, &k->positive);
  keep_side(&detail->sketch.negative, at + k->positive.n, &k->negative);
  memcpy(&detail->sum, sum, sum_size);
  return detail;
}

const snapshot_detail *snapshot_detail_of(chalk_snapshot *s, uint32_t i) {
  if (!s->details) s->details = bulk_take(((size_t)s->capacity + 1) * sizeof *s->details);
  if (!s->details) return NULL;
  if (s->details[i]) return s->details[i];
  const chalk_entry *entry = &s->entries[i];
  histogram_sum sum;
  if (read_detail(s, entry, &sum) != CHALK_OK) return NULL;
  /* The memory of a series that left while it was read may hold anything. */
  if (!snapshot_is_current(s, entry)) read_nothing(s, entry, &sum);
  return s->details[i] = keep_detail(s, &sum);
}

const chalk_sketch *chalk_snapshot_sketch(chalk_snapshot *s, uint32_t i) {
  const snapshot_detail *detail = i < s->n ? snapshot_detail_of(s, i) : NULL;
  return detail ? &detail->sketch : NULL;
}

uint32_t chalk_snapshot_les(chalk_snapshot *s, uint32_t i, double *bounds, uint64_t *counts) {
  const snapshot_detail *detail = i < s->n ? snapshot_detail_of(s, i) : NULL;
  if (!detail) return 0;
  uint32_t n = chalk_metric_les(s->segment, s->entries[i].metric, bounds);
  if (n != detail->sum.les) return 0;
  bounds[n] = INFINITY;
  memcpy(counts, detail->sum.le, (n + 1) * sizeof *counts);
  return n + 1;
}

chalk_sketch *chalk_series_sketch(chalk_series *handle) {
  if (!writer_is_bound(handle) && chalk_rebind(handle) < 0) return NULL;
  chalk_segment *g = handle->writer->segment;
  chalk_sketch *k = sketch_new(SKETCH_MOST_SCALE, atomic_load(&g->head->max_buckets));
  histogram_sum sum = {0};
  if (k && stored_read(g, handle->series, &sum, k) != CHALK_OK) {
    chalk_sketch_free(k);
    return NULL;
  }
  return k;
}
