/*
 * The sketch: base-2 exponential buckets with uniform collapse.
 *
 * At scale s bucket i holds the values in (2^(i / 2^s), 2^((i + 1) / 2^s)], upper bound inclusive. Collapsing one
 * step turns s into s - 1 and i into i >> 1, so buckets of different scales always nest and sketches merge exactly.
 * These are OpenTelemetry's exponential-histogram boundaries; collapsing all buckets at once when there are too many
 * is UDDSketch (arXiv 2004.08604). The representative of a bucket is 2 * lower * upper / (lower + upper), which is off
 * by at most (g - 1) / (g + 1), g = 2^(2^-s), from any value in it.
 *
 * A chalk_sketch is a process's private copy: sorted arrays of buckets, one for each sign, and a place for zero.
 */
#ifndef SKETCH_H
#define SKETCH_H

#include "chalk.h"

enum { SKETCH_LEAST_SCALE = -11, SKETCH_MOST_SCALE = 12 };

typedef struct sketch_bucket {
  int32_t index;
  uint64_t count;
} sketch_bucket;

typedef struct sketch_side {
  sketch_bucket *at; /* sorted by index */
  uint32_t n, room;
} sketch_side;

struct chalk_sketch {
  sketch_side positive, negative; /* the negative side by magnitude */
  uint64_t count, zero;
  double sum, min, max; /* min and max: infinities when empty */
  int scale;
  uint32_t max_buckets;
};

/* The bounds of buckets at one scale: which one a mantissa falls into, by a guess and one comparison. */
typedef struct sketch_map {
  int scale;
  uint16_t *guess; /* by the mantissa's leading scale + 1 bits */
  uint64_t *bound; /* mantissa bits of 2^(j / 2^scale), rounded down; 2^scale + 1 of them */
} sketch_map;

/* The map of a scale from 0 to SKETCH_MOST_SCALE; made once in a process. NULL: out of memory. */
const sketch_map *sketch_map_of(int scale);

/* The index of the bucket of a normal number above zero, by its bits, at the map's scale. */
static inline int32_t sketch_index_normal(const sketch_map *map, uint64_t bits) {
  uint64_t mantissa = bits & ((1ull << 52) - 1);
  uint32_t j = map->guess[mantissa >> (51 - map->scale)];
  j += mantissa > map->bound[j + 1];
  return (((int32_t)(bits >> 52) - 1023) * (1 << map->scale)) + (int32_t)j - (mantissa == 0);
}

/* The same for any finite v above zero. */
int32_t sketch_index(const sketch_map *map, double v);

/* The smallest scale that keeps this relative error. */
int sketch_scale_for(double error);
double sketch_error_of(int scale);
/* The lower bound of bucket `index`, which is the upper one of index - 1. */
double sketch_bound(int32_t index, int scale);
/* 2 lower upper / (lower + upper): what is at most the stated error from any value in the bucket. */
double sketch_representative(const chalk_bucket *b);

/* Whether a finite number can fall into this bucket, or into one near it: its bounds can be worked out. */
static inline int sketch_index_fits(int32_t index, int scale) {
  int32_t octave = scale > 0 ? 1 << scale : 1;
  return index >= -1080 * octave && index < 1025 * octave;
}

/* An empty sketch; NULL: out of memory. Neither argument is checked: `max_buckets` may come from shared memory. */
chalk_sketch *sketch_new(int scale, uint32_t max_buckets);
/* Takes out all that is in a sketch, and makes it the finest; its memory is used again. */
void sketch_clear(chalk_sketch *k);
void sketch_free_sides(chalk_sketch *k);
/* Room for n buckets in all; what is in there stays. */
int sketch_side_reserve(sketch_side *side, uint32_t n);
/* Brings a sketch to a coarser scale. */
void sketch_coarsen(chalk_sketch *k, int scale);
/* Adds buckets of a scale not finer than the sketch's own; they are sorted in place. 0, or CHALK_EMEMORY. */
int sketch_side_add(sketch_side *side, sketch_bucket *buckets, uint32_t n);
/* What `now` has and `before` has not, at the coarser scale. NULL: out of memory. */
chalk_sketch *sketch_difference(const chalk_sketch *now, const chalk_sketch *before);
/* The same in place of what `d` had, but for its extremes, which sketch_clip works out. */
int sketch_subtract(chalk_sketch *d, const chalk_sketch *now, const chalk_sketch *before);
/* The outermost non-empty buckets' bounds, not beyond the all-time extremes. */
void sketch_clip(chalk_sketch *d, const chalk_sketch *all);

#endif
