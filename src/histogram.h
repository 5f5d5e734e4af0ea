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

#include "segment.h"
#include "sketch.h"

typedef struct histogram {
  shared_u64 table[2]; /* positive values, negative ones by magnitude; 0: none yet */
  shared_u64 version;
  shared_u64 zero;
  shared_u64 sum, min, max; /* doubles */
  uint32_t used[2];         /* the writer's */
  uint32_t start_scale;     /* scale of the map, and of a first table */
  uint32_t les;
  shared_u64 le[]; /* `les` + 1 counts, not cumulative; the last is +Inf */
} histogram;

/* What was read of one series' histogram, over all writers. */
typedef struct histogram_sum {
  uint32_t les;
  uint64_t le[CHALK_LES + 1]; /* cumulative */
  double sum;
} histogram_sum;

/* A new block for `les` bounds; 0 when the segment is full. */
uint64_t histogram_new(chalk_segment *g, uint32_t les);
void histogram_free(chalk_segment *g, uint64_t offset);

/* Records v, finite. CHALK_EMEMORY: counted, but the sketch had no room. One caller at a time. */
int histogram_add(chalk_segment *g, histogram *h, const double *le, double v);
/* Adds a whole sketch and counts (cumulative), for residues. One caller at a time. */
int histogram_merge(chalk_segment *g, histogram *h, const chalk_sketch *k, const uint64_t *les);

/* Adds the counts of a block, cumulative, and its sum. */
void histogram_read(const histogram *h, histogram_sum *into);
/* Merges a block's sketch into a private one. */
int histogram_read_sketch(const chalk_segment *g, const histogram *h, chalk_sketch *into);
/* How many values were recorded. */
uint64_t histogram_count(const histogram *h);

#endif
