/*
 * A histogram's block in shared memory: exact counts of the `le` bounds, and a sketch. One for each series and writer.
 *
 * The sketch's buckets stand in an open-addressing table, at index & mask: neighbouring buckets never collide, so the
 * usual distribution is found at the first probe, and the table may fill up when its span is below its capacity. A
 * table is narrow (index and a 32-bit count in one word) or, once a count would overflow, wide (an array of indices,
 * then one of 64-bit counts).
 *
 * One word says all of a table: where it is, how large, at which scale, narrow or wide. Growing, widening and
 * collapsing build another table and publish it by storing that word; a writer killed anywhere leaves a whole sketch.
 * A reader reads beside the writer and starts again if `version` moved, which it does before the old table is reused.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include "shm/heap.h"
#include "shm/segment.h"
#include "value/sketch.h"

typedef struct histogram {
  _Alignas(64) shared_u64 table[2]; /* positive values, negative ones by magnitude; 0: none yet */
  shared_u64 version;
  uint32_t used[2];     /* the writer's */
  uint32_t start_scale; /* of a first table */
  uint32_t les;
  /* What every record touches: a short cut into table[0], worked out anew whenever the block is bound, and sums. */
  _Alignas(64) uint64_t place;
  uint32_t mask;
  uint16_t shift, log;
  shared_u64 sum, min, max; /* doubles */
  shared_u64 zero;
  shared_u64 none;              /* always 0: what `place` points at while there is no narrow table of positive values */
  shared_u64 le[CHALK_LES + 1]; /* `les` + 1 counts, not cumulative; the last is +Inf; a block ends there */
} histogram;

enum { HISTOGRAM_LEAST = offsetof(histogram, le) }; /* bytes of any block, at least */

/* What was read of one series' histogram, over all writers. */
typedef struct histogram_sum {
  uint32_t les;
  double sum;
  uint64_t le[CHALK_LES + 1]; /* cumulative; what is kept may end with the last one */
} histogram_sum;

/* A new block for `les` bounds; 0 when the segment is full. `last`: for an overflow series. */
uint64_t histogram_new(chalk_segment *g, uint32_t les, bool last);
void histogram_free(chalk_segment *g, uint64_t offset);
/* The parts of that: a block that stays reachable until it has no tables any more loses one at most to a death. */
void histogram_empty(chalk_segment *g, uint64_t offset);
void histogram_free_block(chalk_segment *g, uint64_t offset);
void histogram_free_table(chalk_segment *g, uint64_t table);
/*
 * Makes a block equal to another, whose tables are then its own; the same when done again. `replaced` gets the tables
 * it had, for the caller to free; 0 where it had none.
 */
void histogram_become(const chalk_segment *g, histogram *h, const histogram *other, uint64_t *replaced);
/* The scale of a first table. */
int histogram_start_scale(const histogram *h);
/* The block that a cell points to; NULL: none can stand there. */
static inline histogram *histogram_at(const chalk_segment *g, uint64_t offset) {
  return offset % _Alignof(histogram) == 0 ? segment_block(g, offset, HISTOGRAM_LEAST) : NULL;
}
/* Bytes of a block of `les` bounds. */
uint64_t histogram_size(uint32_t les);
/*
 * How many bounds a block has, as it says, but no more than there can be in the mapping: a reader without a lock may
 * meet what is no longer a block, and what it reads then is thrown away.
 */
uint32_t histogram_les(const chalk_segment *g, const histogram *h);

/*
 * What recording into a metric's histograms needs, apart from the block: private to a process, made once for a writer
 * and metric. The bounds are padded with infinities to whole groups of four.
 */
typedef struct histogram_plan {
  char *base; /* the segment's */
  chalk_segment *segment;
  const sketch_map *map;
  uint32_t groups, les;
  _Alignas(16) double le[];
} histogram_plan;

/*
 * The map of the process's newest plan. The usual record takes it from here, and not from its series' plan, because the
 * processor then works out the bucket's index while it still waits for the series.
 */
extern const sketch_map *_Atomic histogram_usual_map;

/* NULL: out of memory. Freed with free(). */
histogram_plan *histogram_plan_new(chalk_segment *g, const double *le, uint32_t les);
/* Makes a block ready for recording, whatever state its last writer left it in. */
void histogram_bind(chalk_segment *g, histogram *h, const histogram_plan *plan);

/*
 * How many bounds v is above, without a branch on v: four comparisons a step; three steps for
 * the default bounds.
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

static inline void histogram_bump(shared_u64 *counter, uint64_t n) {
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* All of a record but the sketch's bucket. */
static inline __attribute__((always_inline)) void histogram_note(histogram *h, const histogram_plan *plan, double v) {
  histogram_bump(&h->le[histogram_le(plan, v)], 1);
  store_double(&h->sum, load_double(&h->sum) + v);
  if (__builtin_expect(v < load_double(&h->min), 0)) store_double(&h->min, v);
  if (__builtin_expect(v > load_double(&h->max), 0)) store_double(&h->max, v);
}

/* The bucket, `at` the table's scale, may not be at its first place. */
int histogram_add_probing(const chalk_series *s, double v, int32_t at);
/* Not the usual case: zero, negative, tiny; a new bucket, a wide table. */
int histogram_add_otherwise(const chalk_series *s, double v);
/*
 * Any case, without the short cuts that stand in the block: for those who must not go where others may have led them.
 * The block is at least as large as the plan's bounds take.
 */
int histogram_add_warily(const chalk_series *s, double v);

/* Above zero, normal and finite. */
static inline bool histogram_is_usual(double v) { return (as_bits(v) >> 52) - 1 < 2046; }

/* The step from place to place of a bucket whose first one is taken: neighbouring buckets have the same. */
static inline uint32_t histogram_step(int32_t index, uint32_t log) {
  return ((uint32_t)(index >> log) * 0x9e3779b1u >> 8) | 1;
}

/*
 * Records v, finite, through a bound handle. CHALK_EMEMORY: counted, but the sketch had no room. One caller at a time.
 * The usual case is a normal number above zero whose bucket stands in a narrow table, mostly at its first place.
 */
static inline __attribute__((always_inline)) int histogram_add(const chalk_series *s, double v) {
  if (__builtin_expect(!histogram_is_usual(v), 0)) return histogram_add_otherwise(s, v);
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
  if (__builtin_expect((uint32_t)now - 1 >= UINT32_MAX - 1, 0)) return histogram_add_otherwise(s, v);
  atomic_store_explicit(bucket, now + 1, memory_order_relaxed);
  histogram_note(h, plan, v);
  return CHALK_OK;
}

/* Adds a whole sketch and counts (cumulative), for residues. One caller at a time. */
int histogram_merge(chalk_segment *g, histogram *h, const chalk_sketch *k, const uint64_t *les);

/* Adds the counts of a block, cumulative, of no more bounds than `into` has, and its sum. */
void histogram_read(const chalk_segment *g, const histogram *h, histogram_sum *into);
/* Merges a block's sketch into a private one. */
int histogram_read_sketch(const chalk_segment *g, const histogram *h, chalk_sketch *into);
/* Whether a block of `les` bounds stands there that can be used; adds all counts in it to *count. Nobody else may use it. */
bool histogram_is_sound(chalk_segment *g, uint64_t offset, uint32_t les, heap_ledger *blocks, uint64_t *count);
/* How many values were recorded. */
uint64_t histogram_count(const chalk_segment *g, const histogram *h);

#endif
