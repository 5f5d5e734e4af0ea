/*
 * Whether a segment at rest is whole: every structure in it is walked, and everything the heap gave out is either
 * reachable from one place or in one list of free blocks. What is neither was lost, which is no damage but has a limit.
 */
#ifndef CONSISTENT_H
#define CONSISTENT_H

#include "shm/segment.h"

typedef struct census {
  uint64_t lost;    /* bytes of the heap that are neither in use nor free, alignment left out */
  uint32_t live;    /* series */
  uint32_t dropped; /* series in quarantine */
} census;

/* NULL, or what is wrong. Nobody else may be using the segment, and orphaned locks have been taken since. */
const char *consistent(chalk_segment *g, census *c);

#endif
