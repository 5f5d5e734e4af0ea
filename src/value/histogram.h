/*
 * A histogram's block in shared memory: exact counts of the `le` bounds, and a sketch. One for each series and writer.
 *
 * The sketch's buckets stand in an open-addressing table, at index & mask: neighbouring buckets never collide, so the
 * usual distribution is found at the first probe, and the table may fill up when its span is below its capacity. A
 * table is narrow (index and a 32-bit count in one word) or, once a count would overflow, wide (an array of 64-bit
 * counts, then one of indices).
 *
 * One word says all of a table: where it is, how large, at which scale, narrow or wide. Growing, widening and
 * collapsing build another table and publish it by storing that word, so a writer that is killed anywhere leaves a
 * whole sketch. A reader reads beside the writer and starts again if `version` moved: it moves before the old table is
 * reused.
 *
 * One thread at a time writes a block: the owner of the slot, or for slot 0 whoever holds the lock of the series'
 * stripe. Functions that change a block are called by that thread.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include "shm/heap.h"
#include "shm/segment.h"
#include "value/sketch.h"

/*
 * All fields are the writer's. The atomic ones are read by anybody, load-acquire; `les` and `start_scale` are stored
 * before the block is published and do not change.
 */
typedef struct histogram {
  /* Tables of positive values, and of negative ones by magnitude; 0: none yet. Store-release. */
  _Alignas(64) shared_u64 table[2];
  shared_u64 version;   /* how often a table was replaced; moves after `table`, before the old one is freed */
  uint32_t used[2];     /* buckets in each table */
  uint32_t start_scale; /* of a first table */
  uint32_t les;         /* how many bounds */
  /* What every record touches: a short cut into table[0], worked out anew whenever the block is bound, and sums. */
  _Alignas(64) uint64_t place;  /* offset of the table, or of `none` */
  uint32_t mask;                /* the table's capacity - 1 */
  uint16_t shift, log;          /* from the plan's scale to the table's; the logarithm of its capacity */
  shared_u64 sum, min, max;     /* doubles, relaxed; min and max are infinities when nothing was recorded */
  shared_u64 zero;              /* how many zeros were recorded; relaxed */
  shared_u64 none;              /* always 0: what `place` points at while there is no narrow table of positive values */
  shared_u64 le[CHALK_LES + 1]; /* `les` + 1 counts, relaxed, not cumulative; the last is +Inf; a block ends there */
} histogram;

enum { HISTOGRAM_LEAST = offsetof(histogram, le) }; /* the fewest bytes of a block */

/* What was read of one series' histogram, over all writers. */
typedef struct histogram_sum {
  uint32_t les;
  double sum;
  uint64_t le[CHALK_LES + 1]; /* cumulative; what is kept may end with the last one */
} histogram_sum;

/*
 * The offset of a new block for `les` bounds, 0 to CHALK_LES. 0: the segment is full. `last`: for an overflow series.
 */
uint64_t histogram_new(chalk_segment *g, uint32_t les, bool last);
/* Frees a block that nobody can reach any more, and its tables. 0 is allowed. */
void histogram_free(chalk_segment *g, uint64_t offset);
/*
 * The parts of histogram_free. A caller empties a block while it can still be reached and frees it once it cannot, so a
 * death in between loses one block at most. histogram_free_table takes a word of `table`; 0 is allowed.
 */
void histogram_empty(chalk_segment *g, uint64_t offset);
void histogram_free_block(chalk_segment *g, uint64_t offset);
void histogram_free_table(chalk_segment *g, uint64_t table);
/*
 * Makes a block equal to another, and the other's tables its own. To do it twice is to do it once. `replaced` gets the
 * two tables that the block had, for the caller to free; 0 where there was none.
 */
void histogram_become(const chalk_segment *g, histogram *h, const histogram *other, uint64_t *replaced);
/* The scale of the block's first table, at most SKETCH_MOST_SCALE whatever stands there. */
int histogram_start_scale(const histogram *h);
/* The block that a cell's offset leads to. NULL: no block can stand there. */
static inline histogram *histogram_at(const chalk_segment *g, uint64_t offset) {
  return offset % _Alignof(histogram) == 0 ? segment_block(g, offset, HISTOGRAM_LEAST) : NULL;
}
/* How many bytes a block of `les` bounds has. */
uint64_t histogram_size(uint32_t les);
/*
 * How many bounds a block has, as it says, but no more than the mapping has room for: a reader without a lock may meet
 * what is no longer a block, and then drops what it read.
 */
uint32_t histogram_les(const chalk_segment *g, const histogram *h);

/*
 * What recording into a metric's histograms needs apart from the block. It is private, made once for a writer and
 * metric. The bounds are padded with infinities to whole groups of four.
 */
typedef struct histogram_plan {
  char *base; /* the segment's */
  chalk_segment *segment;
  const sketch_map *map; /* of the start scale, or a finer one that an older block has */
  uint32_t groups, les;  /* of four bounds; bounds */
  _Alignas(16) double le[];
} histogram_plan;

/*
 * The map of the process's newest plan. The usual record takes it from here, and not from its series' plan, because the
 * processor then works out the bucket's index while it still waits for the series.
 */
extern const sketch_map *_Atomic histogram_usual_map;

/* Makes a plan for `les` increasing bounds, which the caller frees with free(). NULL: out of memory. */
histogram_plan *histogram_plan_new(chalk_segment *g, const double *le, uint32_t les);
/* Makes a block ready for records with the plan: works out its short cut, whatever its last writer left there. */
void histogram_bind(chalk_segment *g, histogram *h, const histogram_plan *plan);

/* How many bounds v is above, without a branch on v: four comparisons a step, three steps for the default bounds. */
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

/* Adds to a count that only the caller's thread writes. */
static inline void histogram_bump(shared_u64 *counter, uint64_t n) {
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* All of a record but the sketch's bucket: bounds, sum, minimum and maximum. */
static inline __attribute__((always_inline)) void histogram_note(histogram *h, const histogram_plan *plan, double v) {
  histogram_bump(&h->le[histogram_le(plan, v)], 1);
  store_double(&h->sum, load_double(&h->sum) + v);
  if (__builtin_expect(v < load_double(&h->min), 0)) store_double(&h->min, v);
  if (__builtin_expect(v > load_double(&h->max), 0)) store_double(&h->max, v);
}

/*
 * Parts of histogram_add, with the same results. `at` is the bucket's index at the table's scale. The first takes a
 * bucket that is not at its first place.
 */
int histogram_add_probing(const chalk_series *s, double v, int32_t at);
/* Records what is not usual: zero, a negative or subnormal number; a new bucket, a wide table. */
int histogram_add_otherwise(const chalk_series *s, double v);
/*
 * Records any finite v without the short cut that stands in the block: for a server's master, which must not go where
 * its workers may have led it. The block has room for as many bounds as the plan has.
 */
int histogram_add_warily(const chalk_series *s, double v);

/* Whether v is above zero, normal and finite. */
static inline bool histogram_is_usual(double v) { return (as_bits(v) >> 52) - 1 < 2046; }

/* The step from place to place of a bucket whose first place is taken. Neighbouring buckets have the same step. */
static inline uint32_t histogram_step(int32_t index, uint32_t log) {
  return ((uint32_t)(index >> log) * 0x9e3779b1u >> 8) | 1;
}

/*
 * Records a finite v through a bound handle. The usual case is a normal number above zero whose bucket stands in a
 * narrow table, mostly at its first place. CHALK_EMEMORY: v was counted, but the sketch had no room for its bucket.
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

/* Adds a whole sketch and cumulative counts of the block's bounds, for residues. CHALK_EMEMORY: as histogram_add. */
int histogram_merge(chalk_segment *g, histogram *h, const chalk_sketch *k, const uint64_t *les);

/* Adds the block's counts, cumulative, to those of `into`, up to as many bounds as `into` has; and its sum. */
void histogram_read(const chalk_segment *g, const histogram *h, histogram_sum *into);
/* Merges a block's sketch into a private one. CHALK_EMEMORY: `into` has a part of it. */
int histogram_read_sketch(const chalk_segment *g, const histogram *h, chalk_sketch *into);
/*
 * Whether a block of `les` bounds stands at the offset that can be used; notes its blocks, and adds all counts in it to
 * *count. Nobody else has the segment.
 */
bool histogram_is_sound(chalk_segment *g, uint64_t offset, uint32_t les, heap_ledger *blocks, uint64_t *count);
/* How many values were recorded into the block, by the counts of its bounds. */
uint64_t histogram_count(const chalk_segment *g, const histogram *h);

#endif
