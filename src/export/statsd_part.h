/*
 * The items that a histogram's lines are made of, and a part of those lines: what of an entry that takes several
 * packets went out with one of them. A part is noted as sent when its packet is known to have arrived, so that a
 * receiver that goes away between two packets is not sent the part again.
 */
#ifndef STATSD_PART_H
#define STATSD_PART_H

#include <stdbool.h>

#include "value/sketch.h"

/* What a histogram's lines are made of, in their order: a value, `times` times, each for `weight` recorded values. */
typedef struct statsd_item {
  double value;
  uint64_t weight, times;
  uint32_t place; /* the bucket's, as chalk_sketch_bucket counts; or the bound's among the metric's */
} statsd_item;

typedef struct statsd_items {
  statsd_item *at;
  uint32_t n, room;
} statsd_items;

/* False: out of memory. */
bool statsd_items_add(statsd_items *items, statsd_item item);
/*
 * Adds the values of a sketch's buckets, multiplied by `factor` and made finite, in the order of their weights. A
 * bucket of more than `most` values becomes so many values of that weight and one of the rest. False: out of memory.
 */
bool statsd_items_of(statsd_items *items, const chalk_sketch *d, double factor, uint64_t most);

/* A part; all zero is none. The caller frees the sketch's sides. */
typedef struct statsd_part {
  bool any;                    /* whether there is one */
  bool bounds;                 /* it is counts of bounds, and otherwise buckets */
  uint32_t entry;              /* the snapshot's */
  chalk_sketch sketch;         /* the buckets */
  uint64_t les[CHALK_LES + 1]; /* the counts, not cumulative */
} statsd_part;

/*
 * Notes the part that is `n` values of the items, from the one after `skip` on. `delta` is the sketch that they are of;
 * NULL: they are counts of bounds. Without memory there is no part, so the values are sent again.
 */
void statsd_part_note(statsd_part *p, uint32_t entry, const statsd_items *items, uint64_t skip, uint64_t n,
                      const chalk_sketch *delta);
/* Marks the part as sent, if there is one, and forgets it. As cursor_commit_part; CHALK_OK if there was none. */
int statsd_part_commit(statsd_part *p, chalk_cursor *c, chalk_snapshot *s, double now);

#endif
