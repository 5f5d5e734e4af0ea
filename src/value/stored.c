#include "value/stored.h"

#include <stdlib.h>
#include <string.h>

#include "shm/heap.h"
#include "base/peek.h"
#include "base/tally.h"
#include "value/kind.h"

/* The content of a block: this struct, les + 1 counts, the counts of the buckets, their indices. */
typedef struct stored {
  uint64_t size;
  uint64_t count, zero;
  double sum, min, max;
  int32_t scale;
  uint32_t les;
  uint32_t n_positive, n_negative;
  uint64_t counts[];
} stored;

static uint64_t size_of(uint32_t les, uint64_t buckets) { return sizeof(stored) + (les + 1) * 8ull + buckets * 12; }

/*
 * A block that is known to be inside of the heap, with those of its fields that bound a loop. Each field is read once
 * and then checked, because another process may store there at any time. `at` is NULL if the offset cannot be a block;
 * the block then counts as empty.
 */
typedef struct checked_block {
  const stored *at;
  uint32_t les, n_positive, n;
} checked_block;

/* Inline, because an exporter reads the block of each histogram three times in a flush. */
static inline checked_block check_block(const chalk_segment *g, uint64_t offset) {
  const stored *s = segment_block(g, offset, sizeof *s);
  if (!s) return (checked_block){NULL, 0, 0, 0};
  uint32_t les = peek_u32(&s->les), positive = peek_u32(&s->n_positive);
  uint64_t n = (uint64_t)positive + peek_u32(&s->n_negative);
  bool fits = les <= CHALK_LES && n <= UINT32_MAX && size_of(les, n) <= g->size - offset;
  return fits ? (checked_block){s, les, positive, (uint32_t)n} : (checked_block){NULL, 0, 0, 0};
}

/* Clears only the counts of bounds that exist. */
static void sum_clear(histogram_sum *sum, uint32_t les) {
  sum->les = les;
  sum->sum = 0;
  memset(sum->le, 0, (les + 1) * sizeof *sum->le);
}

int stored_read(const chalk_segment *g, uint32_t id, histogram_sum *sum, chalk_sketch *sketch) {
  int rc = CHALK_OK;
  uint32_t les = segment_metric_of(g, id)->les;
  sum_clear(sum, les < CHALK_LES ? les : CHALK_LES);
  for (uint32_t w = 0; w < segment_slots(g) && rc == CHALK_OK; w++) {
    if (!segment_chunk_real(g, g->slots[w].chunks, id)) continue;
    uint64_t offset = atomic_load_explicit(segment_cell(g, w, id), memory_order_acquire);
    const histogram *h = histogram_at(g, offset);
    if (!h) continue;
    histogram_read(g, h, sum);
    if (sketch) rc = histogram_read_sketch(g, h, sketch);
  }
  return rc;
}

static uint64_t size_for(const histogram_sum *sum, const chalk_sketch *k) {
  return size_of(sum->les, k->positive.n + k->negative.n);
}

static void write_at(chalk_segment *g, uint64_t offset, const histogram_sum *sum, const chalk_sketch *k) {
  uint32_t n = k->positive.n + k->negative.n;
  stored *s = segment_at(g, offset);
  *s = (stored){.size = size_for(sum, k),
                .count = k->count,
                .zero = k->zero,
                .sum = sum->sum,
                .min = k->min,
                .max = k->max,
                .scale = k->scale,
                .les = sum->les,
                .n_positive = k->positive.n,
                .n_negative = k->negative.n};
  memcpy(s->counts, sum->le, (sum->les + 1) * 8ull);
  uint64_t *counts = s->counts + sum->les + 1;
  int32_t *indices = (int32_t *)(counts + n);
  for (uint32_t i = 0; i < n; i++) {
    const sketch_bucket *b = i < k->positive.n ? &k->positive.at[i] : &k->negative.at[i - k->positive.n];
    counts[i] = b->count;
    indices[i] = b->index;
  }
}

uint64_t stored_write(chalk_segment *g, const histogram_sum *sum, const chalk_sketch *k, bool last) {
  uint64_t size = size_for(sum, k), offset = last ? heap_take_last(g, size) : heap_take(g, size);
  if (offset) write_at(g, offset, sum, k);
  return offset;
}

/* The size that a block claims; 0 if there cannot be a block. */
static uint64_t size_at(const chalk_segment *g, uint64_t offset) {
  const stored *s = segment_block(g, offset, sizeof *s);
  return s ? peek_u64(&s->size) : 0;
}

uint64_t stored_write_next(chalk_segment *g, const histogram_sum *sum, const chalk_sketch *k, uint64_t *aside) {
  uint64_t offset = *aside, size = size_for(sum, k), had = offset ? size_at(g, offset) : 0;
  bool same = had == size || (had && heap_rounded(had) == heap_rounded(size));
  if (!same || !segment_block(g, offset, size)) return stored_write(g, sum, k, false);
  *aside = 0;
  write_at(g, offset, sum, k);
  return offset;
}

void stored_set_aside(chalk_segment *g, uint64_t offset, uint64_t *aside) {
  if (!offset) return;
  stored_give(g, *aside);
  *aside = offset;
  /* The compiler must not move stores of the next contents of this block before the store that replaced the block. */
  atomic_signal_fence(memory_order_seq_cst);
}

uint64_t stored_take(chalk_segment *g, uint32_t id) {
  chalk_sketch *k = sketch_new(SKETCH_MOST_SCALE, atomic_load(&g->head->max_buckets));
  histogram_sum sum = {0};
  uint64_t offset = k && stored_read(g, id, &sum, k) == CHALK_OK ? stored_write(g, &sum, k, true) : 0;
  chalk_sketch_free(k);
  return offset;
}

static int load_side(checked_block s, uint32_t first, uint32_t n, sketch_side *side) {
  const uint64_t *counts = s.at->counts + s.les + 1;
  const int32_t *indices = (const int32_t *)(counts + s.n);
  side->n = 0;
  if (n == 0) return CHALK_OK;
  if (sketch_side_reserve(side, n) != CHALK_OK) return CHALK_EMEMORY;
  for (uint32_t i = 0; i < n; i++) side->at[i] = (sketch_bucket){indices[first + i], counts[first + i]};
  side->n = n;
  return CHALK_OK;
}

int stored_sketch(const chalk_segment *g, uint64_t offset, chalk_sketch *k) {
  checked_block v = check_block(g, offset);
  const stored *s = v.at;
  int32_t scale = s ? (int32_t)peek_u32(&s->scale) : SKETCH_MOST_SCALE;
  if (!s || scale < SKETCH_LEAST_SCALE || scale > SKETCH_MOST_SCALE) {
    sketch_clear(k);
    return CHALK_OK;
  }
  k->count = s->count, k->zero = s->zero;
  k->sum = s->sum, k->min = s->min, k->max = s->max;
  k->scale = scale;
  int rc = load_side(v, 0, v.n_positive, &k->positive);
  return rc == CHALK_OK ? load_side(v, v.n_positive, v.n - v.n_positive, &k->negative) : rc;
}

static int merge_sketch(const chalk_segment *g, uint64_t offset, chalk_sketch *into) {
  chalk_sketch k = {.count = 0};
  int rc = stored_sketch(g, offset, &k);
  if (rc == CHALK_OK) rc = chalk_sketch_merge(into, &k);
  sketch_free_sides(&k);
  return rc;
}

int stored_load(const chalk_segment *g, uint64_t offset, histogram_sum *sum, chalk_sketch *k) {
  checked_block v = check_block(g, offset);
  if (sum && v.at) {
    sum->les = v.les;
    sum->sum = v.at->sum;
    memcpy(sum->le, v.at->counts, (v.les + 1) * sizeof *sum->le);
  } else if (sum) {
    sum_clear(sum, 0);
  }
  return k ? merge_sketch(g, offset, k) : CHALK_OK;
}

bool stored_is(const chalk_segment *g, uint64_t offset, const histogram_sum *sum, const chalk_sketch *k) {
  checked_block v = check_block(g, offset);
  return v.at && v.at->counts[v.les] == sum->le[sum->les] && v.at->count == k->count;
}

void stored_give(chalk_segment *g, uint64_t offset) {
  uint64_t size = offset ? size_at(g, offset) : 0;
  if (size) heap_give(g, offset, size);
}

int64_t stored_total(const chalk_segment *g, uint64_t total, uint32_t kind) {
  if (!kind_has_histogram(kind)) return (int64_t)total;
  checked_block v = check_block(g, total);
  return v.at ? (int64_t)v.at->counts[v.les] : 0;
}

uint64_t stored_sketched(const chalk_segment *g, uint64_t total, uint32_t kind) {
  const stored *s = kind_has_histogram(kind) ? segment_block(g, total, sizeof *s) : NULL;
  return s ? s->count : 0;
}

uint64_t stored_sent(const chalk_segment *g, uint32_t cursor, uint32_t id, uint32_t generation) {
  if (!segment_chunk_real(g, g->cursors[cursor].chunks, id)) return 0;
  baseline *b = segment_baseline(g, cursor, id);
  return atomic_load(&b->generation) == generation ? atomic_load(&b->total) : 0;
}

static bool is_further(const chalk_segment *g, uint64_t a, uint64_t b, uint32_t kind) {
  int64_t more = stored_total(g, a, kind) - stored_total(g, b, kind);
  return more > 0 || (more == 0 && stored_sketched(g, a, kind) > stored_sketched(g, b, kind));
}

uint64_t stored_known(const chalk_segment *g, uint32_t id, uint32_t kind) {
  series *s = &g->series[id];
  uint64_t known = atomic_load(&s->at_drop);
  for (uint32_t c = 0; c < CURSORS; c++) {
    if (!atomic_load(&g->cursors[c].state)) continue;
    uint64_t sent = stored_sent(g, c, id, atomic_load(&s->generation));
    if (is_further(g, sent, known, kind)) known = sent;
  }
  return known;
}

void stored_forget_baselines(chalk_segment *g, uint32_t id, uint32_t kind) {
  for (uint32_t c = 0; c < CURSORS; c++) {
    /* Cursors that are not in use are included: a process may have died while it opened or freed one. */
    if (!segment_chunk_real(g, g->cursors[c].chunks, id)) continue;
    baseline *b = segment_baseline(g, c, id);
    uint64_t total = atomic_exchange(&b->total, 0);
    if (kind_has_histogram(kind)) stored_give(g, total);
  }
}

static bool side_is_sound(const int32_t *indices, const uint64_t *counts, uint32_t n, int scale, uint64_t *count) {
  for (uint32_t i = 0; i < n; i++) {
    if (!sketch_index_fits(indices[i], scale) || (i > 0 && indices[i] <= indices[i - 1])) return false;
    if (!tally_add(count, counts[i])) return false;
  }
  return true;
}

bool stored_is_sound(const chalk_segment *g, uint64_t offset, uint32_t les, bool is_baseline, heap_ledger *blocks) {
  checked_block v = check_block(g, offset);
  const stored *s = v.at;
  if (!s || v.les != les || s->size != size_of(les, v.n) || !heap_note(blocks, offset, size_of(les, v.n))) return false;
  int32_t scale = (int32_t)peek_u32(&s->scale);
  if (scale < SKETCH_LEAST_SCALE || scale > SKETCH_MOST_SCALE) return false;
  for (uint32_t i = 0; i <= les; i++) {
    if (s->counts[i] > TALLY_MOST || (!is_baseline && i > 0 && s->counts[i] < s->counts[i - 1])) return false;
  }
  const uint64_t *counts = s->counts + les + 1;
  const int32_t *indices = (const int32_t *)(counts + v.n);
  uint64_t count = 0;
  return tally_add(&count, s->zero) && side_is_sound(indices, counts, v.n_positive, scale, &count) &&
         side_is_sound(indices + v.n_positive, counts + v.n_positive, v.n - v.n_positive, scale, &count) &&
         count == s->count;
}
