/*
 * Private memory that is freed all at once: an arena for small pieces, and bulk for large ones. An arena belongs to one
 * thread. Its pieces never move, and none is freed before the others.
 */
#ifndef ARENA_H
#define ARENA_H

#include <stddef.h>

typedef struct arena_block arena_block;

/* All zero is an empty arena. */
typedef struct arena {
  arena_block *blocks; /* the block that pieces are taken from now, then the full ones */
  size_t left;         /* bytes that are left at its end */
} arena;

/* A piece of `size` bytes, aligned for any type, not zeroed. NULL: out of memory. */
void *arena_take(arena *a, size_t size);
/* Frees all pieces; the arena is empty afterwards. */
void arena_free(arena *a);

/* Zeroed memory in one piece. A large piece goes back to the kernel when it is freed. NULL: out of memory. */
void *bulk_take(size_t size);
/* Frees a piece with the size that it was taken with. NULL is allowed. */
void bulk_free(void *p, size_t size);

#endif
