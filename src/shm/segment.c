#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* The epoch */

double segment_epoch(const chalk_segment *g) {
  return as_double(atomic_load_explicit(&g->head->epoch, memory_order_acquire));
}

double segment_epoch_move(chalk_segment *g) {
  uint64_t old = atomic_load(&g->head->epoch), new;
  do new = as_bits(as_double(old) + 1);
  while (!atomic_compare_exchange_weak(&g->head->epoch, &old, new));
  return as_double(new);
}

/* Making memory real */

int segment_allocate(int fd, uint64_t offset, uint64_t size) {
  int rc;
  do rc = posix_fallocate(fd, (off_t)offset, (off_t)size);
  while (rc == EINTR);
  return rc == 0 ? CHALK_OK : CHALK_EMEMORY;
}

uint64_t segment_pages(const chalk_segment *g, uint64_t *offset, uint64_t size) {
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), end = (*offset + size + page - 1) / page * page;
  *offset = *offset / page * page;
  return (end < g->size ? end : g->size) - *offset;
}

int segment_make_real(chalk_segment *g, uint64_t offset, uint64_t size, bool last) {
  header *h = g->head;
  size = segment_pages(g, &offset, size);
  uint64_t limit = atomic_load(&h->memory_limit);
  if (!last) limit -= limit / 16;
  if (atomic_load(&h->memory) + size > limit) return CHALK_EMEMORY;
  if (segment_allocate(g->fd, offset, size) != CHALK_OK) return CHALK_EMEMORY;
  /*
   * The range is counted after the call, which takes a while. If the process died in it with the range counted already,
   * the next process to make the range real would count it again.
   */
  atomic_fetch_add(&h->memory, size);
  return CHALK_OK;
}

int segment_chunk_make(chalk_segment *g, shared_u64 *chunks, uint64_t row, uint32_t width, uint32_t id, bool last) {
  if (segment_chunk_real(g, chunks, id)) return CHALK_OK;
  uint32_t items = segment_chunk_items(g), chunk = segment_chunk_of(g, id);
  int rc = segment_make_real(g, row + (uint64_t)chunk * items * width, (uint64_t)items * width, last);
  if (rc == CHALK_OK) atomic_fetch_or_explicit(&chunks[chunk / 64], 1ull << (chunk % 64), memory_order_release);
  return rc;
}
