#include "arena.h"

#include <stdint.h>
#include <stdlib.h>

/* Blocks are below what malloc gets from the kernel each time, and gives back. */
enum { BLOCK = 32 * 1024 };

struct arena_block {
  arena_block *next;
  size_t size;
  max_align_t bytes[];
};

static arena_block *block_new(arena *a, size_t size) {
  arena_block *b = malloc(offsetof(arena_block, bytes) + size);
  if (!b) return NULL;
  *b = (arena_block){a->blocks, size};
  a->blocks = b;
  return b;
}

void *arena_take(arena *a, size_t size) {
  size = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
  if (size > a->left) {
    size_t room = size > BLOCK ? size : BLOCK;
    if (!block_new(a, room)) return NULL;
    a->left = room;
  }
  char *end = (char *)a->blocks->bytes + a->blocks->size, *piece = end - a->left;
  a->left -= size;
  return piece;
}

void arena_free(arena *a) {
  while (a->blocks) {
    arena_block *b = a->blocks;
    a->blocks = b->next;
    free(b);
  }
  a->left = 0;
}
