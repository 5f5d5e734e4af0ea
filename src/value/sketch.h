/*
 * The sketch: a summary of values that answers quantiles, with base-2 exponential buckets and uniform collapse.
 *
 * At scale s, bucket i holds the values in (2^(i / 2^s), 2^((i + 1) / 2^s)], upper bound inclusive. If a sketch has too
 * many buckets, it collapses: s becomes s - 1 and every i becomes i >> 1, so each new bucket is the union of two old
 * ones. Buckets of different scales therefore always nest, and sketches merge exactly.
 *
 * The bounds are those of OpenTelemetry's exponential histogram. Collapsing all buckets at once is UDDSketch (arXiv
 * 2004.08604). The representative of a bucket is 2 * lower * upper / (lower + upper). Its relative error
 * against any value in the bucket is at most (g - 1) / (g + 1), where g = 2^(2^-s).
 *
 * A chalk_sketch is private to a process: one sorted array of buckets for each sign, and a count of zeros. The count of
 * a bucket is never 0, and no two buckets of a side have the same index. One thread at a time uses a sketch.
 */
#ifndef SKETCH_H
#define SKETCH_H

#include "chalk.h"

enum { SKETCH_LEAST_SCALE = -11, SKETCH_MOST_SCALE = 12 };

/* One bucket: `count` values in bucket `index` at the scale of the sketch. */
typedef struct sketch_bucket {
  int32_t index;
  uint64_t count;
} sketch_bucket;

/* The buckets of one sign. */
typedef struct sketch_side {
  sketch_bucket *at;    /* sorted by index */
  uint32_t n, capacity; /* number of buckets, and how many fit into the memory */
} sketch_side;

struct chalk_sketch {
  sketch_side positive, negative; /* the negative side is by magnitude */
  uint64_t count, zero;           /* number of all values, and of zeros */
  double sum, min, max;           /* min and max are infinities if the sketch is empty */
  int scale;                      /* SKETCH_LEAST_SCALE to SKETCH_MOST_SCALE */
  uint32_t max_buckets;           /* limit of chalk_sketch_add for both sides together */
};

/* The bounds of the buckets at one scale. The bucket of a mantissa is found by one table lookup and one comparison. */
typedef struct sketch_map {
  int scale;
  uint16_t *guess; /* indexed by the leading scale + 1 bits of the mantissa */
  uint64_t *bound; /* mantissa bits of 2^(j / 2^scale), rounded down, for j below 2^scale; then UINT64_MAX */
} sketch_map;

/*
 * The map of a scale up to SKETCH_MOST_SCALE; for a scale below 0 it is the map of scale 0. The first thread that needs
 * a map makes it for the whole process. NULL: out of memory.
 */
const sketch_map *sketch_map_of(int scale);

/* The index of the bucket of a normal number above zero, given by its bits, at the scale of the map. */
static inline int32_t sketch_index_normal(const sketch_map *map, uint64_t bits) {
  uint64_t mantissa = bits & ((1ull << 52) - 1);
  uint32_t j = map->guess[mantissa >> (51 - map->scale)];
  j += mantissa > map->bound[j + 1];
  return (((int32_t)(bits >> 52) - 1023) * (1 << map->scale)) + (int32_t)j - (mantissa == 0);
}

/* The index of the bucket of any finite v above zero, at the scale of the map. */
int32_t sketch_index(const sketch_map *map, double v);

/* The smallest scale, from 0 on, with at most this relative error; SKETCH_MOST_SCALE if there is none. */
int sketch_scale_for(double error);
/* The relative error of a scale up to SKETCH_MOST_SCALE. */
double sketch_error_of(int scale);
/*
 * The lower bound of bucket `index`, which is the upper bound of bucket index - 1; 0 or DBL_MAX if it is not a double.
 */
double sketch_bound(int32_t index, int scale);
/* The representative of a bucket. Its relative error against any value in the bucket is at most that of the scale. */
double sketch_representative(const chalk_bucket *b);

/* Whether a finite number can be in this bucket or one near it, so that its bounds can be computed. */
static inline int sketch_index_fits(int32_t index, int scale) {
  int32_t octave = scale > 0 ? 1 << scale : 1;
  return index >= -1080 * octave && index < 1025 * octave;
}

/*
 * Makes an empty sketch. The arguments are not checked: `max_buckets` may come from shared memory. NULL: out of memory.
 */
chalk_sketch *sketch_new(int scale, uint32_t max_buckets);
/* Empties a sketch and sets the finest scale. The sketch keeps its memory. */
void sketch_clear(chalk_sketch *k);
/* Frees the memory of both sides, but not the sketch. */
void sketch_free_sides(chalk_sketch *k);
/* Makes the capacity of a side at least n buckets and keeps its buckets. CHALK_EMEMORY: the side is unchanged. */
int sketch_side_reserve(sketch_side *side, uint32_t n);
/* Makes a sketch coarser, down to `scale`. No effect if the sketch is that coarse already. */
void sketch_coarsen(chalk_sketch *k, int scale);
/* Adds n buckets at the scale of the side, and sorts `buckets` in place. CHALK_EMEMORY: the side is unchanged. */
int sketch_side_add(sketch_side *side, sketch_bucket *buckets, uint32_t n);
/* Makes a sketch of the values that are in `now` and not in `before`, at the coarser scale. NULL: out of memory. */
chalk_sketch *sketch_difference(const chalk_sketch *now, const chalk_sketch *before);
/*
 * Stores this difference in d, which loses its contents and whose memory is used. The caller sets the extremes with
 * sketch_clip. CHALK_EMEMORY: the contents of d are undefined.
 */
int sketch_subtract(chalk_sketch *d, const chalk_sketch *now, const chalk_sketch *before);
/* Sets the extremes of a difference to the bounds of its outermost buckets, but not beyond the extremes of `all`. */
void sketch_clip(chalk_sketch *d, const chalk_sketch *all);

#endif
