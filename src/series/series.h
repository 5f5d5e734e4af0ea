/*
 * The series table: from (metric, key) to series, and the life of a series.
 *
 *          number_take   series_hold        series_drop_*            reclaim_series
 *   FREE ------------> RESERVED ----> LIVE ---------------> DROPPED ----------------> FREE
 *                                      ^                       |
 *                                      +---- series_revive ----+
 *
 * A series is created and dropped under the lock of its key's stripe. The states of the series are the truth: a process
 * that finds a stripe's lock orphaned rebuilds the stripe's chains from them.
 *
 * A dropped series is in quarantine. It cannot be found, but a writer that compared the epoch before the drop may still
 * store into its cells. So its number and its cells are not used again until every live writer that had bound it has
 * acted on the drop's epoch, the tap's reader has read its events, and every cursor has sent what the series stood at
 * when it was dropped, or was waited for long enough (flush.c). What was recorded in between, its residue, then goes to
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
 * Finds or creates the series of a key, and holds it: the key's stripe stays locked until series_let_go, which the
 * caller calls whatever is returned. So no process drops the series before the caller has used it. CHALK_OK: *id is its
 * number. CHALK_FOLDED: a limit was reached or there is no memory, and *id is the metric's overflow series.
 * CHALK_EGONE: the metric has left. CHALK_EMEMORY: the caller is a server's master and the stripe's lock was not
 * released in time. Lookups that end at an overflow series hold the stripe of that series, so key->hash
 * then is that of the overflow series, and series_let_go takes the same key.
 */
int series_hold(chalk_segment *g, series_key *key, uint32_t *id);
/* Lets go of the stripe that is held with this key, and holds the stripe of the metric's overflow series instead. */
void series_hold_overflow(chalk_segment *g, series_key *key);
/* Lets go of the stripe that is held with this key. */
void series_let_go(chalk_segment *g, const series_key *key);

/* Takes and releases the lock of a hash's stripe, which repairs the stripe if the lock's owner has died. */
void series_repair(chalk_segment *g, uint64_t hash);

/*
 * Drops those of n series into which nothing was recorded since the holder found them idle, and returns how many it
 * dropped. The epoch moves once for each stripe that has such a series. Only the holder.
 */
uint32_t series_drop_idle(chalk_segment *g, const uint32_t *ids, uint32_t n);
/* Drops the series of a key. False: the key has no live series. */
bool series_drop_key(chalk_segment *g, const series_key *key);
/* Drops all series of a metric, but not its overflow series. Returns how many. */
uint32_t series_drop_metric(chalk_segment *g, uint32_t metric);

/* Rebuilds all chains and the list of free numbers from the series. Nobody else has the segment. */
void series_rebuild(chalk_segment *g);

/*
 * Repairs each stripe whose lock has a dead owner. If any stripe was repaired since the last call, counts the live and
 * the quarantined series again. Only the holder.
 */
void series_recount(chalk_segment *g);

/*
 * Undoes the drop of an idle gauge that was set by a writer that had not seen the drop yet. False: the series stays
 * dropped, because it is none of these, or its key has a successor, or a limit was reached. Only the holder.
 */
bool series_revive(chalk_segment *g, uint32_t id);
/* Counts one series less in quarantine. Only the holder. */
void series_count_reclaimed(chalk_segment *g);

#endif
