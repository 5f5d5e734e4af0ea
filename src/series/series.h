/*
 * The lock-striped table: (metric, key) -> series, and the life of a series.
 *
 *   FREE -> RESERVED -> LIVE -> DROPPED -> FREE
 *
 * Creating and dropping happen under the lock of the key's stripe. Whoever finds that lock orphaned rebuilds the
 * stripe's chains from the series themselves, which are the truth. A dropped series is in quarantine: it cannot be
 * found, but its number and cells are not used again before every live writer that had bound it has acted on the
 * drop's epoch, and every cursor has sent what it stood at. What was recorded in between, its residue, then goes to
 * its successor, the series that now has the same key. A gauge that was dropped as idle and set in between becomes LIVE
 * again instead, unless it has a successor.
 */
#ifndef SERIES_H
#define SERIES_H

#include "series/key.h"
#include "series/number.h"
#include "series/stripe.h"
#include "shm/segment.h"

/*
 * Finds or creates a series, and leaves its stripe locked, so that nobody can drop it before the caller has acted on it;
 * series_let_go unlocks the stripe. *id is the overflow series when CHALK_FOLDED. An overflow series has many keys and
 * one stripe, so key->hash may change. Fails where the stripe's lock is not to be had.
 */
int series_hold(chalk_segment *g, series_key *key, uint32_t *id);
/* Holds the metric's overflow series instead of what is held. */
void series_hold_overflow(chalk_segment *g, series_key *key);
void series_let_go(chalk_segment *g, const series_key *key);

/* Puts right what a dead owner of the stripe's lock left. */
void series_repair(chalk_segment *g, uint64_t hash);

/* Drops those among these that nobody has recorded into since, moving the epoch once a stripe. Only the holder. */
uint32_t series_drop_idle(chalk_segment *g, const uint32_t *ids, uint32_t n);
/* Drops the series of this key, if there is one. */
bool series_drop_key(chalk_segment *g, const series_key *key);
/* Drops all of a metric. */
uint32_t series_drop_metric(chalk_segment *g, uint32_t metric);

/* All chains and the list of free numbers, from the series, as after the death of every process. */
void series_rebuild(chalk_segment *g);

/* Looks for deaths at creating or dropping series, and counts them anew after one. Only the holder. */
void series_recount(chalk_segment *g);

/* Undoes the drop of a gauge that was set before everybody had seen the drop; false: it is not undone. Only the holder. */
bool series_revive(chalk_segment *g, uint32_t id);
/* Counts one series less in quarantine. */
void series_count_reclaimed(chalk_segment *g);

#endif
