#include "open/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "open/limits.h"
#include "series/stripe.h"
#include "shm/process.h"

static uint64_t rounded_up(uint64_t n) { return (n + 4095) & ~4095ull; }

uint64_t layout_compute(header *h, uint32_t capacity, uint64_t heap) {
  uint64_t at = rounded_up(sizeof(header));
  h->capacity = capacity;
  h->stripes = at, at += rounded_up(sizeof(stripe) * STRIPES);
  h->cursors = at, at += rounded_up(sizeof(cursor_head) * CURSORS);
  h->slots = at, at += rounded_up(sizeof(slot) * OWNERS);
  h->metrics = at, at += rounded_up(sizeof(metric) * METRICS);
  h->series = at, at += rounded_up(sizeof(series) * (uint64_t)capacity);
  h->cells = at, at += (uint64_t)WRITERS * capacity * 8;
  h->baselines = at, at += (uint64_t)CURSORS * capacity * sizeof(baseline);
  h->heap = at;
  return h->size = at + rounded_up(heap);
}

static uint32_t capacity_for(uint32_t max_series) {
  uint32_t capacity = LIMITS_LEAST_CAPACITY;
  while (capacity < LIMITS_MOST_CAPACITY && capacity / 2 < max_series + METRICS) capacity *= 2;
  return capacity;
}

void layout_apply(chalk_segment *g, const header *geometry) {
  uint32_t items = geometry->capacity / CHUNKS;
  g->capacity = geometry->capacity;
  g->chunk_log = (uint32_t)__builtin_ctz(items < CHUNK_LEAST ? CHUNK_LEAST : items);
  g->cells = geometry->cells;
  g->baselines = geometry->baselines;
  g->heap = geometry->heap;
  g->slots = segment_at(g, geometry->slots);
  g->stripes = segment_at(g, geometry->stripes);
  g->cursors = segment_at(g, geometry->cursors);
  g->metrics = segment_at(g, geometry->metrics);
  g->series = segment_at(g, geometry->series);
}

static int check_file_limit(uint64_t size, char *message) {
  struct rlimit r;
  if (getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur != RLIM_INFINITY && size > r.rlim_cur) {
    process_say(message, "the file size limit (%llu bytes) is below what a segment reserves",
                (unsigned long long)r.rlim_cur);
    return CHALK_EMEMORY;
  }
  return CHALK_OK;
}

int layout_reserve(chalk_segment *g, const chalk_options *o, header *geometry, char *message) {
  uint64_t wanted = o->memory_limit ? o->memory_limit : LIMITS_DEFAULT, limit = wanted;
  uint32_t capacity = capacity_for(o->max_series ? o->max_series : LIMITS_SERIES);
  struct rlimit r;
  bool limited = getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur != RLIM_INFINITY;
  for (;; limit /= 2) {
    uint64_t size = layout_compute(geometry, capacity, limit);
    if (limited && size > r.rlim_cur && limit > LIMITS_LEAST) continue;
    if (check_file_limit(size, message) != CHALK_OK) return CHALK_EMEMORY;
    void *base = MAP_FAILED;
    static const uint64_t magic = LAYOUT_MAGIC;
    if (pwrite(g->fd, &magic, sizeof magic, 0) == sizeof magic && ftruncate(g->fd, (off_t)size) == 0) {
      base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, g->fd, 0);
    }
    if (base != MAP_FAILED) {
      g->base = base;
      g->size = size;
      if (limit < wanted) {
        process_say(message, "only %llu of %llu MiB could be reserved: the address space or file size is limited",
                    (unsigned long long)(limit >> 20), (unsigned long long)(wanted >> 20));
      }
      return CHALK_OK;
    }
    if (limit <= LIMITS_LEAST) {
      process_say(message, "cannot reserve memory for a segment: %s", strerror(errno));
      return ftruncate(g->fd, 0) == 0 ? CHALK_EMEMORY : CHALK_EINVALID;
    }
  }
}

void layout_boot(char *boot, size_t size) {
  memset(boot, 0, size);
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t n = read(fd, boot, size - 1);
  if (n < 0) boot[0] = 0;
  close(fd);
}

/* Makes empty chains for each stripe. */
static bool make_chains(chalk_segment *g) {
  for (uint32_t i = 0; i < STRIPES; i++) {
    if (!stripe_empty(g, &g->stripes[i]).heads) return false;
  }
  return true;
}

int layout_fill(chalk_segment *g, const header *geometry, const chalk_options *o, char *message) {
  uint64_t start = 0, real = segment_pages(g, &start, geometry->slots + rounded_up(sizeof(slot) * WRITERS));
  if (segment_allocate(g->fd, start, real) != CHALK_OK) {
    process_say(message, "no memory for a segment: %s", strerror(errno ? errno : ENOSPC));
    return CHALK_EMEMORY;
  }
  header *h = g->head;
  h->layout = SEGMENT_LAYOUT, h->abi = CHALK_ABI;
  layout_compute(h, geometry->capacity, geometry->size - geometry->heap);
  layout_apply(g, geometry);
  limits_begin(g, o);
  atomic_store(&h->memory, real);
  atomic_store(&h->epoch, as_bits(1));
  h->heap_top = h->heap_real = g->heap;
  h->ids_free = NONE;
  atomic_store(&h->ids_top, METRICS);
  atomic_store(&h->series_real, METRICS);
  atomic_store(&h->slot_top, 1);
  atomic_store(&h->guest_top, WRITERS);
  atomic_store(&h->slots_real, WRITERS);
  layout_boot(h->boot, sizeof h->boot);
  segment_locks_new(g);
  if (!make_chains(g)) {
    process_say(message, "no memory for a segment");
    return CHALK_EMEMORY;
  }
  atomic_store_explicit(&h->ready, 1, memory_order_release);
  return CHALK_OK;
}
