/*
 * The lock-striped table: (metric, key) -> series, and the life of a series.
 *
 *   FREE -> RESERVED -> LIVE -> DROPPED -> FREE
 *
 * Creating and dropping happen under the lock of the key's stripe. Whoever finds that lock orphaned rebuilds the
 * stripe's chains from the states of the series, which are the truth. A dropped series is in quarantine: it cannot be
 * found, but its number and cells are not used again before every live writer that had bound it has acted on the drop's
 * epoch, and every cursor has sent what the series stood at. What was recorded in between, its residue, then goes to
 * its successor, the series that has the same key now. A gauge that was dropped as idle and set in between becomes LIVE
 * again instead, unless it has a successor.
 */
#ifndef SERIES_H
#define SERIES_H

#include "shm/lives.h"
#include "shm/segment.h"

/* What identifies a series. */
typedef struct series_key {
  uint32_t metric;
  uint32_t size;     /* of the key in bytes, up to KEY_MOST */
  const char *bytes; /* as key_encode writes them */
  uint64_t hash;     /* key_hash of all this */
} series_key;

/*
 * Finds or creates the series of a key. CHALK_OK: *id is its number. CHALK_FOLDED: a limit was reached or there is no
 * memory, and *id is the metric's overflow series. CHALK_EGONE: the metric has left. CHALK_EMEMORY: the stripe's lock
 * is not to be had, in a server's first process.
 */
int series_find(chalk_segment *g, series_key *key, uint32_t *id);
/*
 * The same for a caller that acts on the live series before anybody can drop it: whatever is returned, the stripe stays
 * locked until series_let_go. All keys of an overflow series lock one stripe, so key->hash may change.
 */
int series_hold(chalk_segment *g, series_key *key, uint32_t *id);
/* Holds the metric's overflow series instead of what is held. */
void series_hold_overflow(chalk_segment *g, series_key *key);
/* Lets go of the stripe that is held with this key. */
void series_let_go(chalk_segment *g, const series_key *key);

/* Takes the lock of a hash's stripe once, so that what a dead owner left in it is put right. */
void series_repair(chalk_segment *g, uint64_t hash);
/* The number of a hash's stripe. */
static inline uint32_t series_stripe(uint64_t hash) { return (uint32_t)(hash >> 58); }

/*
 * Whether it is known what a dropped series stood at, as it is once its epoch is stored. A holder that reads the cells
 * of a live series, and finds it alive after that, has read no more than the series will be dropped with; otherwise
 * `at_drop` says what counts, once the series is settled.
 */
#define SERIES_UNSETTLED UINT64_MAX
static inline bool series_is_settled(const series *s) {
  return atomic_load((shared_u64 *)&s->drop_epoch) != SERIES_UNSETTLED;
}

/* Whether the number still is the series of this generation, alive. */
bool series_is(const chalk_segment *g, uint32_t id, uint32_t generation);

/*
 * Drops those of n series that nobody has recorded into since the holder found them idle, and returns how many. The
 * epoch moves once a stripe. Only the holder.
 */
uint32_t series_drop_idle(chalk_segment *g, const uint32_t *ids, uint32_t n);
/* Drops the series of a key. False: there is none. */
bool series_drop_key(chalk_segment *g, const series_key *key);
/* Drops all series of a metric, but not its overflow series. Returns how many. */
uint32_t series_drop_metric(chalk_segment *g, uint32_t metric);

/* Rebuilds all chains and the list of free numbers from the series. Nobody else has the segment. */
void series_rebuild(chalk_segment *g);

/* Puts right what those left who died while they created or dropped series, and counts all anew. Only the holder. */
void series_recount(chalk_segment *g);

/*
 * Undoes the drop of a gauge that was set before everybody had seen the drop. False: it stays dropped. Only the holder.
 */
bool series_revive(chalk_segment *g, uint32_t id);
/* Counts one series less in quarantine. Only the holder. */
void series_count_reclaimed(chalk_segment *g);
/* Gives back the number of a dropped series whose cells, baselines and key were freed. */
void series_give_number(chalk_segment *g, uint32_t id);

/* SERIES_... of a series, load-acquire. */
static inline uint32_t series_state(const series *s) {
  return atomic_load_explicit((shared_u32 *)&s->state, memory_order_acquire) & 255;
}

/* What the cell of a slot (below WRITERS) holds for a series, load-acquire. 0: the slot has not bound it. */
static inline uint64_t series_cell(const chalk_segment *g, uint32_t writer, uint32_t id) {
  if (!segment_chunk_real(g, g->slots[writer].chunks, id)) return 0;
  return atomic_load_explicit(segment_cell(g, writer, id), memory_order_acquire);
}

/* A count's total over all writers, or how many values a histogram has. */
int64_t series_total(const chalk_segment *g, uint32_t id);
/* A gauge's value, combined over the VMs that live, to *value. False: none of them has set it. */
bool series_gauge(const chalk_segment *g, uint32_t id, lives *alive, double *value);
/* Whether any VM has recorded into a gauge since its marks were last taken. */
bool series_gauge_touched(const chalk_segment *g, uint32_t id);
/* The same, and takes the marks. Only the holder. */
bool series_gauge_take(chalk_segment *g, uint32_t id);
/* Whether any slot has bound the series. */
bool series_bound(const chalk_segment *g, uint32_t id);

/* The number after the highest series that was ever used, at most the capacity. */
static inline uint32_t series_top(const chalk_segment *g) { return segment_top(&g->head->ids_top, g->capacity); }

#endif
