/*
 * A snapshot: what all series stood at, summed over the writers, in private memory. Entries stand by metric, then in
 * the order of their numbers. Keys and histograms are read when asked for, and checked against the generation after.
 */
#ifndef SNAPSHOT_H
#define SNAPSHOT_H

#include "base/arena.h"
#include "value/histogram.h"
#include "shm/segment.h"

/* A histogram entry's sketch and the counts read with it, in one piece: it ends with the sum's last, and buckets. */
typedef struct snapshot_detail {
  chalk_sketch sketch;
  histogram_sum sum;
} snapshot_detail;

struct chalk_snapshot {
  chalk_segment *segment;
  chalk_entry *entries;
  uint32_t n, room;          /* entries that are left, and that there is room for */
  bool dropped;              /* taken with dropped series, as the holder does */
  snapshot_detail **details; /* made when first asked for */
  arena arena;               /* what they are in */
  chalk_sketch reading;      /* one that is being read */
};

static inline bool snapshot_is_current(const chalk_snapshot *s, const chalk_entry *e) {
  atomic_thread_fence(memory_order_acquire);
  return atomic_load_explicit(&s->segment->series[e->series].generation, memory_order_acquire) == e->generation;
}

/* Copies the entry's key to `out`, which has room for KEY_MOST and is aligned to words; its size, NONE if it is gone. */
uint32_t snapshot_key(const chalk_snapshot *s, const chalk_entry *e, void *out);
/* The detail of a histogram entry; NULL: out of memory. */
const snapshot_detail *snapshot_detail_of(chalk_snapshot *s, uint32_t i);
/* The counts of a histogram entry as they stand now. False: it is gone. */
bool snapshot_sum(const chalk_snapshot *s, const chalk_entry *e, histogram_sum *sum);

#endif
