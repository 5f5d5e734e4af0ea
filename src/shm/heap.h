/*
 * The heap of the segment: blocks of shared memory in size classes, four for each doubling of the size.
 *
 *   free list of a class:   heap_free[class] -> block -> block -> 0     each first word is the offset of the next
 *
 * A block whose size is a multiple of a cache line begins at a cache line. To take or to free a block, one store to the
 * head of a list publishes the change: a process that dies in between loses one block and damages nothing. A block has
 * no header, so it is freed with the size that it was taken with, and its user has to know that size.
 */
#ifndef HEAP_H
#define HEAP_H

#include "shm/segment.h"

/* Takes a zeroed block of `size` bytes and returns its offset. 0: the segment is full. Takes heap_lock. */
uint64_t heap_take(chalk_segment *g, uint64_t size);
/* The same for an overflow series, for which the last sixteenth of the memory is reserved. */
uint64_t heap_take_last(chalk_segment *g, uint64_t size);
/*
 * Frees a block. An offset of 0 is allowed, and an offset that cannot be a block of this size is ignored. Takes
 * heap_lock.
 */
void heap_give(chalk_segment *g, uint64_t offset, uint64_t size);
/* The number of bytes that a block of this size takes from the heap. */
uint64_t heap_rounded(uint64_t size);

/* A block that is noted in a ledger. */
typedef struct heap_extent {
  uint64_t offset, size;
} heap_extent;

/*
 * A ledger lists the blocks that the parts of a segment refer to, used or free. Each part notes the blocks that it
 * knows. A ledger is private to a check of the whole segment, during which no other process uses the heap. The caller
 * frees `at`.
 */
typedef struct heap_ledger {
  chalk_segment *g;
  heap_extent *at;
  size_t n, capacity;
} heap_ledger;

/* Notes a block. False: the heap cannot have a block at this offset, or there is no memory to note it. */
bool heap_note(heap_ledger *ledger, uint64_t offset, uint64_t size);
/* Notes all free blocks. False: the free lists are damaged, or there is no memory to note the blocks. */
bool heap_note_free(heap_ledger *ledger);
/* Whether no two noted blocks share a byte. Sorts them. */
bool heap_are_apart(heap_ledger *ledger);

#endif
