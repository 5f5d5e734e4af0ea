#include "model.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "series/cells.h"
#include "series/gauge.h"
#include "series/key.h"
#include "series/series.h"
#include "record/writer.h"

enum { WATCHED = 512 };

/* Of these, the last one is longer than CHALK_VALUE, and the one before means that the tag is absent. */
static char endless[700];
const char *const model_tags[TAGS] = {"a", "b", "c", "d\xff", "", endless};

/* The live series before a step that may drop some. */
static struct {
  uint32_t id, generation, n_entries;
  int sort, tag;
  int64_t total;
} watched[WATCHED];
static uint32_t n_watched;
/* The entries before such a step, with what each cursor owed of them. */
static struct {
  uint32_t id, generation;
  int sort;
  int64_t deltas[TRACKED];
} owed[WATCHED];
static uint32_t n_owed;

void model_new(model *m, chalk_segment *g) {
  memset(m, 0, sizeof *m);
  m->g = g;
  memset(endless, 'x', sizeof endless - 1);
}

int model_vm(const model *m, const chalk_writer *w) {
  int i = 0;
  while (i < VMS && m->vms[i] != w) i++;
  return i;
}

void model_open(model *m, const chalk_writer *w) {
  int i = model_vm(m, NULL);
  check(i < VMS);
  m->vms[i] = w;
  for (int sort = 0; sort < KINDS; sort++) {
    for (int tag = 0; tag < CONTENTS; tag++) memset(&m->contents[sort][tag].by_vm[i], 0, sizeof(own_value));
  }
}

void model_close(model *m, const chalk_writer *w) {
  int i = model_vm(m, w);
  if (i < VMS) m->vms[i] = NULL;
}

static bool is_plain(int sort) { return sort == PLAIN || sort == PLAIN_HISTOGRAM; }

static int tag_of(const model *m, uint32_t id) {
  const series *s = &m->g->series[id];
  if (id < METRICS || s->key_size == 0) return id < METRICS ? FOLDED : 0;
  for (int i = 0; i < TAGS; i++) {
    char key[KEY_MOST];
    size_t size = strlen(model_tags[i]);
    if (key_encode(key, &model_tags[i], &size, 1) == s->key_size &&
        memcmp(key, segment_at(m->g, s->key), s->key_size) == 0) {
      return i;
    }
  }
  check(!"a series with an unknown key");
  return 0;
}

/* A metric without tags has one content, because its records go to the overflow series once that is in use. */
static content *content_of(model *m, int sort, int tag) { return &m->contents[sort][is_plain(sort) ? 0 : tag]; }

content *model_content(model *m, int sort, const chalk_series *s, int tag) {
  return content_of(m, sort, s->series < METRICS ? FOLDED : tag);
}

static uint32_t state_of(const model *m, uint32_t id) { return atomic_load(&m->g->series[id].state) & 255; }

uint32_t model_find(const model *m, int sort, int tag) {
  for (uint32_t id = METRICS; id < series_top(m->g); id++) {
    if (state_of(m, id) != SERIES_LIVE || m->g->series[id].metric != (uint32_t)sort) continue;
    if (is_plain(sort) || tag_of(m, id) == tag) return id;
  }
  return NONE;
}

uint32_t model_live(const model *m) {
  uint32_t n = 0;
  for (uint32_t id = METRICS; id < series_top(m->g); id++) n += state_of(m, id) == SERIES_LIVE;
  return n;
}

int64_t model_total(const model *m, int sort) {
  int64_t total = cells_total(m->g, (uint32_t)sort);
  for (uint32_t id = METRICS; id < series_top(m->g); id++) {
    if (state_of(m, id) == SERIES_LIVE && m->g->series[id].metric == (uint32_t)sort) total += cells_total(m->g, id);
  }
  return total;
}

/* Drops */

void model_deltas(model *m, tracked *c, chalk_snapshot *s, int64_t *deltas) {
  uint32_t n;
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  memset(deltas, 0, KINDS * sizeof *deltas);
  for (uint32_t i = 0; i < n; i++) {
    int sort = (int)entries[i].metric;
    if (kit_kind(sort) != CHALK_GAUGE) deltas[sort] += chalk_cursor_delta(c->cursor, s, i);
  }
  (void)m;
}

static void note_owed(model *m) {
  uint32_t n;
  chalk_snapshot *s = must(chalk_snapshot_take(m->g, 1, NULL));
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  n_owed = 0;
  for (uint32_t i = 0; i < n; i++) {
    if (kit_kind((int)entries[i].metric) == CHALK_GAUGE) continue;
    check(n_owed < WATCHED);
    owed[n_owed].id = entries[i].series;
    owed[n_owed].generation = entries[i].generation;
    owed[n_owed].sort = (int)entries[i].metric;
    for (int c = 0; c < TRACKED; c++) {
      owed[n_owed].deltas[c] = m->cursors[c].cursor ? chalk_cursor_delta(m->cursors[c].cursor, s, i) : 0;
    }
    n_owed++;
  }
  chalk_snapshot_free(s);
}

void model_before(model *m) {
  n_watched = 0;
  for (uint32_t id = METRICS; id < series_top(m->g); id++) {
    if (state_of(m, id) != SERIES_LIVE) continue;
    check(n_watched < WATCHED);
    watched[n_watched].id = id;
    watched[n_watched].generation = m->g->series[id].generation;
    watched[n_watched].sort = (int)m->g->series[id].metric;
    watched[n_watched].tag = tag_of(m, id);
    watched[n_watched].total = cells_total(m->g, id);
    n_watched++;
  }
  note_owed(m);
}

static void forget(model *m, int sort, int tag, int64_t total) {
  content *p = content_of(m, sort, tag);
  if (kit_kind(sort) == CHALK_HISTOGRAM && (int64_t)p->n > total && is_plain(sort)) {
    p->lossy = true; /* other values are in the overflow series, and the model does not know which */
    p->n -= (uint32_t)total;
    return;
  }
  int64_t residue = p->residue, left = p->count - total;
  memset(p, 0, sizeof *p);
  p->residue = residue;
  p->count = is_plain(sort) ? left : 0;
}

void model_after(model *m, bool idle_only) {
  for (uint32_t i = 0; i < n_watched; i++) {
    int sort = watched[i].sort;
    if (model_has(m->g, watched[i].id, watched[i].generation)) continue;
    content *p = content_of(m, sort, watched[i].tag);
    check(!idle_only || !p->touched);
    if (kit_kind(sort) != CHALK_GAUGE) m->dropped[sort] += watched[i].total;
    forget(m, sort, watched[i].tag, watched[i].total);
  }
  /* A series whose number is free again is given up: what cursors owed of it counts as sent. */
  for (uint32_t i = 0; i < n_owed; i++) {
    if (atomic_load(&m->g->series[owed[i].id].generation) == owed[i].generation) continue;
    for (int c = 0; c < TRACKED; c++) m->cursors[c].sent[owed[i].sort] += owed[i].deltas[c];
  }
}

/* Checking */

static bool is_near(double a, double b, double error) {
  return fabs(a - b) <= error * fabs(b) * (1 + 1e-9) + 8 * DBL_TRUE_MIN;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

void model_check_sketch(const chalk_sketch *k, const double *values, uint32_t n) {
  double sorted[VALUES], sum = 0, all = 0, error = chalk_sketch_error(k);
  check(chalk_sketch_count(k) == n);
  if (n == 0 || n > VALUES) return;
  memcpy(sorted, values, n * sizeof *sorted);
  qsort(sorted, n, sizeof *sorted, by_value);
  for (uint32_t i = 0; i < n; i++) sum += values[i], all += fabs(values[i]);
  check(chalk_sketch_min(k) == sorted[0] && chalk_sketch_max(k) == sorted[n - 1]);
  if (isfinite(all * 2)) check(fabs(chalk_sketch_sum(k) - sum) <= 1e-10 * all + DBL_TRUE_MIN);
  for (int i = 0; i <= 8; i++) {
    uint32_t rank = (uint32_t)(i / 8.0 * (n - 1));
    check(is_near(chalk_sketch_quantile(k, i / 8.0), sorted[rank], error));
  }
}

static void check_histogram(const content *p, chalk_snapshot *s, uint32_t i, int64_t total) {
  double le[CHALK_LES + 1];
  uint64_t counts[CHALK_LES + 1];
  check(total == (int64_t)p->n);
  uint32_t n = chalk_snapshot_les(s, i, le, counts);
  check(n > 0 && counts[n - 1] == p->n);
  for (uint32_t l = 0; l < n && p->n <= VALUES && !p->lossy; l++) {
    uint64_t below = 0;
    for (uint32_t v = 0; v < p->n; v++) below += p->values[v] <= le[l];
    check(below == counts[l]);
  }
  if (!p->lossy) model_check_sketch(must((void *)chalk_snapshot_sketch(s, i)), p->values, p->n);
}

static bool same(double a, double b) { return a == b || (a != a && b != b); }

/*
 * The VMs that have a cell of the series, in the order in which a reader finds them: first links, then rows of cells.
 */
static int order_of(const model *m, uint32_t id, int *order) {
  chalk_segment *g = m->g;
  bool has_link[VMS] = {false};
  int n = 0;
  uint64_t at = segment_chunk_real(g, g->slots[0].chunks, id) ? atomic_load(segment_cell(g, 0, id)) : 0;
  for (; at; at = atomic_load(&((gauge_link *)segment_at(g, at))->next)) {
    uint64_t whose = atomic_load(&((gauge_link *)segment_at(g, at))->whose);
    for (int i = 0; i < VMS; i++) {
      if (m->vms[i] && m->vms[i]->guest && m->vms[i]->whose == whose) has_link[order[n++] = i] = true;
    }
  }
  for (uint32_t w = 1; w < SLOTS; w++) {
    for (int i = 0; i < VMS; i++) {
      if (m->vms[i] && m->vms[i]->slot == w && !has_link[i]) order[n++] = i;
    }
  }
  return n;
}

static bool is_set(const model *m, int sort, const content *p) {
  bool any = sort == GAUGE && p->set;
  for (int i = 0; i < VMS && sort != GAUGE; i++) any = any || (m->vms[i] && p->by_vm[i].set);
  return any;
}

static double combine(const model *m, int sort, const content *p, uint32_t id) {
  double value = p->value;
  if (sort == GAUGE) return value;
  int order[VMS], n = order_of(m, id, order), found = 0, all = 0;
  for (int i = 0; i < n; i++) {
    double v = p->by_vm[order[i]].value;
    if (!p->by_vm[order[i]].set) continue;
    value = !found ? v : sort == TOGETHER ? value + v : v > value ? v : value;
    found++;
  }
  for (int i = 0; i < VMS; i++) all += m->vms[i] && p->by_vm[i].set;
  check(found == all);
  return value;
}

/* What was found in the entries of a snapshot. */
typedef struct seen {
  int64_t totals[KINDS];
  bool at[KINDS][CONTENTS];
} seen;

static void check_entry(model *m, chalk_snapshot *s, uint32_t i, const chalk_entry *entry, seen *all) {
  int sort = (int)entry->metric, tag = tag_of(m, entry->series), at = is_plain(sort) ? 0 : tag;
  const content *p = &m->contents[sort][at];
  check(!all->at[sort][at]);
  all->at[sort][at] = true;
  if (kit_kind(sort) == CHALK_GAUGE) {
    check(is_set(m, sort, p) && same(combine(m, sort, p, entry->series), entry->value));
    return;
  }
  all->totals[sort] += entry->total;
  if (sort == PLAIN || sort == PLAIN_HISTOGRAM) {
    if (sort == PLAIN_HISTOGRAM) check(entry->total <= (int64_t)p->n);
  } else if (kit_kind(sort) == CHALK_HISTOGRAM) {
    check_histogram(p, s, i, entry->total);
  } else {
    check(entry->total >= p->count && entry->total <= p->count + p->residue + m->contents[sort][FOLDED].residue);
  }
}

void model_check_cursor(model *m, tracked *c, chalk_snapshot *s) {
  int64_t deltas[KINDS];
  model_deltas(m, c, s, deltas);
  for (int sort = 0; sort < KINDS; sort++) {
    if (kit_kind(sort) == CHALK_GAUGE) continue;
    check(deltas[sort] + c->sent[sort] == m->dropped[sort] + model_total(m, sort) - c->base[sort]);
  }
}

static void check_sums(model *m, const seen *all) {
  for (int sort = 0; sort < KINDS; sort++) {
    for (int tag = 0; tag < TAGS && kit_kind(sort) == CHALK_GAUGE; tag++) {
      check(all->at[sort][tag] == is_set(m, sort, &m->contents[sort][tag]));
    }
    if (kit_kind(sort) == CHALK_GAUGE) continue;
    check(all->totals[sort] == model_total(m, sort));
    int64_t ever = all->totals[sort] + m->dropped[sort];
    check(m->late ? ever <= m->added[sort] : ever == m->added[sort]);
  }
}

void model_check(model *m) {
  uint32_t n;
  seen all = {0};
  chalk_snapshot *s = must(chalk_snapshot_take(m->g, 0, NULL));
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  for (uint32_t i = 0; i < n; i++) check_entry(m, s, i, &entries[i], &all);
  check_sums(m, &all);
  chalk_snapshot_free(s);
  s = must(chalk_snapshot_take(m->g, 1, NULL));
  for (int c = 0; c < TRACKED; c++) {
    if (m->cursors[c].cursor) model_check_cursor(m, &m->cursors[c], s);
  }
  chalk_snapshot_free(s);
  chalk_info info;
  chalk_segment_info(m->g, &info);
  check(info.series == model_live(m));
}
