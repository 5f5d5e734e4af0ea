#include "kit.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

#include "series/key.h"
#include "sweep.h"

static const double bounds[] = {0.01, 1, 10, 100, 1e9};

void *kit_must(void *pointer, const char *what) {
  if (!pointer) {
    fprintf(stderr, "failed: %s\n", what);
    abort();
  }
  return pointer;
}

kit kit_define(chalk_writer *w) {
  static const char *const names[KINDS] = {"count", "gauge", "sum", "histogram", "narrow", "max", "plain", "plain.lat"};
  kit k;
  for (int i = 0; i < KINDS; i++) {
    size_t size = strlen(names[i]);
    chalk_definition d = {.name = names[i],
                          .shape = "shape",
                          .blob = "everything that is known of a metric",
                          .name_size = size,
                          .shape_size = 5,
                          .blob_size = 36,
                          .le = bounds,
                          .kind = kit_kind(i),
                          .across = i == TOGETHER  ? CHALK_SUM
                                    : i == HIGHEST ? CHALK_MAX
                                                   : CHALK_LAST,
                          .tags = i < PLAIN ? 1 : 0,
                          .les = kit_kind(i) == CHALK_HISTOGRAM ? sizeof bounds / sizeof *bounds : 0,
                          .max_series = i == NARROW ? NARROW_SERIES : 0};
    k.metrics[i] = chalk_define(w, &d, NULL);
  }
  return k;
}

chalk_series *kit_series(chalk_writer *w, const kit *k, int sort, const char *tag) {
  size_t size = strlen(tag);
  return k->metrics[sort] < 0 ? NULL : chalk_series_new(w, (uint32_t)k->metrics[sort], &tag, &size);
}

void kit_record(chalk_writer *w, const kit *k, int sort, const char *tag, double v) {
  chalk_series *s = kit_series(w, k, sort, tag);
  if (!s) return;
  uint32_t kind = kit_kind(sort);
  if (kind == CHALK_COUNT) chalk_add(s, floor(fabs(v)));
  if (kind == CHALK_GAUGE) chalk_set(s, v);
  if (kind == CHALK_HISTOGRAM) chalk_record(s, v);
  free(s);
}

void kit_remove(chalk_writer *w, const kit *k, int sort, const char *tag) {
  size_t size = strlen(tag);
  if (k->metrics[sort] >= 0) chalk_remove(w, (uint32_t)k->metrics[sort], &tag, &size);
}

void kit_commit(chalk_segment *g, chalk_cursor *c) {
  chalk_snapshot *s = must(chalk_snapshot_take(g, 1, NULL));
  chalk_cursor_commit(c, s, 0, UINT32_MAX, 1);
  chalk_snapshot_free(s);
}

void kit_sweep(chalk_segment *g, double now, double idle) {
  chalk_snapshot *s = must(chalk_snapshot_take(g, 1, NULL));
  sweep_all(s, now, idle);
  chalk_snapshot_free(s);
}

static void read_sketch(const chalk_sketch *k) {
  chalk_bucket b;
  uint64_t count = 0;
  double last = -INFINITY;
  for (uint32_t i = 0; chalk_sketch_bucket(k, i, &b); i++) {
    check(b.lower <= b.upper && b.upper >= last);
    last = b.upper;
    count += b.count;
  }
  check(count == chalk_sketch_count(k));
  for (int i = 0; i <= 4; i++) chalk_sketch_quantile(k, i / 4.0);
}

static void read_entry(chalk_snapshot *s, uint32_t i, const chalk_entry *entry, uint32_t kind) {
  char key[KEY_MOST];
  double le[CHALK_LES + 1];
  uint64_t counts[CHALK_LES + 1];
  check(chalk_snapshot_key(s, i, key, sizeof key) <= sizeof key);
  if (kind != CHALK_HISTOGRAM) return;
  check(entry->total >= 0);
  uint32_t n = chalk_snapshot_les(s, i, le, counts);
  for (uint32_t l = 1; l < n; l++) check(le[l] > le[l - 1] && counts[l] >= counts[l - 1]);
  read_sketch(must((void *)chalk_snapshot_sketch(s, i)));
}

static void render(chalk_segment *g, chalk_snapshot *s, const chalk_entry *entries, uint32_t n) {
  static const char *labels[CHALK_TAGS], *texts[CHALK_LES];
  static uint32_t indices[CHALK_LES];
  static char out[1 << 17];
  for (uint32_t i = 0; i < CHALK_TAGS; i++) labels[i] = "label";
  for (uint32_t i = 0; i < CHALK_LES; i++) texts[i] = "1.5", indices[i] = i;
  for (uint32_t at = 0; at < n;) {
    const metric *m = &g->metrics[entries[at].metric];
    chalk_family f = {"sample", "bucket", "sum", "count", "env=\"x\"", labels, texts, indices, m->tags, m->les};
    uint32_t last = at;
    while (last < n && entries[last].metric == entries[at].metric) last++;
    while (at < last) {
      size_t size = chalk_snapshot_render(s, &f, &at, last, out, sizeof out);
      check(size < sizeof out && (size == 0 || out[size - 1] == '\n'));
      if (size == 0 && at < last) at++;
    }
  }
}

static void read_snapshot(chalk_segment *g, int dropped) {
  uint32_t n;
  chalk_snapshot *s = must(chalk_snapshot_take(g, dropped, NULL));
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  for (uint32_t i = 0; i < n; i++) read_entry(s, i, &entries[i], g->metrics[entries[i].metric].kind);
  if (!dropped) render(g, s, entries, n);
  chalk_snapshot_free(s);
}

static void read_cursor(chalk_segment *g, const char *name) {
  uint32_t n;
  chalk_cursor *c = chalk_cursor_open(g, name, 0, 1, NULL);
  if (!c) return;
  chalk_snapshot *s = must(chalk_snapshot_take(g, 1, NULL));
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  for (uint32_t i = 0; i < n; i++) {
    check(chalk_cursor_delta(c, s, i) >= 0);
    if (g->metrics[entries[i].metric].kind != CHALK_HISTOGRAM) continue;
    chalk_sketch *k = must(chalk_cursor_delta_sketch(c, s, i));
    read_sketch(k);
    chalk_sketch_free(k);
  }
  chalk_cursor_commit(c, s, 0, n, 1);
  chalk_snapshot_free(s);
  chalk_cursor_close(c);
}

void kit_read(chalk_segment *g) {
  chalk_info info;
  chalk_segment_info(g, &info);
  check(info.series + info.quarantined <= info.capacity);
  uint32_t top = chalk_metric_top(g);
  for (uint32_t m = 0; m < top; m++) {
    char blob[64];
    double le[CHALK_LES];
    chalk_metric_blob(g, m, blob, sizeof blob);
    check(chalk_metric_les(g, m, le) <= CHALK_LES);
    chalk_metric_shown(g, m);
    chalk_metric_folded(g, m);
  }
  read_snapshot(g, 0);
  read_snapshot(g, 1);
  read_cursor(g, "one");
}

void kit_close(chalk_segment *g) {
  void *base = g->base;
  size_t size = g->size;
  chalk_segment_close(g);
  munmap(base, size);
}
