/* Private memory in small pieces that goes all at once. */
#ifndef ARENA_H
#define ARENA_H

#include <stddef.h>

typedef struct arena_block arena_block;

/* All zero: empty. */
typedef struct arena {
  arena_block *blocks; /* the one under way first */
  size_t left;         /* bytes at its end */
} arena;

/* Memory as it comes, aligned for anything; NULL: there is none. */
void *arena_take(arena *a, size_t size);
void arena_free(arena *a);

/*
 * Memory in one piece, zeroed. What is large is the kernel's again once it is freed, with the size that it was taken
 * with. NULL: there is none.
 */
void *bulk_take(size_t size);
void bulk_free(void *p, size_t size); /* NULL is allowed */

#endif
