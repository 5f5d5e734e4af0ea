#include "series/series_key.h"

#include "base/peek.h"

uint32_t series_key_read(const chalk_segment *g, uint32_t metric, uint32_t id, uint32_t generation, uint64_t *out) {
  const series *s = &g->series[id];
  uint32_t n;
  if (id < METRICS) {
    uint32_t tags = atomic_load((shared_u32 *)&g->metrics[metric].tags);
    n = key_overflow((char *)out, tags < CHALK_TAGS ? tags : CHALK_TAGS);
  } else {
    n = atomic_load_explicit((shared_u32 *)&s->key_size, memory_order_relaxed);
    const void *key = segment_block(g, s->key, (n + 7) / 8 * 8);
    if (n > 0 && (n > KEY_MOST || !key)) return NONE;
    peek_bytes(out, key, n);
  }
  atomic_thread_fence(memory_order_acquire);
  return atomic_load((shared_u32 *)&s->generation) == generation ? n : NONE;
}
