/*
 * A snapshot: the values of all series, summed over the slots, in private memory. Entries are ordered by metric, then
 * by series number. In this file and in those that read snapshots `s` is the snapshot.
 *
 * Taking a snapshot copies one number for each series. Keys and histograms are much larger, so they are read from the
 * segment only when they are asked for; the series' generation, which is compared after the read, tells whether the
 * series was still the same. A histogram is kept in the snapshot once it was read, so that an exporter and the commit
 * of its cursor see the same values.
 *
 * A series that is dropped while the snapshot is taken has the total that it was dropped with, or is left out. One
 * thread at a time uses a snapshot.
 */
#ifndef SNAPSHOT_H
#define SNAPSHOT_H

#include "base/arena.h"
#include "value/histogram.h"
#include "shm/segment.h"

/*
 * A histogram entry's sketch and counts, in one allocation of the arena: `sum` ends with its last count, and the
 * sketch's buckets follow.
 */
typedef struct snapshot_detail {
  chalk_sketch sketch;
  histogram_sum sum;
} snapshot_detail;

struct chalk_snapshot {
  chalk_segment *segment;
  chalk_entry *entries;
  uint32_t n, capacity;      /* the number of entries, and of those that the arrays were made for */
  bool dropped;              /* whether dropped series are entries, as in the holder's snapshots */
  snapshot_detail **details; /* by entry; allocated at the first use */
  arena arena;               /* the memory of the details */
  chalk_sketch reading;      /* the sketch that is being read */
};

/* Whether an entry's series still has its generation, so that what was read of the series just before is valid. */
static inline bool snapshot_is_current(const chalk_snapshot *s, const chalk_entry *entry) {
  atomic_thread_fence(memory_order_acquire);
  const series *x = &s->segment->series[entry->series];
  return atomic_load_explicit(&x->generation, memory_order_acquire) == entry->generation;
}

/*
 * Copies an entry's key to `out`, which is aligned to words and has SERIES_KEY_WORDS of them. Returns the key's size.
 * NONE: the series is gone.
 */
uint32_t snapshot_key(const chalk_snapshot *s, const chalk_entry *entry, void *out);
/* Returns the detail of histogram entry i, which is below `n`; it belongs to the snapshot. NULL: out of memory. */
const snapshot_detail *snapshot_detail_of(chalk_snapshot *s, uint32_t i);
/* Reads the present counts of a histogram entry. False: the series is gone, and *sum has no meaning. */
bool snapshot_sum(const chalk_snapshot *s, const chalk_entry *entry, histogram_sum *sum);

#endif
