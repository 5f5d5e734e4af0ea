/*
 * The sketch: base-2 exponential buckets with uniform collapse.
 *
 * At scale s bucket i holds the values in (2^(i / 2^s), 2^((i + 1) / 2^s)], upper bound inclusive. Collapsing one step
 * turns s into s - 1 and i into i >> 1, so buckets of different scales always nest and sketches merge exactly. These
 * are OpenTelemetry's exponential-histogram boundaries; collapsing all buckets at once when there are too many is
 * UDDSketch (arXiv 2004.08604). The representative of a bucket is 2 * lower * upper / (lower + upper), which is off by
 * at most (g - 1) / (g + 1), g = 2^(2^-s), from any value in it.
 *
 * A chalk_sketch is a process's private copy: sorted arrays of buckets, one for each sign, and a place for zero. Counts
 * of buckets are never 0, and no two buckets of a side have the same index. One thread at a time uses it.
 */
#ifndef SKETCH_H
#define SKETCH_H

#include "chalk.h"

enum { SKETCH_LEAST_SCALE = -11, SKETCH_MOST_SCALE = 12 };

/* One bucket: `count` values of index `index` at the sketch's scale. */
typedef struct sketch_bucket {
  int32_t index;
  uint64_t count;
} sketch_bucket;

/* The buckets of one sign. */
typedef struct sketch_side {
  sketch_bucket *at; /* sorted by index */
  uint32_t n, room;  /* buckets, and how many there is memory for */
} sketch_side;

struct chalk_sketch {
  sketch_side positive, negative; /* the negative side by magnitude */
  uint64_t count, zero;           /* of all values, and of those that are zero */
  double sum, min, max;           /* min and max: infinities when empty */
  int scale;                      /* SKETCH_LEAST_SCALE to SKETCH_MOST_SCALE */
  uint32_t max_buckets;           /* of both sides together, that chalk_sketch_add keeps to */
};

/* The bounds of buckets at one scale: which one a mantissa falls into, by a guess and one comparison. */
typedef struct sketch_map {
  int scale;
  uint16_t *guess; /* by the mantissa's leading scale + 1 bits */
  uint64_t *bound; /* mantissa bits of 2^(j / 2^scale), rounded down; 2^scale + 1 of them */
} sketch_map;

/*
 * The map of a scale up to SKETCH_MOST_SCALE; below 0 it is the map of 0. It is made once in a process, by whichever
 * thread needs it first. NULL: out of memory.
 */
const sketch_map *sketch_map_of(int scale);

/* The index of the bucket of a normal number above zero, given by its bits, at the map's scale. */
static inline int32_t sketch_index_normal(const sketch_map *map, uint64_t bits) {
  uint64_t mantissa = bits & ((1ull << 52) - 1);
  uint32_t j = map->guess[mantissa >> (51 - map->scale)];
  j += mantissa > map->bound[j + 1];
  return (((int32_t)(bits >> 52) - 1023) * (1 << map->scale)) + (int32_t)j - (mantissa == 0);
}

/* The index of the bucket of any finite v above zero, at the map's scale. */
int32_t sketch_index(const sketch_map *map, double v);

/* The smallest scale from 0 on that keeps this relative error; SKETCH_MOST_SCALE if none does. */
int sketch_scale_for(double error);
/* The relative error of a scale up to SKETCH_MOST_SCALE. */
double sketch_error_of(int scale);
/* The lower bound of bucket `index`, which is the upper one of index - 1; 0 or DBL_MAX where it is no double. */
double sketch_bound(int32_t index, int scale);
/* The value 2 lower upper / (lower + upper), which is off by at most the scale's error from any value in the bucket. */
double sketch_representative(const chalk_bucket *b);

/* Whether a finite number can fall into this bucket or one near it, so that its bounds can be worked out. */
static inline int sketch_index_fits(int32_t index, int scale) {
  int32_t octave = scale > 0 ? 1 << scale : 1;
  return index >= -1080 * octave && index < 1025 * octave;
}

/* An empty sketch; NULL: out of memory. Neither argument is checked: `max_buckets` may come from shared memory. */
chalk_sketch *sketch_new(int scale, uint32_t max_buckets);
/* Empties a sketch and gives it the finest scale. It keeps its memory. */
void sketch_clear(chalk_sketch *k);
/* Frees the memory of a sketch's sides, not the sketch. */
void sketch_free_sides(chalk_sketch *k);
/* Makes room for n buckets in all; those in the side stay. CHALK_EMEMORY: the side is as it was. */
int sketch_side_reserve(sketch_side *side, uint32_t n);
/* Brings a sketch to a coarser scale; a finer one has no effect. */
void sketch_coarsen(chalk_sketch *k, int scale);
/* Adds n buckets of the side's own scale, which are sorted in place. CHALK_EMEMORY: the side is as it was. */
int sketch_side_add(sketch_side *side, sketch_bucket *buckets, uint32_t n);
/* A new sketch of what `now` has and `before` has not, at the coarser scale of the two. NULL: out of memory. */
chalk_sketch *sketch_difference(const chalk_sketch *now, const chalk_sketch *before);
/*
 * The same in place of what `d` had, but for its extremes, which sketch_clip works out. CHALK_EMEMORY: `d` is of no use
 * then.
 */
int sketch_subtract(chalk_sketch *d, const chalk_sketch *now, const chalk_sketch *before);
/* Sets the extremes of a difference to the bounds of its outermost buckets, not beyond the extremes of `all`. */
void sketch_clip(chalk_sketch *d, const chalk_sketch *all);

#endif
