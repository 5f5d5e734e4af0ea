/*
 * The segment's heap: blocks of shared memory by size class, four classes a doubling. A block of whole cache lines
 * begins with a line. A free block's first word is the offset of the next free one of its class. Taking and giving back
 * are each published by one store of the list's head, so a death in between loses one block and breaks nothing. A block
 * is given back with the size that it was taken with, which its user has to know.
 */
#ifndef HEAP_H
#define HEAP_H

#include "shm/segment.h"

/* Takes a zeroed block of `size` bytes and returns its offset. 0: the segment is full. Takes heap_lock. */
uint64_t heap_take(chalk_segment *g, uint64_t size);
/* The same for what an overflow series needs: the last sixteenth of the memory is kept for that. */
uint64_t heap_take_last(chalk_segment *g, uint64_t size);
/*
 * Gives a block back. An offset of 0 is allowed, and one that can be no block of this size is ignored. Takes heap_lock.
 */
void heap_give(chalk_segment *g, uint64_t offset, uint64_t size);
/* How many bytes a block of this size takes of the heap. */
uint64_t heap_rounded(uint64_t size);

/* A block in the ledger. */
typedef struct heap_extent {
  uint64_t offset, size;
} heap_extent;

/*
 * The ledger: the blocks that the parts of a segment refer to, used or free, each noted by the part that knows it. It
 * is private to a check of the whole segment, during which nobody else uses the heap. The caller frees `at`.
 */
typedef struct heap_ledger {
  chalk_segment *g;
  heap_extent *at;
  size_t n, room;
} heap_ledger;

/* Notes a block. False: the heap cannot have a block there, or there is no memory to note it. */
bool heap_note(heap_ledger *ledger, uint64_t offset, uint64_t size);
/* Notes all free blocks. False: their lists are not sound, or there is no memory to note them. */
bool heap_note_free(heap_ledger *ledger);
/* Whether no two of the blocks that were noted share a byte. It sorts them. */
bool heap_are_apart(heap_ledger *ledger);

#endif
