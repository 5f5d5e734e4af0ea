/*
 * Stripes: the locks and the chains of the table from (metric, key) to series.
 *
 * The series are the truth: a process that finds a stripe's lock orphaned rebuilds the stripe's chains from them.
 */
#ifndef STRIPE_H
#define STRIPE_H

#include <string.h>

#include "base/peek.h"
#include "series/key.h"
#include "series/number.h"
#include "shm/segment.h"

/*
 * A stripe's chains. Whoever has the segment may have stored anything there: `heads` is NULL where it cannot be theirs,
 * a link is followed where it is the number of a series, and a chain ends after as many links as there are series.
 */
typedef struct chains {
  uint32_t *heads;
  uint32_t mask;
} chains;

static inline chains chains_of(const chalk_segment *g, const stripe *stripe) {
  uint32_t size = peek_u32(&stripe->size);
  uint32_t *heads = size > 0 ? segment_block(g, stripe->heads, size * sizeof *heads) : NULL;
  return (chains){heads, size - 1};
}

static inline uint32_t *chains_head(chains c, uint64_t hash) { return &c.heads[hash & c.mask]; }

/* The number of the stripe that has a key of this hash. */
static inline uint32_t series_stripe(uint64_t hash) { return (uint32_t)(hash >> 58); }

/*
 * Whether what a dropped series stood at is known, as it is once its epoch is. A holder that reads the cells of a live
 * series, and after that still finds it alive, has read no more than it will be dropped with; else `at_drop` says
 * what counts, once it is settled.
 */
#define SERIES_UNSETTLED UINT64_MAX
static inline bool series_is_settled(const series *s) {
  return atomic_load((shared_u64 *)&s->drop_epoch) != SERIES_UNSETTLED;
}

enum { STRIPE_LEAST = 32 }; /* fewest chains of a stripe */

/* A stripe's chains, emptied; new ones where what stands there cannot be chains. `heads` is NULL without memory. */
chains stripe_empty(chalk_segment *g, stripe *stripe);
/* Puts right what a dead owner of the stripe's lock left: its chains, reservations, drops, and a residue on its way. */
void stripe_repair(chalk_segment *g, uint32_t number);
/* Twice the chains. Without memory they just stay longer. */
void stripe_double(chalk_segment *g, uint32_t number);
/* Takes a series out of its chain. */
void stripe_unlink(chalk_segment *g, stripe *stripe, uint32_t id);

/* Takes a stripe's lock. NULL: the lock was not to be had, see segment_lock_reach. */
static inline stripe *stripe_lock(chalk_segment *g, uint32_t number) {
  stripe *stripe = &g->stripes[number];
  bool orphaned;
  if (!segment_lock_reach(&stripe->lock, &orphaned)) return NULL;
  if (orphaned) stripe_repair(g, number);
  return stripe;
}

static inline void stripe_unlock(stripe *stripe) { segment_lock_give(&stripe->lock); }

/* Doubles a stripe's chains once they have two links on average. Under its lock. */
static inline void stripe_grow(chalk_segment *g, uint32_t number) {
  if (g->stripes[number].used >= g->stripes[number].size * 2) stripe_double(g, number);
}

/* Whether a series has this key. */
static inline bool stripe_has_key(const chalk_segment *g, const series *s, const series_key *key) {
  if (s->key_size != key->size) return false;
  if (key->size == 0) return true;
  const void *bytes = segment_block(g, s->key, key->size);
  return bytes && memcmp(bytes, key->bytes, key->size) == 0;
}

/* The live series of a key; NONE: there is none. Under the stripe's lock. */
static inline uint32_t stripe_search(const chalk_segment *g, chains c, const series_key *key) {
  uint32_t left = series_top(g);
  if (!c.heads) return NONE;
  for (uint32_t id = number_at(g, chains_head(c, key->hash)); id != NONE && left-- > 0;) {
    const series *s = &g->series[id];
    if (s->hash == key->hash && s->metric == key->metric && stripe_has_key(g, s, key)) return id;
    id = number_at(g, &s->next);
  }
  return NONE;
}

#endif
