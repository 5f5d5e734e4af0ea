/*
 * Sums of counts that come from a file and so may be any number. Each count and each sum is at most TALLY_MOST (2^62),
 * so sums of these sums, as readers make them later, do not overflow an int64.
 */
#ifndef TALLY_H
#define TALLY_H

#include <stdbool.h>
#include <stdint.h>

#define TALLY_MOST (1ull << 62)

/* Adds a count to a sum. False: the count or the new sum is above TALLY_MOST; the sum is unchanged. */
static inline bool tally_add(uint64_t *sum, uint64_t n) {
  if (n > TALLY_MOST || *sum > TALLY_MOST - n) return false;
  *sum += n;
  return true;
}

#endif
