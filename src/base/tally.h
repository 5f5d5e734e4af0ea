/*
 * Sums of counts that are read from a file. Each count and each sum is at most TALLY_MOST, 2^62, so later sums of them
 * do not overflow an int64.
 */
#ifndef TALLY_H
#define TALLY_H

#include <stdbool.h>
#include <stdint.h>

#define TALLY_MOST (1ull << 62)

/* Adds a count to a sum. False, and the sum is as it was, where either would be more than TALLY_MOST. */
static inline bool tally_add(uint64_t *sum, uint64_t n) {
  if (n > TALLY_MOST || *sum > TALLY_MOST - n) return false;
  *sum += n;
  return true;
}

#endif
