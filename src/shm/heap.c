#include "shm/heap.h"

#include <stdlib.h>
#include <string.h>

#include "base/peek.h"

/*
 * Large blocks are one cache line larger than requested. Without it, sketch tables, whose sizes are powers of two,
 * would follow each other at distances where corresponding buckets have addresses with the same last twelve bits. The
 * processor would mistake them for each other, and they would compete for one set of its cache.
 */
enum { SMALLEST = 16, GROWTH = 64 * 1024, LARGE = 1024, LINE = 64 };

/* Class k of doubling d holds 16 * 2^d * (1 + k/4) bytes. */
static uint32_t class_of(uint64_t size, uint64_t *rounded) {
  if (size < SMALLEST) size = SMALLEST;
  uint32_t doubling = 63 - (uint32_t)__builtin_clzll(size) - 4;
  uint64_t base = (uint64_t)SMALLEST << doubling, step = base / 4;
  uint32_t quarter = (uint32_t)((size - base + step - 1) / step);
  *rounded = (base + quarter * step + 7) & ~(uint64_t)7;
  if (*rounded >= LARGE) *rounded += LINE;
  return doubling * 4 + quarter;
}

uint64_t heap_rounded(uint64_t size) {
  uint64_t rounded;
  class_of(size, &rounded);
  return rounded;
}

/* The largest size that is served by a block of this class. */
static uint64_t most_of(uint32_t class) {
  uint64_t base = (uint64_t)SMALLEST << class / 4;
  return base + class % 4 * (base / 4);
}

/* Takes a block from the unused end of the heap. 0: the segment is full. */
static uint64_t take_new(chalk_segment *g, uint64_t size, bool last) {
  header *h = g->head;
  uint64_t top = h->heap_top, offset = size % LINE == 0 ? (top + LINE - 1) / LINE * LINE : top;
  if (!segment_block(g, top, 0) || !segment_block(g, offset, size)) return 0;
  uint64_t end = offset + size, real = h->heap_real;
  if (end > real) {
    uint64_t want = (end + GROWTH - 1) / GROWTH * GROWTH;
    if (want > g->size) want = g->size;
    if (segment_make_real(g, real, want - real, last) != CHALK_OK) return 0;
    h->heap_real = want;
  }
  h->heap_top = end;
  return offset;
}

/* Takes the first free block of a class. 0: there is none. A list that leads out of the heap is abandoned. */
static uint64_t take_free(chalk_segment *g, uint32_t class, uint64_t size) {
  header *h = g->head;
  uint64_t offset = h->heap_free[class];
  const uint64_t *next = offset ? segment_block(g, offset, size) : NULL;
  h->heap_free[class] = next ? *next : 0;
  return next ? offset : 0;
}

static uint64_t take(chalk_segment *g, uint64_t size, bool last) {
  uint64_t rounded;
  uint32_t class = class_of(size, &rounded);
  if (class >= HEAP_CLASSES) return 0;
  header *h = g->head;
  if (!segment_lock_reach_any(&h->heap_lock)) return 0;
  uint64_t offset = h->heap_free[class] ? take_free(g, class, rounded) : 0;
  bool used = offset != 0;
  if (!used) offset = take_new(g, rounded, last);
  segment_lock_give(&h->heap_lock);
  if (used) memset(segment_at(g, offset), 0, rounded);
  return offset;
}

uint64_t heap_take(chalk_segment *g, uint64_t size) { return take(g, size, false); }
uint64_t heap_take_last(chalk_segment *g, uint64_t size) { return take(g, size, true); }

void heap_give(chalk_segment *g, uint64_t offset, uint64_t size) {
  if (offset == 0) return;
  uint64_t rounded, *block;
  uint32_t class = class_of(size, &rounded);
  header *h = g->head;
  if (class >= HEAP_CLASSES || !(block = segment_block(g, offset, rounded))) return;
  if (!segment_lock_reach_any(&h->heap_lock)) return;
  *block = h->heap_free[class];
  atomic_signal_fence(memory_order_release);
  h->heap_free[class] = offset;
  segment_lock_give(&h->heap_lock);
}

/* The ledger */

static bool note(heap_ledger *l, heap_extent extent) {
  if (l->n == l->capacity) {
    size_t capacity = l->capacity ? l->capacity * 2 : 256;
    heap_extent *at = realloc(l->at, capacity * sizeof *at);
    if (!at) return false;
    l->at = at;
    l->capacity = capacity;
  }
  l->at[l->n++] = extent;
  return true;
}

bool heap_note(heap_ledger *l, uint64_t offset, uint64_t size) {
  const chalk_segment *g = l->g;
  uint64_t top = peek_u64(&g->head->heap_top);
  if (!segment_block(g, offset, size) || top > g->size || offset >= top || size > top - offset) return false;
  uint64_t rounded = heap_rounded(size);
  return rounded <= top - offset && note(l, (heap_extent){offset, rounded});
}

/* A damaged list may form a ring. The loop ends at the number of blocks that the heap can contain at most. */
bool heap_note_free(heap_ledger *l) {
  const chalk_segment *g = l->g;
  uint64_t top = peek_u64(&g->head->heap_top), left = top > g->heap && top <= g->size ? (top - g->heap) / SMALLEST : 0;
  for (uint32_t class = 0; class < HEAP_CLASSES; class ++) {
    for (uint64_t at = g->head->heap_free[class]; at; at = peek_u64(segment_at(g, at))) {
      if (left == 0 || !heap_note(l, at, most_of(class))) return false;
      left--;
    }
  }
  return true;
}

static int by_offset(const void *a, const void *b) {
  uint64_t x = ((const heap_extent *)a)->offset, y = ((const heap_extent *)b)->offset;
  return (x > y) - (x < y);
}

bool heap_are_apart(heap_ledger *l) {
  qsort(l->at, l->n, sizeof *l->at, by_offset);
  for (size_t i = 1; i < l->n; i++) {
    if (l->at[i].offset - l->at[i - 1].offset < l->at[i - 1].size) return false;
  }
  return true;
}
