/*
 * A histogram in shared memory: exact counts for the `le` bounds of its metric, and a sketch. Each writer has a block
 * of its own for each series; a reader adds up the blocks of all writers.
 *
 *   block                              table, narrow: one word a bucket    table, wide
 *     table[0] ----------------------->  index << 32 | count                 2^log counts of 64 bits
 *     table[1], of negative values       ...                                 then 2^log indices of 32 bits
 *     sum, min, max, zero, le counts     2^log words
 *
 * The buckets of the sketch are in an open-addressing hash table. The hash of a bucket is its index & mask, so
 * neighbouring buckets never collide. A usual distribution is therefore found at the first probe, and a table whose
 * buckets span less than its capacity may fill up completely. A table is narrow until a count would exceed 32 bits, and
 * wide from then on.
 *
 * One word describes a table completely: its offset, capacity and scale, and whether it is wide. To grow, widen or
 * collapse a sketch, the writer builds another table and publishes it with one store of this word, so a writer that is
 * killed at any point leaves a whole sketch. A reader reads while the writer writes and starts again if `version` has
 * moved; the writer moves `version` before the memory of the old table can be reused.
 *
 * One thread at a time writes a block: the owner of the slot, or for slot 0 the thread that holds the lock of the
 * series' stripe. Only this thread calls the functions that change a block.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include "shm/heap.h"
#include "shm/segment.h"
#include "value/sketch.h"

/*
 * The writer stores all fields. Any thread of any process reads the atomic ones, with acquire. `les` and `start_scale`
 * are stored before the block is published and do not change.
 */
typedef struct histogram {
  /*
   * The tables of positive values, and of negative ones by magnitude, as packed words; 0: no table yet. Store-release.
   */
  _Alignas(64) shared_u64 table[2];
  shared_u64 version;   /* counts replaced tables; moves after `table` and before the old table is freed */
  uint32_t used[2];     /* number of buckets in each table */
  uint32_t start_scale; /* the scale of the first table */
  uint32_t les;         /* number of bounds */
  /*
   * The fields that every record uses: a short cut into table[0], which histogram_bind computes whenever a handle is
   * bound, and the sums.
   */
  _Alignas(64) uint64_t place; /* offset of the table, or of `none` if there is no narrow table of positive values */
  uint32_t mask;               /* capacity of the table - 1 */
  uint16_t shift, log;         /* steps from the scale of the plan to that of the table; log2 of the capacity */
  shared_u64 sum, min, max;    /* doubles, relaxed; min and max are infinities until a value is recorded */
  shared_u64 zero;             /* number of recorded zeros; relaxed */
  shared_u64 none;             /* always 0: an empty table for `place` */
  /* `les` + 1 counts, relaxed, not cumulative, the last one for +Inf. The block ends behind them. */
  shared_u64 le[CHALK_LES + 1];
} histogram;

enum { HISTOGRAM_LEAST = offsetof(histogram, le) }; /* a block has at least this many bytes */

/* The counts of one series, summed over all writers. */
typedef struct histogram_sum {
  uint32_t les;
  double sum;
  uint64_t le[CHALK_LES + 1]; /* cumulative; an allocation of this struct may end with the last count that is used */
} histogram_sum;

/*
 * Takes a block for `les` bounds (0 to CHALK_LES) from the heap and returns its offset. 0: the segment is full. `last`:
 * the block is for an overflow series, so the reserved memory may be used.
 */
uint64_t histogram_new(chalk_segment *g, uint32_t les, bool last);
/* Frees a block and its tables. No process can reach the block any more. An offset of 0 is allowed. */
void histogram_free(chalk_segment *g, uint64_t offset);
/*
 * The steps of histogram_free. A caller empties a block while processes can still reach it, and frees it once they
 * cannot: if it dies in between, at most one block is lost. histogram_free_table takes a word of `table`; 0 is allowed.
 */
void histogram_empty(chalk_segment *g, uint64_t offset);
void histogram_free_block(chalk_segment *g, uint64_t offset);
void histogram_free_table(chalk_segment *g, uint64_t table);
/*
 * Copies the contents of the block `other` to the block h and moves the tables of `other` to h. Repeating the call has
 * the same result. `replaced` receives the two tables that h had before, which the caller frees; 0 stands for no table.
 */
void histogram_become(const chalk_segment *g, histogram *h, const histogram *other, uint64_t *replaced);
/* The scale of the first table of the block. At most SKETCH_MOST_SCALE, whatever the memory contains. */
int histogram_start_scale(const histogram *h);
/* The block at the offset that a cell contains. NULL: there cannot be a block at this offset. */
static inline histogram *histogram_at(const chalk_segment *g, uint64_t offset) {
  return offset % _Alignof(histogram) == 0 ? segment_block(g, offset, HISTOGRAM_LEAST) : NULL;
}
/* The size in bytes of a block with `les` bounds. */
uint64_t histogram_size(uint32_t les);
/*
 * The number of bounds that the block states, but at most as many as fit into the mapping. A reader without a lock may
 * find memory here that is no longer a block, and drops what it has read afterwards.
 */
uint32_t histogram_les(const chalk_segment *g, const histogram *h);

/*
 * The data that recording into the histograms of a metric needs besides their blocks. A plan is private and made once
 * for each writer and metric. The bounds are padded with infinities to whole groups of four.
 */
typedef struct histogram_plan {
  char *base; /* of the segment */
  chalk_segment *segment;
  const sketch_map *map; /* of the finest start scale among the blocks bound so far */
  uint32_t groups, les;  /* number of groups of four bounds; number of bounds */
  _Alignas(16) double le[];
} histogram_plan;

/*
 * The map of the newest plan in the process. The usual record takes the map from here instead of from the plan of its
 * series: the processor can then compute the index of the bucket while it still waits for the memory of the series.
 */
extern const sketch_map *_Atomic histogram_usual_map;

/* Makes a plan for `les` increasing bounds. The caller frees it with free(). NULL: out of memory. */
histogram_plan *histogram_plan_new(chalk_segment *g, const double *le, uint32_t les);
/* Prepares a block for records with the plan: computes the short cut anew, whatever its last writer left there. */
void histogram_bind(chalk_segment *g, histogram *h, const histogram_plan *plan);

/*
 * Returns the number of bounds that v is above, without a branch on v. A step makes four comparisons; the default
 * bounds take three steps.
 */
static inline __attribute__((always_inline)) uint32_t histogram_le(const histogram_plan *plan, double v) {
  typedef double pair __attribute__((vector_size(16)));
  typedef int64_t mask __attribute__((vector_size(16)));
  pair value = {v, v};
  mask above = {0, 0};
  const pair *le = (const pair *)plan->le;
  if (plan->groups == 3) {
    above =
        -((value > le[0]) + (value > le[1]) + (value > le[2]) + (value > le[3]) + (value > le[4]) + (value > le[5]));
  } else {
    for (uint32_t i = 0; i < plan->groups; i++, le += 2) above -= (value > le[0]) + (value > le[1]);
  }
  return (uint32_t)(above[0] + above[1]);
}

/* Adds to a count that only the calling thread writes. */
static inline void histogram_bump(shared_u64 *counter, uint64_t n) {
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* Counts v everywhere except in the sketch: bounds, sum, minimum and maximum. */
static inline __attribute__((always_inline)) void histogram_note(histogram *h, const histogram_plan *plan, double v) {
  histogram_bump(&h->le[histogram_le(plan, v)], 1);
  store_double(&h->sum, load_double(&h->sum) + v);
  if (__builtin_expect(v < load_double(&h->min), 0)) store_double(&h->min, v);
  if (__builtin_expect(v > load_double(&h->max), 0)) store_double(&h->max, v);
}

/*
 * A slower part of histogram_add, with the same results, for a bucket that may not be at its first position in the
 * table. `at` is the index of the bucket at the scale of the table.
 */
int histogram_add_probing(const chalk_series *s, double v, int32_t at);
/*
 * The slowest part of histogram_add, for everything that is not usual: zero, a negative or subnormal number, a new
 * bucket, a wide table.
 */
int histogram_add_slow(const chalk_series *s, double v);
/*
 * Records any finite v without the short cut in the block. The master of a server uses it, because the short cut is in
 * memory that its workers can write, and the master does not follow it anywhere. The block has at least as many bounds
 * as the plan.
 */
int histogram_add_without_shortcut(const chalk_series *s, double v);

/* Whether v is above zero, normal and finite. */
static inline bool histogram_is_usual(double v) { return (as_bits(v) >> 52) - 1 < 2046; }

/*
 * The distance between the positions that are probed for a bucket whose first position is taken. Neighbouring buckets
 * have the same step, so they do not collide here either.
 */
static inline uint32_t histogram_step(int32_t index, uint32_t log) {
  return ((uint32_t)(index >> log) * 0x9e3779b1u >> 8) | 1;
}

/*
 * Records a finite v through a bound handle. In the usual case v is a normal number above zero whose bucket exists in a
 * narrow table, mostly at its first position. CHALK_EMEMORY: v is counted, except in the sketch, which had no memory
 * for its bucket.
 */
static inline __attribute__((always_inline)) int histogram_add(const chalk_series *s, double v) {
  if (__builtin_expect(!histogram_is_usual(v), 0)) return histogram_add_slow(s, v);
  const sketch_map *map = atomic_load_explicit(&histogram_usual_map, memory_order_acquire);
  int32_t index = sketch_index_normal(map, as_bits(v));
  histogram *h = s->histogram;
  const histogram_plan *plan = s->plan;
  if (__builtin_expect(plan->map != map, 0)) {
    return histogram_add_probing(s, v, sketch_index_normal(plan->map, as_bits(v)) >> h->shift);
  }
  int32_t at = index >> h->shift;
  shared_u64 *bucket = (shared_u64 *)(plan->base + h->place) + ((uint32_t)at & h->mask);
  uint64_t now = atomic_load_explicit(bucket, memory_order_relaxed);
  if (__builtin_expect((int32_t)(now >> 32) != at, 0)) return histogram_add_probing(s, v, at);
  if (__builtin_expect((uint32_t)now - 1 >= UINT32_MAX - 1, 0)) return histogram_add_slow(s, v);
  atomic_store_explicit(bucket, now + 1, memory_order_relaxed);
  histogram_note(h, plan, v);
  return CHALK_OK;
}

/*
 * Adds a whole sketch, and cumulative counts of the bounds of the block. For residues. CHALK_EMEMORY as for
 * histogram_add.
 */
int histogram_merge(chalk_segment *g, histogram *h, const chalk_sketch *k, const uint64_t *les);

/* Adds the counts of the block, cumulative, for at most as many bounds as `into` has, and its sum. */
void histogram_read(const chalk_segment *g, const histogram *h, histogram_sum *into);
/* Merges the sketch of a block into a private one. CHALK_EMEMORY: `into` contains a part of it. */
int histogram_read_sketch(const chalk_segment *g, const histogram *h, chalk_sketch *into);
/*
 * Whether there is a usable block of `les` bounds at the offset. Notes the memory of the block and its tables in
 * `blocks` and adds all its counts to *count. No other process uses the segment.
 */
bool histogram_is_sound(chalk_segment *g, uint64_t offset, uint32_t les, heap_ledger *blocks, uint64_t *count);
/* The number of values recorded into the block, by the counts of its bounds. */
uint64_t histogram_count(const chalk_segment *g, const histogram *h);

#endif
