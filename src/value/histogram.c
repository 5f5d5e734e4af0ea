#include "value/histogram.h"

#include <stdlib.h>
#include <string.h>

#include "shm/heap.h"
#include "base/peek.h"
#include "base/tally.h"

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

static bool is_table(const chalk_segment *g, table t) {
  return t.log <= MOST_LOG && t.scale >= SKETCH_LEAST_SCALE && t.scale <= SKETCH_MOST_SCALE &&
         segment_block(g, t.offset, table_size(t));
}

/* One of a histogram's tables; false: there is none, or what stands there cannot be one. */
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

/* The counts of a wide table come first, for their alignment. */
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

/* The place of `index`: where it is or may be put; NONE when it is not there and the table is full. */
static uint32_t place(const chalk_segment *g, table t, int32_t index) {
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

/* A table's buckets, unsorted, at a coarser scale; `out` has room for all that it can hold. Returns how many. */
static inline uint32_t copy_table(const chalk_segment *g, table t, int scale, sketch_bucket *out) {
  return (t.wide ? copy_wide : copy_narrow)(segment_at(g, t.offset), 1u << t.log, t.scale - scale, out);
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
    uint32_t at = place(g, new, side->at[i].index);
    if (at != NONE) bucket_put(g, new, at, side->at[i]); /* there is room, unless others store into the block too */
  }
  uint64_t old = atomic_load_explicit(&h->table[which], memory_order_relaxed);
  atomic_store_explicit(&h->table[which], pack(new), memory_order_release);
  h->used[which] = side->n;
  atomic_fetch_add_explicit(&h->version, 1, memory_order_seq_cst);
  if (old) heap_give(g, unpack(old).offset, table_size(unpack(old)));
  return CHALK_OK;
}

/* A bucket's index at another scale; a coarse bucket is put at its upper end, where a later collapse joins the two. */
static int32_t rescale(int32_t index, int from, int to) {
  if (from >= to) return index >> (from - to);
  return (int32_t)(((int64_t)index + 1) * (1ll << (to - from)) - 1);
}

/* Adds a table's buckets to a private side, at a scale not finer than the table's. */
static int load_table(const chalk_segment *g, table t, int scale, sketch_side *side) {
  sketch_bucket *copy = malloc(sizeof *copy << t.log);
  int e = copy ? sketch_side_add(side, copy, copy_table(g, t, scale, copy)) : CHALK_EMEMORY;
  free(copy);
  return e;
}

/*
 * Collapses both signs to one scale at which the sketch keeps its limit, and publishes the other one. If only the side
 * that needs room collapsed, a single value would ruin it beside a full other side, and a reader's whole sketch with it.
 */
static int collapse(chalk_segment *g, histogram *h, int other, chalk_sketch *k, uint32_t limit) {
  table t;
  bool any = table_of(g, h, other, &t);
  if (any) sketch_coarsen(k, t.scale);
  int e = any ? load_table(g, t, k->scale, &k->negative) : CHALK_OK;
  while (k->positive.n + k->negative.n > limit && k->scale > SKETCH_LEAST_SCALE) sketch_coarsen(k, k->scale - 1);
  return e == CHALK_OK && k->negative.n > 0 ? publish(g, h, other, &k->negative, k->scale) : e;
}

/* Builds table `which` anew with the bucket added: grown, widened, or collapsed so that the sketch keeps its limit. */
static int rebuild(chalk_segment *g, histogram *h, int which, int32_t index, int scale, uint64_t count) {
  table t;
  bool any = table_of(g, h, which, &t);
  uint32_t limit = atomic_load_explicit(&g->head->max_buckets, memory_order_relaxed);
  chalk_sketch k = {.scale = scale}; /* `positive` is this side, `negative` the other */
  int start = histogram_start_scale(h);
  if (any || scale > start) k.scale = any ? t.scale : start;
  sketch_bucket added = {rescale(index, scale, k.scale), count};
  int e = any ? load_table(g, t, k.scale, &k.positive) : CHALK_OK;
  if (e == CHALK_OK) e = sketch_side_add(&k.positive, &added, 1);
  if (e == CHALK_OK && k.positive.n + h->used[1 - which] > limit) e = collapse(g, h, 1 - which, &k, limit);
  if (e == CHALK_OK) e = publish(g, h, which, &k.positive, k.scale);
  sketch_free_sides(&k);
  return e;
}

static int add_bucket(chalk_segment *g, histogram *h, int which, int32_t index, int scale, uint64_t count) {
  table t;
  if (!table_of(g, h, which, &t)) return rebuild(g, h, which, index, scale, count);
  int32_t at = rescale(index, scale, t.scale);
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

const sketch_map *_Atomic histogram_usual_map;

uint32_t histogram_les(const chalk_segment *g, const histogram *h) {
  uint64_t room = (g->size - segment_offset(g, h->le)) / sizeof h->le[0];
  uint32_t les = peek_u32(&h->les), most = room > CHALK_LES ? CHALK_LES : room > 0 ? (uint32_t)room - 1 : 0;
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
  for (uint32_t i = 0; i < groups * 4; i++) plan->le[i] = i < les ? le[i] : as_double(2047ull << 52);
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

int histogram_add_warily(const chalk_series *s, double v) {
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

int histogram_add_otherwise(const chalk_series *s, double v) {
  const histogram_plan *plan = s->plan;
  int e = histogram_add_warily(s, v);
  if (v != 0) histogram_bind(plan->segment, s->histogram, plan);
  return e;
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
  return histogram_add_otherwise(s, v);
}

static int merge_side(chalk_segment *g, histogram *h, int which, const sketch_side *side, int scale) {
  int e = CHALK_OK;
  for (uint32_t i = 0; i < side->n && e == CHALK_OK; i++) {
    e = add_bucket(g, h, which, side->at[i].index, scale, side->at[i].count);
  }
  return e;
}

int histogram_merge(chalk_segment *g, histogram *h, const chalk_sketch *k, const uint64_t *les) {
  for (uint32_t i = 0, n = histogram_les(g, h); i <= n; i++) histogram_bump(&h->le[i], les[i] - (i ? les[i - 1] : 0));
  histogram_bump(&h->zero, k->zero);
  store_double(&h->sum, load_double(&h->sum) + k->sum);
  if (k->count && k->min < load_double(&h->min)) store_double(&h->min, k->min);
  if (k->count && k->max > load_double(&h->max)) store_double(&h->max, k->max);
  int e = merge_side(g, h, 0, &k->positive, k->scale), f = merge_side(g, h, 1, &k->negative, k->scale);
  return e != CHALK_OK ? e : f;
}

/* Whole cache lines, so that the heap begins it with one. */
uint64_t histogram_size(uint32_t les) {
  return (offsetof(histogram, le) + (les + 1) * sizeof(uint64_t) + 63) & ~(uint64_t)63;
}

uint64_t histogram_new(chalk_segment *g, uint32_t les, bool last) {
  uint64_t offset = last ? heap_take_last(g, histogram_size(les)) : heap_take(g, histogram_size(les));
  histogram *h = offset ? histogram_at(g, offset) : NULL;
  if (!h) return 0;
  h->les = les;
  h->start_scale = atomic_load_explicit(&g->head->start_scale, memory_order_relaxed);
  store_double(&h->min, as_double(2047ull << 52));
  store_double(&h->max, as_double(4095ull << 52));
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

/* Buckets read from a table: a small one's need no memory of their own. */
typedef struct reading {
  sketch_bucket few[64], *many, *at;
  uint32_t room, n;
} reading;

static int reading_reserve(reading *r, uint32_t n) {
  if (n <= r->room) return CHALK_OK;
  free(r->many);
  r->at = r->many = malloc(n * sizeof *r->many);
  r->room = r->many ? n : 0;
  return r->many ? CHALK_OK : CHALK_EMEMORY;
}

/* All buckets of a table, as *t; none where there is no table. */
static int read_table(const chalk_segment *g, const histogram *h, int which, table *t, reading *r) {
  enum { TRIES = 1000 }; /* the writer is done sooner, if it is one */
  uint64_t version;
  int tries = 0;
  do {
    version = peek_u64(&h->version);
    uint64_t word = peek_u64(&h->table[which]);
    *t = unpack(word);
    r->n = 0;
    if (!word || !is_table(g, *t)) return CHALK_OK;
    if (reading_reserve(r, 1u << t->log) != CHALK_OK) return CHALK_EMEMORY;
    r->n = copy_table(g, *t, t->scale, r->at);
  } while (peek_u64(&h->version) != version && ++tries < TRIES);
  return CHALK_OK;
}

static int read_side(const chalk_segment *g, const histogram *h, int which, chalk_sketch *into, reading *r) {
  table t;
  if (read_table(g, h, which, &t, r) != CHALK_OK) return CHALK_EMEMORY;
  if (r->n == 0) return CHALK_OK;
  sketch_coarsen(into, t.scale);
  for (uint32_t i = 0; i < r->n; i++) {
    r->at[i].index >>= t.scale - into->scale;
    into->count += r->at[i].count;
  }
  /* Sorting and joining happen there; equal indices of a coarser scale are joined as they meet. */
  return sketch_side_add(which ? &into->negative : &into->positive, r->at, r->n);
}

int histogram_read_sketch(const chalk_segment *g, const histogram *h, chalk_sketch *into) {
  reading r; /* not emptied: that would take as long as reading a small one */
  r.at = r.few, r.many = NULL, r.room = sizeof r.few / sizeof *r.few;
  int e = CHALK_OK;
  for (int which = 0; which < 2 && e == CHALK_OK; which++) {
    if (peek_u64(&h->table[which])) e = read_side(g, h, which, into, &r);
  }
  free(r.many);
  if (e != CHALK_OK) return e;
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
