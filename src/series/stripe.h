/*
 * Stripes: the locks and the chains of the series table.
 *
 * The top bits of a key's hash choose one of 64 stripes, and its low bits one of the stripe's chains. A chain links
 * series by their numbers, through series.next. So processes that look up different keys seldom wait for each other,
 * and a stripe doubles its chains without the other 63.
 *
 *   stripe.heads -> [ 7 | NONE | 4 | ... ]      series 7 -> series 12 -> NONE
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
 * A stripe's chains. Any process that has the segment may have stored anything there. So `heads` is NULL if the offset
 * cannot be that of chains, a link is followed only if it is the number of a series, and a walk along a chain ends
 * after as many links as there are series.
 */
typedef struct chains {
  uint32_t *heads;
  uint32_t mask;
} chains;

/* The chains of a stripe. Under its lock. */
static inline chains chains_of(const chalk_segment *g, const stripe *stripe) {
  uint32_t size = peek_u32(&stripe->size);
  uint32_t *heads = size > 0 ? segment_block(g, stripe->heads, size * sizeof *heads) : NULL;
  return (chains){heads, size - 1};
}

static inline uint32_t *chains_head(chains c, uint64_t hash) { return &c.heads[hash & c.mask]; }

/* The number of the stripe that has a key of this hash. */
static inline uint32_t series_stripe(uint64_t hash) { return (uint32_t)(hash >> 58); }

/*
 * Whether a drop is settled: `drop_epoch` is stored, and before it `at_drop`, what the series stood at. A reader that
 * reads the cells of a live series, and after that still finds it live, has read no more than what it will be dropped
 * with. If the series is not live any more, `at_drop` counts instead, once the drop is settled.
 */
#define SERIES_UNSETTLED UINT64_MAX
static inline bool series_is_settled(const series *s) {
  return atomic_load((shared_u64 *)&s->drop_epoch) != SERIES_UNSETTLED;
}

enum { STRIPE_LEAST = 32 }; /* fewest chains of a stripe */

/*
 * Empties a stripe's chains and returns them. They are new if the old ones cannot be chains. `heads` is NULL if there
 * is no memory for new ones.
 */
chains stripe_empty(chalk_segment *g, stripe *stripe);
/*
 * Repairs what a dead owner of the stripe's lock left half done: rebuilds the chains, frees reserved numbers, undoes
 * drops that are not settled, and finishes a handover. Under the stripe's lock.
 */
void stripe_repair(chalk_segment *g, uint32_t number);
/* Doubles the number of a stripe's chains. Without memory the chains stay as they are and get longer. */
void stripe_double(chalk_segment *g, uint32_t number);
/* Takes a series out of its chain. */
void stripe_unlink(chalk_segment *g, stripe *stripe, uint32_t id);

/* Takes a stripe's lock, and repairs the stripe if the owner died. NULL: see segment_lock_reach. */
static inline stripe *stripe_lock(chalk_segment *g, uint32_t number) {
  stripe *stripe = &g->stripes[number];
  bool orphaned;
  if (!segment_lock_reach(&stripe->lock, &orphaned)) return NULL;
  if (orphaned) stripe_repair(g, number);
  return stripe;
}

static inline void stripe_unlock(stripe *stripe) { segment_lock_give(&stripe->lock); }

/* Doubles the number of a stripe's chains once they have two links on average. Under its lock. */
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

/* The number of a key's live series; NONE: the key has none. Under the stripe's lock. */
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
