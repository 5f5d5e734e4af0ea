/*
 * Private memory that is freed all at once. `arena` serves small allocations, `bulk` large ones.
 *
 * An arena takes blocks of memory from the system and cuts allocations from them, one behind the other. Its allocations
 * never move, and they are freed together only: an arena needs no bookkeeping for each of them. One thread at a time
 * uses an arena. (These blocks are private. They are not the blocks of the segment's heap, see heap.h.)
 */
#ifndef ARENA_H
#define ARENA_H

#include <stddef.h>

typedef struct arena_block arena_block;

/* An arena whose bytes are all zero is empty. */
typedef struct arena {
  arena_block *blocks; /* the block that allocations are cut from now, then the full ones */
  size_t left;         /* bytes that are left at the end of the first block */
} arena;

/* Returns `size` bytes that are aligned for any type and not zeroed. NULL: out of memory. */
void *arena_take(arena *a, size_t size);
/* Frees all allocations. The arena is empty afterwards and may be used again. */
void arena_free(arena *a);

/* Returns `size` zeroed bytes. Freeing a large allocation gives its pages back to the kernel. NULL: out of memory. */
void *bulk_take(size_t size);
/* Frees an allocation of bulk_take. `size` is the size that it was taken with. NULL is allowed. */
void bulk_free(void *p, size_t size);

#endif
