/*
 * Whether a segment at rest is whole. Every structure in it is walked, and every block that the heap gave out has to be
 * referred to from one place, or be in one list of free blocks. A block that is neither is lost, which does no damage
 * but has a limit.
 */
#ifndef CONSISTENT_H
#define CONSISTENT_H

#include "shm/segment.h"

typedef struct census {
  uint64_t lost;    /* bytes of the heap that are neither in use nor free, without those for alignment */
  uint32_t live;    /* series */
  uint32_t dropped; /* series in quarantine */
} census;

/* NULL, or what is wrong. No other process uses the segment, and orphaned locks were taken and repaired before. */
const char *consistent(chalk_segment *g, census *c);

#endif
