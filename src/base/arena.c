#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

/*
 * A first block is small, and each is twice as large as the one before, up to a limit. What is large comes from the
 * kernel and goes back there: malloc keeps what it gave once, and does so in each thread.
 */
enum { BLOCK = 32 * 1024, LARGE = 64 * 1024, MOST = 1024 * 1024 };

void *bulk_take(size_t size) {
  if (size < LARGE) return calloc(1, size);
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

void bulk_free(void *p, size_t size) {
  if (size < LARGE) {
    free(p);
  } else if (p) {
    munmap(p, size);
  }
}

struct arena_block {
  arena_block *next;
  size_t size;
  max_align_t bytes[];
};

static arena_block *block_new(arena *a, size_t size) {
  arena_block *b = bulk_take(offsetof(arena_block, bytes) + size);
  if (!b) return NULL;
  *b = (arena_block){a->blocks, size};
  a->blocks = b;
  return b;
}

void *arena_take(arena *a, size_t size) {
  size = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
  if (size > a->left) {
    size_t room = a->blocks ? 2 * a->blocks->size : BLOCK;
    if (room > MOST) room = MOST;
    if (room < size) room = size;
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
    bulk_free(b, offsetof(arena_block, bytes) + b->size);
  }
  a->left = 0;
}
