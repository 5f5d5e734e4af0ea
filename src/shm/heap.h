/*
 * Blocks of shared memory by size class, four classes a doubling; one of whole cache lines begins with a line. A free
 * block's first word is the offset of the next free one of its class; taking and giving back are each published by one
 * store of the list's head, so that a death in between loses one block and breaks nothing.
 */
#ifndef HEAP_H
#define HEAP_H

#include "open/recover.h"
#include "shm/segment.h"

/* A zeroed block; its offset, or 0 when the segment is full. Thread and process safe. */
uint64_t heap_take(chalk_segment *g, uint64_t size);
/* The same for an overflow series: there is some room left for those. */
uint64_t heap_take_last(chalk_segment *g, uint64_t size);
/* Gives back a block taken with the same size. 0 is allowed, and what can be no block is left alone. */
void heap_give(chalk_segment *g, uint64_t offset, uint64_t size);
/* The bytes a block of this size really takes. */
uint64_t heap_rounded(uint64_t size);
/* Whether the lists of free blocks are sound; nobody else may use the heap. */
bool heap_is_sound(const chalk_segment *g, recovery *r);

#endif
