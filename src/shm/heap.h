/*
 * Blocks of shared memory by size class, four classes a doubling; one of whole cache lines begins with a line. A free
 * block's first word is the offset of the next free one of its class; taking and giving back are each published by one
 * store of the list's head, so that a death in between loses one block and breaks nothing.
 */
#ifndef HEAP_H
#define HEAP_H

#include "shm/segment.h"

/* A zeroed block; its offset, or 0 when the segment is full. Thread and process safe. */
uint64_t heap_take(chalk_segment *g, uint64_t size);
/* The same for an overflow series: there is some room left for those. */
uint64_t heap_take_last(chalk_segment *g, uint64_t size);
/* Gives back a block taken with the same size. 0 is allowed, and what can be no block is left alone. */
void heap_give(chalk_segment *g, uint64_t offset, uint64_t size);
/* The bytes a block of this size really takes. */
uint64_t heap_rounded(uint64_t size);

/*
 * The blocks that the parts of a segment refer to, used or free, each noted by the part that knows it. Private to a
 * check of the whole segment; `at` is freed by the caller.
 */
typedef struct heap_extent {
  uint64_t offset, size;
} heap_extent;

typedef struct heap_ledger {
  chalk_segment *g;
  heap_extent *at;
  size_t n, room;
} heap_ledger;

/* Notes a block. False: these bytes cannot be one of the heap, or there is no memory to note it. */
bool heap_note(heap_ledger *ledger, uint64_t offset, uint64_t size);
/* Notes the free blocks. False: their lists are not sound. Nobody else may use the heap. */
bool heap_note_free(heap_ledger *ledger);
/* Whether no two of the blocks that were noted share a byte. Sorts them. */
bool heap_are_apart(heap_ledger *ledger);

#endif
