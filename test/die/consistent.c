#include "consistent.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "series/gauge.h"
#include "shm/heap.h"
#include "value/histogram.h"
#include "series/key.h"
#include "series/series.h"
#include "record/tap.h"
#include "record/writer.h"

typedef struct block {
  uint64_t at, size;
  const char *what;
} block;

typedef struct walk {
  chalk_segment *g;
  block *blocks;
  size_t n, capacity;
  char *wrong;
} walk;

static char sentence[256];

static void wrong(walk *w, const char *format, ...) {
  if (w->wrong) return;
  va_list args;
  va_start(args, format);
  vsnprintf(sentence, sizeof sentence, format, args);
  va_end(args);
  w->wrong = sentence;
}

static void note(walk *w, uint64_t at, uint64_t size, const char *what) {
  if (at == 0 || w->wrong) return;
  if (w->n == w->capacity) {
    w->capacity = w->capacity ? 2 * w->capacity : 1024;
    w->blocks = realloc(w->blocks, w->capacity * sizeof *w->blocks);
  }
  w->blocks[w->n++] = (block){at, heap_rounded(size), what};
}

static uint32_t state_of(const series *s) { return atomic_load((shared_u32 *)&s->state) & 255; }

/* The heap */

static uint64_t class_size(uint32_t class) {
  uint64_t base = 16ull << class / 4, size = (base + base / 4 * (class % 4) + 7) & ~7ull;
  return size >= 1024 ? size + 64 : size;
}

static void note_free(walk *w) {
  header *h = w->g->head;
  uint64_t most = (h->heap_top - h->heap) / 16;
  for (uint32_t c = 0; c < HEAP_CLASSES; c++) {
    uint64_t n = 0;
    for (uint64_t at = h->heap_free[c]; at != 0; at = *(uint64_t *)segment_at(w->g, at)) {
      if (at < h->heap || at + class_size(c) > h->heap_top || n++ > most) {
        wrong(w, "the list of free blocks of class %u is broken", c);
        return;
      }
      note(w, at, 0, "free");
      w->blocks[w->n - 1].size = class_size(c);
    }
  }
}

static int by_offset(const void *a, const void *b) {
  uint64_t x = ((const block *)a)->at, y = ((const block *)b)->at;
  return (x > y) - (x < y);
}

static uint64_t sum_lost(walk *w) {
  header *h = w->g->head;
  uint64_t lost = 0, end = h->heap;
  if (w->n > 0) qsort(w->blocks, w->n, sizeof *w->blocks, by_offset);
  for (size_t i = 0; i < w->n; i++) {
    const block *b = &w->blocks[i];
    if (b->at < end) {
      wrong(w, "two owners of one block: %s, and %s before it", b->what, i ? w->blocks[i - 1].what : "nobody");
    }
    uint64_t aligned = b->size % 64 == 0 ? (end + 63) / 64 * 64 : end;
    if (b->at > aligned) lost += b->at - end;
    end = b->at + b->size;
  }
  if (end > h->heap_top) wrong(w, "a block behind the end of the heap");
  return lost + (h->heap_top - end);
}

/* Histograms and stored sketches */

static void note_histogram(walk *w, uint64_t at) {
  const histogram *h = segment_block(w->g, at, HISTOGRAM_LEAST);
  if (!h || h->les > CHALK_LES) {
    wrong(w, "a cell that should point to a histogram does not");
    return;
  }
  note(w, at, (offsetof(histogram, le) + (h->les + 1) * 8ull + 63) & ~63ull, "histogram");
  for (int which = 0; which < 2; which++) {
    uint64_t word = atomic_load((shared_u64 *)&h->table[which]);
    note(w, (word & ((1ull << 40) - 1)) * 8, ((word >> 52 & 1) ? 12ull : 8ull) << (word >> 40 & 31), "table");
  }
}

static void note_stored(walk *w, uint64_t at) {
  if (at) note(w, at, *(uint64_t *)segment_at(w->g, at), "stored sketch");
}

/* Series */

static void note_gauges(walk *w, uint32_t slot, uint64_t at) {
  if (slot != 0) {
    note(w, at, GAUGE_BLOCK, "gauge");
    return;
  }
  for (uint32_t links = 0; at; at = atomic_load(&((gauge_link *)segment_at(w->g, at))->next)) {
    if (!segment_block(w->g, at, sizeof(gauge_link)) || links++ > OWNERS) {
      wrong(w, "a list of gauges is broken");
      return;
    }
    note(w, at, sizeof(gauge_link), "link");
  }
}

static void note_cells(walk *w, uint32_t id, const metric *m) {
  chalk_segment *g = w->g;
  for (uint32_t i = 0; i < atomic_load(&g->head->slot_top); i++) {
    if (!segment_chunk_real(g, g->slots[i].chunks, id)) continue;
    uint64_t bits = atomic_load(segment_cell(g, i, id));
    if (bits == 0) continue;
    if (!m) wrong(w, "a free number, %u, has a value in slot %u", id, i);
    if (m && m->kind == CHALK_HISTOGRAM) note_histogram(w, bits);
    if (m && m->kind == CHALK_GAUGE && m->across != CHALK_LAST) note_gauges(w, i, bits);
  }
}

static void note_baselines(walk *w, uint32_t id, const metric *m) {
  chalk_segment *g = w->g;
  for (uint32_t i = 0; i < CURSORS; i++) {
    if (!segment_chunk_real(g, g->cursors[i].chunks, id)) continue;
    uint64_t total = atomic_load(&segment_baseline(g, i, id)->total);
    if (!m && total) wrong(w, "a free number, %u, has a baseline", id);
    if (m && m->kind == CHALK_HISTOGRAM) note_stored(w, total);
  }
}

static uint32_t links_to(chalk_segment *g, const stripe *t, uint32_t id) {
  const uint32_t *heads = segment_at(g, t->heads);
  uint32_t found = 0, steps = 0;
  for (uint32_t at = heads[g->series[id].hash & (t->size - 1)]; at != NONE; at = g->series[at].next) {
    found += at == id;
    if (steps++ > series_top(g)) return NONE;
  }
  return found;
}

static void look_at_live(walk *w, uint32_t id) {
  chalk_segment *g = w->g;
  const series *s = &g->series[id];
  series_key key = {s->metric, s->key_size, segment_at(g, s->key), s->hash};
  if (key_hash(s->metric, key.bytes, key.size) != s->hash) wrong(w, "series %u has another key's hash", id);
  if (atomic_load(&g->metrics[s->metric].state) == METRIC_FREE) wrong(w, "series %u has no metric", id);
  uint32_t found = NONE, links = links_to(g, &g->stripes[s->hash >> 58], id);
  if (links != 1) wrong(w, "series %u is in its chain %d times", id, (int)links);
  if (w->wrong) return;
  int rc = series_hold(g, &key, &found);
  series_let_go(g, &key);
  if (rc != CHALK_OK || found != id) wrong(w, "series %u is not found by its key: %u", id, found);
}

static void walk_series(walk *w, census *c) {
  chalk_segment *g = w->g;
  for (uint32_t id = METRICS; id < series_top(g) && !w->wrong; id++) {
    series *s = &g->series[id];
    uint32_t state = state_of(s);
    bool used = state == SERIES_LIVE || state == SERIES_DROPPED;
    const metric *m = used ? &g->metrics[s->metric] : NULL;
    if (state == SERIES_RESERVED) wrong(w, "number %u is reserved for ever", id);
    if (state == SERIES_LIVE) look_at_live(w, id);
    c->live += state == SERIES_LIVE && m->max_series != NONE;
    c->dropped += state == SERIES_DROPPED;
    if (used && s->key_size) note(w, s->key, s->key_size, "key");
    uint64_t at_drop = atomic_load(&s->at_drop);
    if (used && m->kind == CHALK_HISTOGRAM) note_stored(w, at_drop);
    note_cells(w, id, m);
    note_baselines(w, id, m);
  }
  if (c->live != atomic_load(&g->head->live))
    wrong(w, "%u live series, %u counted", c->live, atomic_load(&g->head->live));
  if (c->dropped != atomic_load(&g->head->quarantined)) {
    wrong(w, "%u dropped series, %u counted", c->dropped, atomic_load(&g->head->quarantined));
  }
}

static void walk_free_numbers(walk *w) {
  chalk_segment *g = w->g;
  uint32_t listed = 0, all = 0, top = series_top(g);
  for (uint32_t id = METRICS; id < top; id++) all += state_of(&g->series[id]) == SERIES_FREE;
  for (uint32_t id = g->head->ids_free; id != NONE; id = g->series[id].next) {
    if (id < METRICS || id >= top || state_of(&g->series[id]) != SERIES_FREE || listed++ > top) {
      wrong(w, "the list of free numbers is broken at %u", id);
      return;
    }
  }
  if (listed != all) wrong(w, "%u free numbers, %u in their list", all, listed);
}

static void walk_metrics(walk *w) {
  chalk_segment *g = w->g;
  for (uint32_t i = 0; i < atomic_load(&g->head->metric_top); i++) {
    const metric *m = &g->metrics[i];
    bool is_free = atomic_load((shared_u32 *)&m->state) == METRIC_FREE;
    uint64_t blob = atomic_load((shared_u64 *)&m->blob);
    note(w, m->name, m->name_size, "name");
    note(w, m->shape, m->shape_size, "shape");
    note(w, m->le, m->les * 8ull, "bounds");
    if (blob) note(w, blob, 8 + *(uint64_t *)segment_at(g, blob), "blob");
    if (!is_free && !(m->name && m->shape && m->le && blob)) wrong(w, "metric %u is not whole", i);
    note_cells(w, i, is_free ? NULL : m);
    note_baselines(w, i, is_free ? NULL : m);
  }
}

static void note_ring(walk *w, uint64_t at) {
  if (at) note(w, at, sizeof(tap_ring) + ((tap_ring *)segment_at(w->g, at))->size * sizeof(chalk_event), "ring");
}

const char *consistent(chalk_segment *g, census *c) {
  walk w = {.g = g};
  *c = (census){0};
  for (uint32_t i = 0; i < STRIPES; i++) note(&w, g->stripes[i].heads, g->stripes[i].size * 4ull, "heads");
  for (uint32_t i = 0; i < WRITERS; i++) {
    note_ring(&w, atomic_load(&g->slots[i].ring));
    note_ring(&w, atomic_load(&g->slots[i].ring_old));
  }
  walk_metrics(&w);
  walk_series(&w, c);
  walk_free_numbers(&w);
  note_free(&w);
  c->lost = sum_lost(&w);
  free(w.blocks);
  return w.wrong;
}
