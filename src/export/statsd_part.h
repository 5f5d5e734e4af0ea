/*
 * What one packet has of a histogram that takes several packets.
 *
 * The lines of a histogram are made of *items*: a value, and how many recorded values it stands for. A *part* is the
 * items that went out in one packet, turned back into what was recorded: buckets of the sketch or counts of bounds. A
 * part is committed when its packet is known to have arrived. So when a receiver goes away between two packets, only
 * the rest is sent again.
 */
#ifndef STATSD_PART_H
#define STATSD_PART_H

#include <stdbool.h>

#include "value/sketch.h"

/* A value that occurs `times` times in a histogram's lines; each time it stands for `weight` recorded values. */
typedef struct statsd_item {
  double value;
  uint64_t weight, times;
  uint32_t index; /* of the bucket, as chalk_sketch_bucket counts; or of the bound among the metric's bounds */
} statsd_item;

/* In the order of the lines. The owner frees `at`. */
typedef struct statsd_items {
  statsd_item *at;
  uint32_t n, capacity;
} statsd_items;

/* Adds an item. False: out of memory. */
bool statsd_items_add(statsd_items *items, statsd_item item);
/*
 * Adds items for a sketch's buckets, in the order of their weights. An item's value is the bucket's representative
 * value, multiplied by `factor` and made finite. A bucket with more than `most` recorded values becomes an item of that
 * weight, which occurs several times, and an item of the rest. False: out of memory.
 */
bool statsd_items_of(statsd_items *items, const chalk_sketch *delta, double factor, uint64_t most);

/* A part of an entry. All zero is none. The owner frees the sketch's sides. */
typedef struct statsd_part {
  bool any;                    /* whether there is a part */
  bool bounds;                 /* whether it is counts of bounds, and not buckets */
  uint32_t entry;              /* its index in the snapshot */
  chalk_sketch sketch;         /* the buckets */
  uint64_t les[CHALK_LES + 1]; /* the counts of bounds, not cumulative */
} statsd_part;

/*
 * Makes the part of `n` values of the items, from value number `skip` on. `delta` is the sketch that the items were
 * made of; NULL: they are counts of bounds. Without memory there is no part, so its values are sent again.
 */
void statsd_part_note(statsd_part *part, uint32_t entry, const statsd_items *items, uint64_t skip, uint64_t n,
                      const chalk_sketch *delta);
/* Marks the part as sent and forgets it. Returns the code of cursor_commit_part; CHALK_OK if there is no part. */
int statsd_part_commit(statsd_part *part, chalk_cursor *c, chalk_snapshot *s, double now);

#endif
