/*
 * A snapshot: what all series stood at, summed over the writers, in private memory. Entries are ordered by metric, then
 * by series number. Keys and histograms are read when they are asked for, and checked against the series' generation
 * afterwards. A series that is dropped while the snapshot is taken stands at what it was dropped with, or is left out.
 * One thread at a time uses a snapshot.
 */
#ifndef SNAPSHOT_H
#define SNAPSHOT_H

#include "base/arena.h"
#include "value/histogram.h"
#include "shm/segment.h"

/* A histogram entry's sketch and counts, in one piece of memory that ends with the sum's last count and the buckets. */
typedef struct snapshot_detail {
  chalk_sketch sketch;
  histogram_sum sum;
} snapshot_detail;

struct chalk_snapshot {
  chalk_segment *segment;
  chalk_entry *entries;
  uint32_t n, room;          /* how many entries there are, and were found */
  bool dropped;              /* taken with dropped series, as the holder does */
  snapshot_detail **details; /* by entry; made when first asked for */
  arena arena;               /* the memory of the details */
  chalk_sketch reading;      /* the sketch that is being read */
};

/* Whether the series of an entry is still there, so that what was just read of it is true. */
static inline bool snapshot_is_current(const chalk_snapshot *s, const chalk_entry *e) {
  atomic_thread_fence(memory_order_acquire);
  return atomic_load_explicit(&s->segment->series[e->series].generation, memory_order_acquire) == e->generation;
}

/* Copies an entry's key to `out`, aligned to words, room for SERIES_KEY_WORDS. Returns its size. NONE: it has gone. */
uint32_t snapshot_key(const chalk_snapshot *s, const chalk_entry *e, void *out);
/* The detail of histogram entry i, below `n`; it belongs to the snapshot. NULL: out of memory. */
const snapshot_detail *snapshot_detail_of(chalk_snapshot *s, uint32_t i);
/* The counts of a histogram entry as they stand now. False: the series has gone, and *sum has no meaning. */
bool snapshot_sum(const chalk_snapshot *s, const chalk_entry *e, histogram_sum *sum);

#endif
