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

#include "series/key.h"
#include "series/number.h"
#include "series/stripe.h"
#include "shm/segment.h"

/*
 * Finds or creates the series of a key for a caller that acts on the live series before anybody can drop it: whatever
 * is returned, the stripe stays locked until series_let_go. CHALK_OK: *id is its number. CHALK_FOLDED: a limit was
 * reached or there is no memory, and *id is the metric's overflow series. CHALK_EGONE: the metric has left.
 * CHALK_EMEMORY: the stripe's lock is not to be had, in a server's first process. All keys of an overflow series lock
 * one stripe, so key->hash may change.
 */
int series_hold(chalk_segment *g, series_key *key, uint32_t *id);
/* Holds the metric's overflow series instead of what is held. */
void series_hold_overflow(chalk_segment *g, series_key *key);
/* Lets go of the stripe that is held with this key. */
void series_let_go(chalk_segment *g, const series_key *key);

/* Takes the lock of a hash's stripe once, so that what a dead owner left in it is put right. */
void series_repair(chalk_segment *g, uint64_t hash);

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

#endif
