#include "value/sketch.h"

#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"

#define MANTISSA ((1ull << 52) - 1)

/* Maps */

/* The square root of a number in [1, 4], by Newton's iteration. */
static long double root(long double a) {
  long double x = 1 + (a - 1) / 2;
  for (int i = 0; i < 12; i++) x = (x + a / x) / 2;
  return x;
}

static sketch_map *map_new(int scale) {
  uint32_t n = 1u << scale;
  sketch_map *map = malloc(sizeof *map);
  uint64_t *bound = malloc((n + 2) * sizeof *bound);
  uint16_t *guess = malloc(2 * n * sizeof *guess);
  if (!map || !bound || !guess) {
    free(map), free(bound), free(guess);
    return NULL;
  }
  long double power[SKETCH_MOST_SCALE + 1]; /* power[b] = 2^(2^b / n) */
  long double p = 2;
  for (int b = scale - 1; b >= 0; b--) power[b] = p = root(p);
  for (uint32_t j = 0; j < n; j++) {
    long double v = 1;
    for (int b = 0; b < scale; b++) {
      if (j >> b & 1) v *= power[b];
    }
    bound[j] = (uint64_t)((v - 1) * 4503599627370496.0L);
  }
  bound[n] = bound[n + 1] = UINT64_MAX;
  uint32_t j = 0;
  for (uint32_t g = 0; g < 2 * n; g++) {
    uint64_t least = (uint64_t)g << (51 - scale);
    while (j + 1 < n && bound[j + 1] < least) j++;
    guess[g] = (uint16_t)j;
  }
  *map = (sketch_map){scale, guess, bound};
  return map;
}

static _Atomic(sketch_map *) maps[SKETCH_MOST_SCALE + 1];

static const sketch_map *map_make(int scale) {
  sketch_map *map = NULL, *made = map_new(scale);
  if (!made) return NULL;
  if (atomic_compare_exchange_strong(&maps[scale], &map, made)) return made;
  free(made->bound), free(made->guess), free(made);
  return map;
}

static inline const sketch_map *map_of(int scale) {
  const sketch_map *map = atomic_load_explicit(&maps[scale], memory_order_acquire);
  return map ? map : map_make(scale);
}

const sketch_map *sketch_map_of(int scale) { return map_of(scale < 0 ? 0 : scale); }

int32_t sketch_index(const sketch_map *map, double v) {
  if (as_bits(v) >> 52 != 0) return sketch_index_normal(map, as_bits(v));
  v *= 18014398509481984.0; /* times 2^54, so it is no longer subnormal */
  return sketch_index_normal(map, as_bits(v)) - 54 * (1 << map->scale);
}

double sketch_error_of(int scale) {
  /* (g - 1) / (g + 1), g = 2^(2^-scale). */
  static const double errors[SKETCH_MOST_SCALE + 1] = {
      0.3333333333333333,    0.1715728752538099,    0.0864272337258898,     0.043294617499389176,
      0.02165746232622629,   0.010830001253373642,  0.005415159415902569,   0.002707599557476328,
      0.0013538022599560793, 0.0006769014401311318, 0.00033845075883472906, 0.00016922538426351075,
      8.461269273752368e-05};
  if (scale < 0) {
    double g = as_double((uint64_t)(1023 + (1 << -scale > 1023 ? 1023 : 1 << -scale)) << 52);
    return (g - 1) / (g + 1);
  }
  return errors[scale];
}

int sketch_scale_for(double error) {
  int scale = 0;
  while (scale < SKETCH_MOST_SCALE && sketch_error_of(scale) > error) scale++;
  return scale;
}

double sketch_bound(int32_t index, int scale) {
  int64_t exponent;
  uint64_t mantissa = 0;
  if (scale <= 0) {
    exponent = (int64_t)index * (1ll << -scale);
  } else {
    const sketch_map *map = map_of(scale);
    exponent = index >> scale;
    if (map) mantissa = map->bound[index & ((1 << scale) - 1)];
  }
  if (exponent > 1023) return as_double((2046ull << 52) | MANTISSA);
  if (exponent < -1074) return 0;
  if (exponent < -1022) return as_double((1ull << 52) | mantissa) * as_double((uint64_t)(exponent + 2045) << 52);
  return as_double((uint64_t)(exponent + 1023) << 52 | mantissa);
}

/* Private sketches */

void sketch_clear(chalk_sketch *k) {
  k->positive.n = k->negative.n = 0;
  k->count = k->zero = 0;
  k->sum = 0;
  k->min = INFINITY;
  k->max = -k->min;
  k->scale = SKETCH_MOST_SCALE;
}

void sketch_free_sides(chalk_sketch *k) {
  free(k->positive.at);
  free(k->negative.at);
}

chalk_sketch *sketch_new(int scale, uint32_t max_buckets) {
  chalk_sketch *k = calloc(1, sizeof *k);
  if (!k) return NULL;
  sketch_clear(k);
  k->scale = scale;
  k->max_buckets = max_buckets;
  return k;
}

chalk_sketch *chalk_sketch_new(double initial_error, uint32_t max_buckets) {
  if (!(initial_error >= 0.0001 && initial_error <= 0.5) || max_buckets < 8 || max_buckets > 8192) return NULL;
  return sketch_new(sketch_scale_for(initial_error), max_buckets);
}

void chalk_sketch_free(chalk_sketch *k) {
  if (!k) return;
  sketch_free_sides(k);
  free(k);
}

int sketch_side_reserve(sketch_side *side, uint32_t n) {
  if (n <= side->capacity) return CHALK_OK;
  sketch_bucket *at = realloc(side->at, n * sizeof *at);
  if (!at) return CHALK_EMEMORY;
  side->at = at, side->capacity = n;
  return CHALK_OK;
}

static void side_coarsen(sketch_side *side, int steps) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < side->n; i++) {
    sketch_bucket b = {side->at[i].index >> steps, side->at[i].count};
    if (n > 0 && side->at[n - 1].index == b.index) {
      side->at[n - 1].count += b.count;
    } else {
      side->at[n++] = b;
    }
  }
  side->n = n;
}

void sketch_coarsen(chalk_sketch *k, int scale) {
  if (scale >= k->scale) return;
  side_coarsen(&k->positive, k->scale - scale);
  side_coarsen(&k->negative, k->scale - scale);
  k->scale = scale;
}

static int by_index(const void *a, const void *b) {
  int32_t x = ((const sketch_bucket *)a)->index, y = ((const sketch_bucket *)b)->index;
  return (x > y) - (x < y);
}

static bool is_sorted(const sketch_bucket *b, uint32_t n) {
  for (uint32_t i = 1; i < n; i++) {
    if (b[i - 1].index > b[i].index) return false;
  }
  return true;
}

/* Stores sorted buckets in a side that is empty. */
static int side_fill(sketch_side *side, const sketch_bucket *buckets, uint32_t n) {
  if (sketch_side_reserve(side, n) != CHALK_OK) return CHALK_EMEMORY;
  memcpy(side->at, buckets, n * sizeof *buckets);
  side->n = n;
  side_coarsen(side, 0);
  return CHALK_OK;
}

/*
 * Writes to `out` the buckets of a side together with n sorted buckets that are `steps` scales finer. `out` has memory
 * for all of them. Returns the number of buckets written.
 */
static uint32_t side_join(const sketch_side *side, const sketch_bucket *more, uint32_t n, int steps,
                          sketch_bucket *out) {
  uint32_t i = 0, j = 0, m = 0;
  while (i < side->n || j < n) {
    sketch_bucket b = j < n ? (sketch_bucket){more[j].index >> steps, more[j].count} : side->at[i];
    if (j < n && (i == side->n || side->at[i].index > b.index)) {
      j++;
    } else {
      b = side->at[i++];
    }
    if (m > 0 && out[m - 1].index == b.index) {
      out[m - 1].count += b.count;
    } else {
      out[m++] = b;
    }
  }
  return m;
}

int sketch_side_add(sketch_side *side, sketch_bucket *buckets, uint32_t n) {
  if (n == 0) return CHALK_OK;
  if (!is_sorted(buckets, n)) qsort(buckets, n, sizeof *buckets, by_index);
  if (side->n == 0) return side_fill(side, buckets, n);
  sketch_bucket *merged = malloc(((size_t)side->n + n) * sizeof *merged);
  if (!merged) return CHALK_EMEMORY;
  uint32_t m = side_join(side, buckets, n, 0, merged);
  free(side->at);
  *side = (sketch_side){merged, m, side->n + n};
  return CHALK_OK;
}

/* Adds to one bucket. The capacity doubles if it is used up, so that a loop of adds stays cheap. */
static int side_put(sketch_side *side, int32_t index, uint64_t count) {
  uint32_t low = 0, high = side->n;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (side->at[middle].index < index)
      low = middle + 1;
    else
      high = middle;
  }
  if (low < side->n && side->at[low].index == index) {
    side->at[low].count += count;
    return CHALK_OK;
  }
  if (side->n == side->capacity && sketch_side_reserve(side, side->capacity ? side->capacity * 2 : 16) != CHALK_OK) {
    return CHALK_EMEMORY;
  }
  memmove(side->at + low + 1, side->at + low, (side->n - low) * sizeof *side->at);
  side->at[low] = (sketch_bucket){index, count};
  side->n++;
  return CHALK_OK;
}

int chalk_sketch_add(chalk_sketch *k, double v, uint64_t count) {
  if (!isfinite(v)) return CHALK_ENUMBER;
  if (count == 0) return CHALK_OK;
  const sketch_map *map = sketch_map_of(SKETCH_MOST_SCALE);
  if (!map) return CHALK_EMEMORY;
  int rc = CHALK_OK;
  if (v == 0) {
    k->zero += count;
  } else {
    int32_t index = sketch_index(map, v < 0 ? -v : v) >> (map->scale - k->scale);
    rc = side_put(v < 0 ? &k->negative : &k->positive, index, count);
  }
  if (rc != CHALK_OK) return rc;
  while (k->positive.n + k->negative.n > k->max_buckets && k->scale > SKETCH_LEAST_SCALE) {
    sketch_coarsen(k, k->scale - 1);
  }
  k->count += count;
  k->sum += v * (double)count;
  if (v < k->min) k->min = v;
  if (v > k->max) k->max = v;
  return CHALK_OK;
}

/*
 * Makes an empty side for the buckets of `side` and `from`. False: out of memory. If `from` is empty, no memory is
 * needed.
 */
static bool side_new_for(sketch_side *both, const sketch_side *side, const sketch_side *from) {
  *both = (sketch_side){.capacity = side->n + from->n};
  if (from->n == 0) return true;
  both->at = malloc(both->capacity * sizeof *both->at);
  return both->at != NULL;
}

static void side_merge(sketch_side *side, const sketch_side *from, int steps, sketch_side both) {
  if (from->n == 0) return;
  both.n = side_join(side, from->at, from->n, steps, both.at);
  free(side->at);
  *side = both;
}

/* The memory for both signs is taken before either side changes, so a merge without memory changes nothing. */
int chalk_sketch_merge(chalk_sketch *into, const chalk_sketch *from) {
  if (!into || !from) return CHALK_EMEMORY;
  sketch_side positive, negative = {.at = NULL};
  if (!side_new_for(&positive, &into->positive, &from->positive) ||
      !side_new_for(&negative, &into->negative, &from->negative)) {
    free(positive.at);
    return CHALK_EMEMORY;
  }
  sketch_coarsen(into, from->scale);
  side_merge(&into->positive, &from->positive, from->scale - into->scale, positive);
  side_merge(&into->negative, &from->negative, from->scale - into->scale, negative);
  into->zero += from->zero;
  into->count += from->count;
  into->sum += from->sum;
  if (from->min < into->min) into->min = from->min;
  if (from->max > into->max) into->max = from->max;
  return CHALK_OK;
}

/* Subtracts `before`, whose scale is `steps` finer, from a side. Returns the number of values that remain. */
static uint64_t side_subtract(sketch_side *side, const sketch_side *before, int steps) {
  uint32_t n = 0, j = 0;
  uint64_t total = 0;
  for (uint32_t i = 0; i < side->n; i++) {
    sketch_bucket b = side->at[i];
    while (j < before->n && before->at[j].index >> steps < b.index) j++;
    for (; j < before->n && before->at[j].index >> steps == b.index; j++) {
      b.count -= before->at[j].count < b.count ? before->at[j].count : b.count;
    }
    if (b.count == 0) continue;
    total += b.count;
    side->at[n++] = b;
  }
  side->n = n;
  return total;
}

void sketch_clip(chalk_sketch *d, const chalk_sketch *all) {
  chalk_bucket b;
  double low = INFINITY, high = -low;
  uint32_t n = d->negative.n + (d->zero > 0) + d->positive.n;
  if (n > 0) {
    chalk_sketch_bucket(d, 0, &b), low = b.lower;
    chalk_sketch_bucket(d, n - 1, &b), high = b.upper;
    if (low < all->min) low = all->min;
    if (high > all->max) high = all->max;
  }
  d->min = low, d->max = high;
}

static int side_copy(sketch_side *side, const sketch_side *from, int steps) {
  side->n = 0;
  if (from->n == 0) return CHALK_OK;
  if (sketch_side_reserve(side, from->n) != CHALK_OK) return CHALK_EMEMORY;
  memcpy(side->at, from->at, from->n * sizeof *side->at);
  side->n = from->n;
  if (steps > 0) side_coarsen(side, steps);
  return CHALK_OK;
}

int sketch_subtract(chalk_sketch *d, const chalk_sketch *now, const chalk_sketch *before) {
  d->scale = before->scale < now->scale ? before->scale : now->scale;
  d->max_buckets = now->max_buckets;
  int steps = now->scale - d->scale, rc = side_copy(&d->positive, &now->positive, steps);
  if (rc == CHALK_OK) rc = side_copy(&d->negative, &now->negative, steps);
  if (rc != CHALK_OK) return rc;
  d->zero = now->zero - (before->zero < now->zero ? before->zero : now->zero);
  d->count = d->zero + side_subtract(&d->positive, &before->positive, before->scale - d->scale) +
             side_subtract(&d->negative, &before->negative, before->scale - d->scale);
  d->sum = now->sum - before->sum;
  return CHALK_OK;
}

chalk_sketch *sketch_difference(const chalk_sketch *now, const chalk_sketch *before) {
  chalk_sketch *d = sketch_new(SKETCH_MOST_SCALE, now->max_buckets);
  if (d && sketch_subtract(d, now, before) == CHALK_OK) {
    sketch_clip(d, now);
    return d;
  }
  chalk_sketch_free(d);
  return NULL;
}

uint64_t chalk_sketch_count(const chalk_sketch *k) { return k->count; }
double chalk_sketch_sum(const chalk_sketch *k) { return k->sum; }
double chalk_sketch_min(const chalk_sketch *k) { return k->count ? k->min : NAN; }
double chalk_sketch_max(const chalk_sketch *k) { return k->count ? k->max : NAN; }
double chalk_sketch_error(const chalk_sketch *k) { return sketch_error_of(k->scale); }
int chalk_sketch_scale(const chalk_sketch *k) { return k->scale; }

int chalk_sketch_bucket(const chalk_sketch *k, uint32_t i, chalk_bucket *b) {
  if (i < k->negative.n) {
    const sketch_bucket *at = &k->negative.at[k->negative.n - 1 - i];
    *b = (chalk_bucket){-sketch_bound(at->index + 1, k->scale), -sketch_bound(at->index, k->scale), at->count};
    return 1;
  }
  i -= k->negative.n;
  if (k->zero > 0) {
    if (i == 0) {
      *b = (chalk_bucket){0, 0, k->zero};
      return 1;
    }
    i--;
  }
  if (i >= k->positive.n) return 0;
  const sketch_bucket *at = &k->positive.at[i];
  *b = (chalk_bucket){sketch_bound(at->index, k->scale), sketch_bound(at->index + 1, k->scale), at->count};
  return 1;
}

/* This form of the formula does not overflow for huge bounds and does not lose tiny ones. */
double sketch_representative(const chalk_bucket *b) {
  double l = b->lower < 0 ? -b->upper : b->lower, u = b->lower < 0 ? -b->lower : b->upper;
  if (u == 0) return 0;
  /* The lower bound is below all doubles, so 2 * lower is at most the smallest double. */
  double v = l == 0 ? 0x1p-1074 : l / ((1 + l / u) / 2);
  if (v > u) v = u;
  return b->lower < 0 ? -v : v;
}

double chalk_sketch_quantile(const chalk_sketch *k, double q) {
  if (k->count == 0 || !(q >= 0 && q <= 1)) return NAN;
  double position = q * (double)(k->count - 1);
  uint64_t rank = position < (double)(k->count - 1) ? (uint64_t)position : k->count - 1, below = 0;
  chalk_bucket b;
  for (uint32_t i = 0; chalk_sketch_bucket(k, i, &b); i++) {
    below += b.count;
    if (below > rank) {
      double v = sketch_representative(&b);
      return v < k->min ? k->min : v > k->max ? k->max : v;
    }
  }
  return k->max;
}
