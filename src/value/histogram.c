#include "value/histogram.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shm/heap.h"
#include "base/peek.h"
#include "base/tally.h"

enum { FIRST_LOG = 3, MOST_LOG = 15 };

/* A table, unpacked from its word: bits 0 to 39 offset / 8, 40 to 44 log, 45 to 51 scale + 64, 52 wide. */
typedef struct table {
  uint64_t offset; /* in the segment */
  uint32_t log;    /* log2 of the capacity */
  int scale;
  bool wide;
} table;

static uint64_t pack(table t) {
  return t.offset / 8 | (uint64_t)t.log << 40 | (uint64_t)(t.scale + 64) << 45 | (uint64_t)t.wide << 52;
}

static table unpack(uint64_t word) {
  return (table){(word & ((1ull << 40) - 1)) * 8, word >> 40 & 31, (int)(word >> 45 & 127) - 64, word >> 52 & 1};
}

static uint64_t table_size(table t) { return (t.wide ? 12ull : 8ull) << t.log; }

static bool is_table(const chalk_segment *g, table t) {
  return t.log <= MOST_LOG && t.scale >= SKETCH_LEAST_SCALE && t.scale <= SKETCH_MOST_SCALE &&
         segment_block(g, t.offset, table_size(t));
}

/* Reads one of the tables of a histogram. False: there is none, or the word cannot describe a table. */
static bool table_of(const chalk_segment *g, const histogram *h, int which, table *t) {
  uint64_t word = atomic_load_explicit((shared_u64 *)&h->table[which], memory_order_relaxed);
  *t = unpack(word);
  return word && is_table(g, *t);
}

static int scale_of(const void *word) {
  uint32_t scale = peek_u32(word);
  return scale < SKETCH_MOST_SCALE ? (int)scale : SKETCH_MOST_SCALE;
}

int histogram_start_scale(const histogram *h) { return scale_of(&h->start_scale); }

/* In a wide table the counts come before the indices, so that they are aligned. */
static shared_u64 *counts_of(const chalk_segment *g, table t) { return segment_at(g, t.offset); }
static shared_u32 *indices_of(const chalk_segment *g, table t) { return segment_at(g, t.offset + (8ull << t.log)); }

static sketch_bucket bucket_at(const chalk_segment *g, table t, uint32_t i) {
  uint64_t word = atomic_load_explicit(&counts_of(g, t)[i], memory_order_acquire);
  if (!t.wide) return (sketch_bucket){(int32_t)(word >> 32), word & 0xffffffffu};
  return (sketch_bucket){(int32_t)atomic_load_explicit(&indices_of(g, t)[i], memory_order_relaxed), word};
}

static void bucket_put(chalk_segment *g, table t, uint32_t i, sketch_bucket b) {
  if (t.wide) {
    atomic_store_explicit(&indices_of(g, t)[i], (uint32_t)b.index, memory_order_relaxed);
    atomic_store_explicit(&counts_of(g, t)[i], b.count, memory_order_release);
  } else {
    uint64_t word = (uint64_t)(uint32_t)b.index << 32 | b.count;
    atomic_store_explicit(&counts_of(g, t)[i], word, memory_order_release);
  }
}

/* Returns the position of `index`, or the free position for it. NONE: it is not in the table, and the table is full. */
static uint32_t position_of(const chalk_segment *g, table t, int32_t index) {
  uint32_t mask = (1u << t.log) - 1, i = (uint32_t)index & mask, step = histogram_step(index, t.log);
  for (uint32_t n = 0; n <= mask; n++, i = (i + step) & mask) {
    sketch_bucket b = bucket_at(g, t, i);
    if (b.count == 0 || b.index == index) return i;
  }
  return NONE;
}

static uint64_t most_count(table t) { return t.wide ? UINT64_MAX : UINT32_MAX; }

static uint32_t copy_wide(const uint64_t *counts, uint32_t capacity, int steps, sketch_bucket *out) {
  const uint32_t *indices = (const uint32_t *)(counts + capacity);
  uint32_t n = 0;
  for (uint32_t i = 0; i < capacity; i++) {
    uint64_t count = peek_u64(&counts[i]);
    if (count > 0) out[n++] = (sketch_bucket){(int32_t)peek_u32(&indices[i]) >> steps, count};
  }
  return n;
}

static uint32_t copy_narrow(const uint64_t *words, uint32_t capacity, int steps, sketch_bucket *out) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < capacity; i++) {
    uint64_t word = peek_u64(&words[i]);
    if ((uint32_t)word > 0) out[n++] = (sketch_bucket){(int32_t)(word >> 32) >> steps, (uint32_t)word};
  }
  return n;
}

/*
 * Copies the buckets of a table to `out`, unsorted, at a scale not finer than the table's. `out` has the capacity of
 * the table. Returns the number of buckets.
 */
static inline uint32_t copy_table(const chalk_segment *g, table t, int scale, sketch_bucket *out) {
  return (t.wide ? copy_wide : copy_narrow)(segment_at(g, t.offset), 1u << t.log, t.scale - scale, out);
}

/* Whether n buckets with indices from `low` to `high` fit into a table of this capacity without long probes. */
static bool fits(uint32_t log, uint32_t n, int32_t low, int32_t high) {
  uint32_t capacity = 1u << log;
  return n <= capacity / 4 * 3 || (n <= capacity && (int64_t)high - low < (int64_t)capacity);
}

/* Builds a table of the buckets of a private side and publishes it in place of table `which`. */
static int publish(chalk_segment *g, histogram *h, int which, const sketch_side *side, int scale) {
  table new = {.log = FIRST_LOG, .scale = scale};
  for (uint32_t i = 0; i < side->n; i++) new.wide = new.wide || side->at[i].count >= UINT32_MAX;
  while (new.log < MOST_LOG && !fits(new.log, side->n, side->at[0].index, side->at[side->n - 1].index)) new.log++;
  new.offset = heap_take(g, table_size(new));
  if (!new.offset) return CHALK_EMEMORY;
  for (uint32_t i = 0; i < side->n; i++) {
    uint32_t at = position_of(g, new, side->at[i].index);
    if (at != NONE) bucket_put(g, new, at, side->at[i]); /* NONE only if another process stores into the block too */
  }
  uint64_t old = atomic_load_explicit(&h->table[which], memory_order_relaxed);
  atomic_store_explicit(&h->table[which], pack(new), memory_order_release);
  h->used[which] = side->n;
  atomic_fetch_add_explicit(&h->version, 1, memory_order_seq_cst);
  if (old) heap_give(g, unpack(old).offset, table_size(unpack(old)));
  return CHALK_OK;
}

/*
 * The index of a bucket at another scale. At a finer scale, a coarse bucket is counted at its upper end, where a later
 * collapse joins it with its neighbours again.
 */
static int32_t rescale(int32_t index, int from, int to) {
  if (from >= to) return index >> (from - to);
  return (int32_t)(((int64_t)index + 1) * (1ll << (to - from)) - 1);
}

/* Adds the buckets of a table to a private side, at a scale not finer than the table's. */
static int load_table(const chalk_segment *g, table t, int scale, sketch_side *side) {
  sketch_bucket *copy = malloc(sizeof *copy << t.log);
  int rc = copy ? sketch_side_add(side, copy, copy_table(g, t, scale, copy)) : CHALK_EMEMORY;
  free(copy);
  return rc;
}

/*
 * Collapses both signs to one scale at which the sketch keeps its limit, and publishes the table of the other sign.
 * Collapsing only the side that needs capacity would not do: beside a full other side it would collapse down to one
 * bucket, and a reader merges both sides at the coarser scale.
 */
static int collapse(chalk_segment *g, histogram *h, int other, chalk_sketch *k, uint32_t limit) {
  table t;
  bool any = table_of(g, h, other, &t);
  if (any) sketch_coarsen(k, t.scale);
  int rc = any ? load_table(g, t, k->scale, &k->negative) : CHALK_OK;
  while (k->positive.n + k->negative.n > limit && k->scale > SKETCH_LEAST_SCALE) sketch_coarsen(k, k->scale - 1);
  return rc == CHALK_OK && k->negative.n > 0 ? publish(g, h, other, &k->negative, k->scale) : rc;
}

/* Builds table `which` again with the bucket added: larger, wider, or collapsed so that the sketch keeps its limit. */
static int rebuild(chalk_segment *g, histogram *h, int which, int32_t index, int scale, uint64_t count) {
  table t;
  bool any = table_of(g, h, which, &t);
  uint32_t limit = atomic_load_explicit(&g->head->max_buckets, memory_order_relaxed);
  chalk_sketch k = {.scale = scale}; /* `positive` is side `which`, `negative` the other */
  int start = histogram_start_scale(h);
  if (any || scale > start) k.scale = any ? t.scale : start;
  sketch_bucket added = {rescale(index, scale, k.scale), count};
  int rc = any ? load_table(g, t, k.scale, &k.positive) : CHALK_OK;
  if (rc == CHALK_OK) rc = sketch_side_add(&k.positive, &added, 1);
  if (rc == CHALK_OK && k.positive.n + h->used[1 - which] > limit) rc = collapse(g, h, 1 - which, &k, limit);
  if (rc == CHALK_OK) rc = publish(g, h, which, &k.positive, k.scale);
  sketch_free_sides(&k);
  return rc;
}

static int add_bucket(chalk_segment *g, histogram *h, int which, int32_t index, int scale, uint64_t count) {
  table t;
  if (!table_of(g, h, which, &t)) return rebuild(g, h, which, index, scale, count);
  int32_t at = rescale(index, scale, t.scale);
  uint32_t i = position_of(g, t, at);
  if (i == NONE) return rebuild(g, h, which, index, scale, count);
  sketch_bucket b = bucket_at(g, t, i);
  if (b.count == 0) {
    uint32_t limit = atomic_load_explicit(&g->head->max_buckets, memory_order_relaxed);
    if (h->used[0] + h->used[1] >= limit || h->used[which] + 1 > (1u << t.log) / 4 * 3 || count > most_count(t)) {
      return rebuild(g, h, which, index, scale, count);
    }
    h->used[which]++;
  } else if (count > most_count(t) - b.count) {
    return rebuild(g, h, which, index, scale, count);
  }
  bucket_put(g, t, i, (sketch_bucket){at, b.count + count});
  return CHALK_OK;
}

const sketch_map *_Atomic histogram_usual_map;

uint32_t histogram_les(const chalk_segment *g, const histogram *h) {
  uint64_t fit = (g->size - segment_offset(g, h->le)) / sizeof h->le[0];
  uint32_t les = peek_u32(&h->les), most = fit > CHALK_LES ? CHALK_LES : fit > 0 ? (uint32_t)fit - 1 : 0;
  return les < most ? les : most;
}

histogram_plan *histogram_plan_new(chalk_segment *g, const double *le, uint32_t les) {
  uint32_t groups = (les + 3) / 4;
  size_t size = (sizeof(histogram_plan) + groups * 4 * sizeof(double) + 15) & ~(size_t)15;
  histogram_plan *plan = aligned_alloc(16, size);
  if (!plan) return NULL;
  plan->segment = g;
  plan->base = g->base;
  plan->map = sketch_map_of(scale_of(&g->head->start_scale));
  plan->groups = groups;
  plan->les = les;
  for (uint32_t i = 0; i < groups * 4; i++) plan->le[i] = i < les ? le[i] : INFINITY;
  if (plan->map) {
    atomic_store_explicit(&histogram_usual_map, plan->map, memory_order_release);
    return plan;
  }
  free(plan);
  return NULL;
}

void histogram_bind(chalk_segment *g, histogram *h, const histogram_plan *plan) {
  table t;
  bool narrow = table_of(g, h, 0, &t) && !t.wide && t.scale <= plan->map->scale;
  h->place = narrow ? t.offset : segment_offset(g, &h->none);
  h->mask = narrow ? (1u << t.log) - 1 : 0;
  h->shift = narrow ? (uint16_t)(plan->map->scale - t.scale) : 0;
  h->log = narrow ? (uint16_t)t.log : 0;
}

int histogram_add_without_shortcut(const chalk_series *s, double v) {
  histogram *h = s->histogram;
  const histogram_plan *plan = s->plan;
  histogram_note(h, plan, v);
  if (v == 0) {
    histogram_bump(&h->zero, 1);
    return CHALK_OK;
  }
  int32_t index = sketch_index(plan->map, v < 0 ? -v : v);
  return add_bucket(plan->segment, h, v < 0, index, plan->map->scale, 1);
}

int histogram_add_slow(const chalk_series *s, double v) {
  const histogram_plan *plan = s->plan;
  int rc = histogram_add_without_shortcut(s, v);
  if (v != 0) histogram_bind(plan->segment, s->histogram, plan);
  return rc;
}

int histogram_add_probing(const chalk_series *s, double v, int32_t at) {
  histogram *h = s->histogram;
  const histogram_plan *plan = s->plan;
  shared_u64 *table = (shared_u64 *)(plan->base + h->place);
  uint32_t i = (uint32_t)at & h->mask, step = histogram_step(at, h->log);
  for (uint32_t n = 0; n <= h->mask; n++, i = (i + step) & h->mask) {
    uint64_t now = atomic_load_explicit(&table[i], memory_order_relaxed);
    if ((uint32_t)now == 0) break;
    if ((int32_t)(now >> 32) != at) continue;
    if ((uint32_t)now == UINT32_MAX) break;
    atomic_store_explicit(&table[i], now + 1, memory_order_relaxed);
    histogram_note(h, plan, v);
    return CHALK_OK;
  }
  return histogram_add_slow(s, v);
}

static int merge_side(chalk_segment *g, histogram *h, int which, const sketch_side *side, int scale) {
  int rc = CHALK_OK;
  for (uint32_t i = 0; i < side->n && rc == CHALK_OK; i++) {
    rc = add_bucket(g, h, which, side->at[i].index, scale, side->at[i].count);
  }
  return rc;
}

int histogram_merge(chalk_segment *g, histogram *h, const chalk_sketch *k, const uint64_t *les) {
  for (uint32_t i = 0, n = histogram_les(g, h); i <= n; i++) histogram_bump(&h->le[i], les[i] - (i ? les[i - 1] : 0));
  histogram_bump(&h->zero, k->zero);
  store_double(&h->sum, load_double(&h->sum) + k->sum);
  if (k->count && k->min < load_double(&h->min)) store_double(&h->min, k->min);
  if (k->count && k->max > load_double(&h->max)) store_double(&h->max, k->max);
  int positive = merge_side(g, h, 0, &k->positive, k->scale), negative = merge_side(g, h, 1, &k->negative, k->scale);
  return positive != CHALK_OK ? positive : negative;
}

/* Whole cache lines, so that the heap places the block at the beginning of a line. */
uint64_t histogram_size(uint32_t les) {
  return (offsetof(histogram, le) + (les + 1) * sizeof(uint64_t) + 63) & ~(uint64_t)63;
}

uint64_t histogram_new(chalk_segment *g, uint32_t les, bool last) {
  uint64_t offset = last ? heap_take_last(g, histogram_size(les)) : heap_take(g, histogram_size(les));
  histogram *h = offset ? histogram_at(g, offset) : NULL;
  if (!h) return 0;
  h->les = les;
  h->start_scale = atomic_load_explicit(&g->head->start_scale, memory_order_relaxed);
  store_double(&h->min, INFINITY);
  store_double(&h->max, -INFINITY);
  return offset;
}

void histogram_free_table(chalk_segment *g, uint64_t word) {
  if (word) heap_give(g, unpack(word).offset, table_size(unpack(word)));
}

void histogram_empty(chalk_segment *g, uint64_t offset) {
  histogram *h = histogram_at(g, offset);
  for (int which = 0; h && which < 2; which++) histogram_free_table(g, atomic_exchange(&h->table[which], 0));
}

void histogram_free_block(chalk_segment *g, uint64_t offset) {
  const histogram *h = histogram_at(g, offset);
  if (h) heap_give(g, offset, histogram_size(histogram_les(g, h)));
}

void histogram_free(chalk_segment *g, uint64_t offset) {
  if (!offset) return;
  histogram_empty(g, offset);
  histogram_free_block(g, offset);
}

void histogram_become(const chalk_segment *g, histogram *h, const histogram *other, uint64_t *replaced) {
  histogram *from = (histogram *)other;
  uint32_t les = histogram_les(g, h), most = histogram_les(g, from);
  for (int which = 0; which < 2; which++) {
    uint64_t word = atomic_load(&from->table[which]), old = atomic_exchange(&h->table[which], word);
    replaced[which] = old == word ? 0 : old;
    h->used[which] = from->used[which];
  }
  atomic_fetch_add_explicit(&h->version, 1, memory_order_seq_cst);
  for (uint32_t i = 0; i <= les && i <= most; i++) atomic_store(&h->le[i], atomic_load(&from->le[i]));
  atomic_store(&h->zero, atomic_load(&from->zero));
  atomic_store(&h->sum, atomic_load(&from->sum));
  atomic_store(&h->min, atomic_load(&from->min));
  atomic_store(&h->max, atomic_load(&from->max));
}

void histogram_read(const chalk_segment *g, const histogram *h, histogram_sum *into) {
  uint64_t n = 0;
  uint32_t les = histogram_les(g, h);
  if (les > into->les) les = into->les;
  for (uint32_t i = 0; i <= les; i++) {
    n += peek_u64(&h->le[i]);
    into->le[i] += n;
  }
  into->sum += as_double(peek_u64(&h->sum));
}

uint64_t histogram_count(const chalk_segment *g, const histogram *h) {
  uint64_t n = 0;
  for (uint32_t i = 0, les = histogram_les(g, h); i <= les; i++) n += peek_u64(&h->le[i]);
  return n;
}

/* Buckets that were read from a table. Those of a small table need no allocation. */
typedef struct bucket_copy {
  sketch_bucket few[64], *many, *at;
  uint32_t capacity, n;
} bucket_copy;

static int bucket_copy_reserve(bucket_copy *r, uint32_t n) {
  if (n <= r->capacity) return CHALK_OK;
  free(r->many);
  r->at = r->many = malloc(n * sizeof *r->many);
  r->capacity = r->many ? n : 0;
  return r->many ? CHALK_OK : CHALK_EMEMORY;
}

/* Reads all buckets of a table, and the table to *t. Without a table there are no buckets. */
static int read_table(const chalk_segment *g, const histogram *h, int which, table *t, bucket_copy *r) {
  enum { TRIES = 1000 }; /* a writer of chalk is done sooner; anything else may move `version` forever */
  uint64_t version;
  int tries = 0;
  do {
    version = peek_u64(&h->version);
    uint64_t word = peek_u64(&h->table[which]);
    *t = unpack(word);
    r->n = 0;
    if (!word || !is_table(g, *t)) return CHALK_OK;
    if (bucket_copy_reserve(r, 1u << t->log) != CHALK_OK) return CHALK_EMEMORY;
    r->n = copy_table(g, *t, t->scale, r->at);
  } while (peek_u64(&h->version) != version && ++tries < TRIES);
  return CHALK_OK;
}

static int read_side(const chalk_segment *g, const histogram *h, int which, chalk_sketch *into, bucket_copy *r) {
  table t;
  if (read_table(g, h, which, &t, r) != CHALK_OK) return CHALK_EMEMORY;
  if (r->n == 0) return CHALK_OK;
  sketch_coarsen(into, t.scale);
  for (uint32_t i = 0; i < r->n; i++) {
    r->at[i].index >>= t.scale - into->scale;
    into->count += r->at[i].count;
  }
  /* sketch_side_add sorts the buckets and joins those that have the same index at the coarser scale. */
  return sketch_side_add(which ? &into->negative : &into->positive, r->at, r->n);
}

int histogram_read_sketch(const chalk_segment *g, const histogram *h, chalk_sketch *into) {
  bucket_copy r; /* not initialised, because that would take as long as reading a small table */
  r.at = r.few, r.many = NULL, r.capacity = sizeof r.few / sizeof *r.few;
  int rc = CHALK_OK;
  for (int which = 0; which < 2 && rc == CHALK_OK; which++) {
    if (peek_u64(&h->table[which])) rc = read_side(g, h, which, into, &r);
  }
  free(r.many);
  if (rc != CHALK_OK) return rc;
  uint64_t zero = peek_u64(&h->zero);
  double min = as_double(peek_u64(&h->min)), max = as_double(peek_u64(&h->max));
  into->zero += zero;
  into->count += zero;
  into->sum += as_double(peek_u64(&h->sum));
  if (min < into->min) into->min = min;
  if (max > into->max) into->max = max;
  return CHALK_OK;
}

static bool table_is_sound(chalk_segment *g, histogram *h, int which, heap_ledger *blocks, uint64_t *count) {
  uint64_t word = atomic_load(&h->table[which]);
  table t = unpack(word);
  h->used[which] = 0;
  if (!word) return true;
  if (!is_table(g, t) || !heap_note(blocks, t.offset, table_size(t))) return false;
  for (uint32_t i = 0; i < 1u << t.log; i++) {
    sketch_bucket b = bucket_at(g, t, i);
    if (!tally_add(count, b.count) || (b.count > 0 && !sketch_index_fits(b.index, t.scale))) return false;
    h->used[which] += b.count > 0;
  }
  return true;
}

bool histogram_is_sound(chalk_segment *g, uint64_t offset, uint32_t les, heap_ledger *blocks, uint64_t *count) {
  histogram *h = segment_block(g, offset, histogram_size(les));
  if (!h || offset % 64 != 0 || !heap_note(blocks, offset, histogram_size(les))) return false;
  if (h->les != les || h->start_scale > SKETCH_MOST_SCALE || !tally_add(count, atomic_load(&h->zero))) return false;
  for (uint32_t i = 0; i <= les; i++) {
    if (!tally_add(count, atomic_load(&h->le[i]))) return false;
  }
  atomic_store(&h->none, 0);
  return table_is_sound(g, h, 0, blocks, count) && table_is_sound(g, h, 1, blocks, count);
}
