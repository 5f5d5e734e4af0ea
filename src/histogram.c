#include "histogram.h"

#include <stdlib.h>
#include <string.h>

#include "heap.h"

enum { FIRST_LOG = 3, MOST_LOG = 15 };

/* A table as its word tells it. */
typedef struct table {
  uint64_t offset; /* in the segment */
  uint32_t log;    /* of its capacity */
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

/* The counts of a wide table come first, for their alignment. */
static shared_u64 *counts_of(const chalk_segment *g, table t) { return segment_at(g, t.offset); }
static shared_u32 *indices_of(const chalk_segment *g, table t) { return segment_at(g, t.offset + (8ull << t.log)); }

static uint32_t step_of(int32_t index, uint32_t log) { return ((uint32_t)(index >> log) * 0x9e3779b1u >> 8) | 1; }

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

/* The place of `index`: where it is or may be put; NONE when it is not there and the table is full. */
static uint32_t place(const chalk_segment *g, table t, int32_t index) {
  uint32_t mask = (1u << t.log) - 1, i = (uint32_t)index & mask, step = step_of(index, t.log);
  for (uint32_t n = 0; n <= mask; n++, i = (i + step) & mask) {
    sketch_bucket b = bucket_at(g, t, i);
    if (b.count == 0 || b.index == index) return i;
  }
  return NONE;
}

static uint64_t most_count(table t) { return t.wide ? UINT64_MAX : UINT32_MAX; }

/* A private copy of a table's buckets, unsorted, at a coarser scale. NULL: out of memory. */
static sketch_bucket *copy_table(const chalk_segment *g, table t, int scale, uint32_t *n) {
  sketch_bucket *out = malloc(sizeof *out << t.log);
  *n = 0;
  for (uint32_t i = 0; out && i < 1u << t.log; i++) {
    sketch_bucket b = bucket_at(g, t, i);
    if (b.count > 0) out[(*n)++] = (sketch_bucket){b.index >> (t.scale - scale), b.count};
  }
  return out;
}

/* Whether a table of this capacity takes n buckets from `low` to `high` without long probes. */
static bool fits(uint32_t log, uint32_t n, int32_t low, int32_t high) {
  uint32_t capacity = 1u << log;
  return n <= capacity / 4 * 3 || (n <= capacity && (int64_t)high - low < (int64_t)capacity);
}

/* Builds a table of these buckets (a side of a private sketch) and publishes it in place of `which`. */
static int publish(chalk_segment *g, histogram *h, int which, const sketch_side *side, int scale) {
  table new = {.log = FIRST_LOG, .scale = scale};
  for (uint32_t i = 0; i < side->n; i++) new.wide = new.wide || side->at[i].count >= UINT32_MAX;
  while (new.log < MOST_LOG && !fits(new.log, side->n, side->at[0].index, side->at[side->n - 1].index)) new.log++;
  new.offset = heap_take(g, table_size(new));
  if (!new.offset) return CHALK_EMEMORY;
  for (uint32_t i = 0; i < side->n; i++) {
    bucket_put(g, new, place(g, new, side->at[i].index), side->at[i]);
  }
  uint64_t old = atomic_load_explicit(&h->table[which], memory_order_relaxed);
  atomic_store_explicit(&h->table[which], pack(new), memory_order_release);
  h->used[which] = side->n;
  atomic_fetch_add_explicit(&h->version, 1, memory_order_seq_cst);
  if (old) heap_give(g, unpack(old).offset, table_size(unpack(old)));
  return CHALK_OK;
}

/*
 * Builds table `which` anew with the bucket added: grown, widened, or collapsed until the sketch keeps its limit.
 * Both signs count against it; the side that needs room is the one that collapses.
 */
static int rebuild(chalk_segment *g, histogram *h, int which, int32_t index, int scale, uint64_t count) {
  uint64_t word = atomic_load_explicit(&h->table[which], memory_order_relaxed);
  chalk_sketch side = {.scale = scale};
  sketch_bucket *old = NULL;
  uint32_t n = 0, limit = atomic_load_explicit(&g->head->max_buckets, memory_order_relaxed);
  int e = CHALK_OK;
  if (word) {
    table t = unpack(word);
    old = copy_table(g, t, t.scale, &n);
    if (!old) return CHALK_EMEMORY;
    side.scale = t.scale;
    e = sketch_side_add(&side.positive, old, n);
  }
  sketch_bucket added = {index >> (scale - side.scale), count};
  if (e == CHALK_OK) e = sketch_side_add(&side.positive, &added, 1);
  while (side.positive.n + h->used[1 - which] > limit && side.scale > SKETCH_LEAST_SCALE) {
    sketch_coarsen(&side, side.scale - 1);
  }
  if (e == CHALK_OK) e = publish(g, h, which, &side.positive, side.scale);
  free(old);
  free(side.positive.at);
  return e;
}

static int add_bucket(chalk_segment *g, histogram *h, int which, int32_t index, int scale, uint64_t count) {
  uint64_t word = atomic_load_explicit(&h->table[which], memory_order_relaxed);
  if (!word) return rebuild(g, h, which, index, scale, count);
  table t = unpack(word);
  int32_t at = index >> (scale - t.scale);
  uint32_t i = place(g, t, at);
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

static void add_to(shared_u64 *counter, uint64_t n) {
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

static uint32_t le_of(const double *le, uint32_t n, double v) {
  uint32_t i = 0;
  for (uint32_t k = 0; k < n; k++) i += v > le[k];
  return i;
}

int histogram_add(chalk_segment *g, histogram *h, const double *le, double v) {
  const sketch_map *map = sketch_map_of((int)h->start_scale);
  if (!map) return CHALK_EMEMORY;
  add_to(&h->le[le_of(le, h->les, v)], 1);
  store_double(&h->sum, load_double(&h->sum) + v);
  if (v < load_double(&h->min)) store_double(&h->min, v);
  if (v > load_double(&h->max)) store_double(&h->max, v);
  if (v == 0) {
    add_to(&h->zero, 1);
    return CHALK_OK;
  }
  int which = v < 0;
  int32_t index = sketch_index(map, which ? -v : v);
  /* The usual case: a narrow table whose bucket is at the first place. */
  uint64_t word = atomic_load_explicit(&h->table[which], memory_order_relaxed);
  if (word && !(word >> 52 & 1)) {
    table t = unpack(word);
    int32_t at = index >> (map->scale - t.scale);
    shared_u64 *p = &counts_of(g, t)[(uint32_t)at & ((1u << t.log) - 1)];
    uint64_t now = atomic_load_explicit(p, memory_order_relaxed);
    if ((int32_t)(now >> 32) == at && (uint32_t)(now - 1) < UINT32_MAX - 1) {
      atomic_store_explicit(p, now + 1, memory_order_relaxed);
      return CHALK_OK;
    }
  }
  return add_bucket(g, h, which, index, map->scale, 1);
}

static int merge_side(chalk_segment *g, histogram *h, int which, const sketch_side *side, int scale) {
  int e = CHALK_OK;
  for (uint32_t i = 0; i < side->n && e == CHALK_OK; i++) {
    int32_t index = side->at[i].index;
    uint64_t word = atomic_load_explicit(&h->table[which], memory_order_relaxed);
    int own = word ? unpack(word).scale : scale;
    /* A bucket coarser than the table's is put at its upper end; a later collapse brings the two together. */
    if (own > scale) index = (int32_t)(((int64_t)index + 1) * (1ll << (own - scale)) - 1);
    e = add_bucket(g, h, which, index, own > scale ? own : scale, side->at[i].count);
  }
  return e;
}

int histogram_merge(chalk_segment *g, histogram *h, const chalk_sketch *k, const uint64_t *les) {
  for (uint32_t i = 0; i <= h->les; i++) add_to(&h->le[i], les[i] - (i ? les[i - 1] : 0));
  add_to(&h->zero, k->zero);
  store_double(&h->sum, load_double(&h->sum) + k->sum);
  if (k->count && k->min < load_double(&h->min)) store_double(&h->min, k->min);
  if (k->count && k->max > load_double(&h->max)) store_double(&h->max, k->max);
  int e = merge_side(g, h, 0, &k->positive, k->scale), f = merge_side(g, h, 1, &k->negative, k->scale);
  return e != CHALK_OK ? e : f;
}

static uint64_t block_size(uint32_t les) { return sizeof(histogram) + (les + 1) * sizeof(uint64_t); }

uint64_t histogram_new(chalk_segment *g, uint32_t les) {
  uint64_t offset = heap_take(g, block_size(les));
  if (!offset) return 0;
  histogram *h = segment_at(g, offset);
  h->les = les;
  h->start_scale = atomic_load_explicit(&g->head->start_scale, memory_order_relaxed);
  store_double(&h->min, as_double(2047ull << 52));
  store_double(&h->max, as_double(4095ull << 52));
  return offset;
}

void histogram_free(chalk_segment *g, uint64_t offset) {
  if (!offset) return;
  histogram *h = segment_at(g, offset);
  for (int which = 0; which < 2; which++) {
    uint64_t word = atomic_load_explicit(&h->table[which], memory_order_relaxed);
    if (word) heap_give(g, unpack(word).offset, table_size(unpack(word)));
  }
  heap_give(g, offset, block_size(h->les));
}

void histogram_read(const histogram *h, histogram_sum *into) {
  uint64_t n = 0;
  for (uint32_t i = 0; i <= h->les; i++) {
    n += atomic_load_explicit((shared_u64 *)&h->le[i], memory_order_relaxed);
    into->le[i] += n;
  }
  into->sum += load_double(&h->sum);
}

uint64_t histogram_count(const histogram *h) {
  uint64_t n = 0;
  for (uint32_t i = 0; i <= h->les; i++) n += atomic_load_explicit((shared_u64 *)&h->le[i], memory_order_relaxed);
  return n;
}

int histogram_read_sketch(const chalk_segment *g, const histogram *block, chalk_sketch *into) {
  histogram *h = (histogram *)block;
  for (int which = 0; which < 2; which++) {
    sketch_bucket *copy = NULL;
    uint32_t n = 0;
    uint64_t version, word;
    table t = {0};
    do {
      free(copy);
      copy = NULL;
      version = atomic_load_explicit(&h->version, memory_order_seq_cst);
      word = atomic_load_explicit(&h->table[which], memory_order_acquire);
      if (!word) break;
      t = unpack(word);
      copy = copy_table(g, t, t.scale, &n);
      if (!copy) return CHALK_EMEMORY;
      atomic_thread_fence(memory_order_acquire);
    } while (atomic_load_explicit(&h->version, memory_order_seq_cst) != version);
    if (!word) continue;
    sketch_coarsen(into, t.scale);
    for (uint32_t i = 0; i < n; i++) {
      copy[i].index >>= t.scale - into->scale;
      into->count += copy[i].count;
    }
    sketch_side *side = which ? &into->negative : &into->positive;
    /* Sorting and joining happen there; equal indices of a coarser scale are joined as they meet. */
    int e = sketch_side_add(side, copy, n);
    free(copy);
    if (e != CHALK_OK) return e;
  }
  uint64_t zero = atomic_load_explicit(&h->zero, memory_order_relaxed);
  into->zero += zero;
  into->count += zero;
  into->sum += load_double(&h->sum);
  if (load_double(&h->min) < into->min) into->min = load_double(&h->min);
  if (load_double(&h->max) > into->max) into->max = load_double(&h->max);
  return CHALK_OK;
}
