#include "base/arena.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

/*
 * The first block of an arena is small, and each further one is twice as large as the one before, up to BLOCK_MOST.
 * Blocks and allocations of MAPPED bytes or more are mappings of their own, so freeing them returns their pages to the
 * kernel. malloc would keep them, in a separate pool for each thread.
 */
enum { BLOCK_LEAST = 32 * 1024, BLOCK_MOST = 1024 * 1024, KEPT_MOST = 128 * 1024, MAPPED = 64 * 1024 };

void *bulk_take(size_t size) {
  if (size < MAPPED) return calloc(1, size);
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

void bulk_free(void *p, size_t size) {
  if (size < MAPPED) {
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
 * The process keeps one freed block, of at most KEPT_MOST bytes, for the next arena of any thread. The first use of
 * each page of a new mapping is a page fault, which takes longer than filling the page does. An exporter that uses an
 * arena for each flush therefore takes no faults after its first flushes. A thread that exchanges this pointer owns the
 * block that it pointed to.
 */
static _Atomic(arena_block *) kept;

static void block_free(arena_block *b) {
  if (b) bulk_free(b, offsetof(arena_block, bytes) + b->size);
}

/* Returns the kept block if `size` bytes fit into it; NULL otherwise. */
static arena_block *block_reuse(size_t size) {
  arena_block *b = atomic_exchange(&kept, NULL);
  if (b && b->size >= size) return b;
  block_free(b);
  return NULL;
}

/* Returns a new block for at least `size` bytes; `before` is the size of the block before it, or 0. */
static arena_block *block_new(size_t before, size_t size) {
  size_t capacity = before ? 2 * before : BLOCK_LEAST;
  if (capacity > BLOCK_MOST) capacity = BLOCK_MOST;
  if (capacity < size) capacity = size;
  arena_block *b = bulk_take(offsetof(arena_block, bytes) + capacity);
  if (b) b->size = capacity;
  return b;
}

static bool add_block(arena *a, size_t size) {
  arena_block *b = a->blocks ? NULL : block_reuse(size);
  if (!b) b = block_new(a->blocks ? a->blocks->size : 0, size);
  if (!b) return false;
  b->next = a->blocks;
  a->blocks = b;
  a->left = b->size;
  return true;
}

void *arena_take(arena *a, size_t size) {
  size = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
  if (size > a->left && !add_block(a, size)) return NULL;
  char *end = (char *)a->blocks->bytes + a->blocks->size, *taken = end - a->left;
  a->left -= size;
  return taken;
}

/* The blocks come largest first, so the first that is small enough is the largest that may be kept. */
void arena_free(arena *a) {
  bool is_kept = false;
  while (a->blocks) {
    arena_block *b = a->blocks;
    a->blocks = b->next;
    if (!is_kept && b->size <= KEPT_MOST) {
      is_kept = true;
      b = atomic_exchange(&kept, b);
    }
    block_free(b);
  }
  a->left = 0;
}
