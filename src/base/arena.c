#include "base/arena.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

/*
 * A first block is small, and each is twice as large as the one before, up to a limit. What is large comes from the
 * kernel and goes back there: malloc keeps what it gave once, and does so in each thread.
 */
enum { BLOCK = 32 * 1024, LARGE = 64 * 1024, MOST = 1024 * 1024, KEPT = 128 * 1024 };

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

/*
 * The process keeps one block, of at most KEPT bytes, for the next arena in any thread. Each page of a new mapping
 * costs a fault, which takes longer than to fill the page; an exporter that needs an arena for each flush takes no
 * faults after its first flushes. A thread that exchanges the pointer owns the block that it pointed to.
 */
static _Atomic(arena_block *) kept;

static void block_free(arena_block *b) {
  if (b) bulk_free(b, offsetof(arena_block, bytes) + b->size);
}

/* The first block of an arena. */
static arena_block *block_first(size_t size) {
  arena_block *b = atomic_exchange(&kept, NULL);
  if (b && b->size >= size) return b;
  block_free(b);
  return NULL;
}

static arena_block *block_next(size_t before, size_t size) {
  size_t room = before ? 2 * before : BLOCK;
  if (room > MOST) room = MOST;
  if (room < size) room = size;
  arena_block *b = bulk_take(offsetof(arena_block, bytes) + room);
  if (b) b->size = room;
  return b;
}

static bool add_block(arena *a, size_t size) {
  arena_block *b = a->blocks ? NULL : block_first(size);
  if (!b) b = block_next(a->blocks ? a->blocks->size : 0, size);
  if (!b) return false;
  b->next = a->blocks;
  a->blocks = b;
  a->left = b->size;
  return true;
}

void *arena_take(arena *a, size_t size) {
  size = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
  if (size > a->left && !add_block(a, size)) return NULL;
  char *end = (char *)a->blocks->bytes + a->blocks->size, *piece = end - a->left;
  a->left -= size;
  return piece;
}

/* Keeps the largest block that may be kept: each was larger than those before it. */
void arena_free(arena *a) {
  bool is_kept = false;
  while (a->blocks) {
    arena_block *b = a->blocks;
    a->blocks = b->next;
    if (!is_kept && b->size <= KEPT) {
      is_kept = true;
      b = atomic_exchange(&kept, b);
    }
    block_free(b);
  }
  a->left = 0;
}
