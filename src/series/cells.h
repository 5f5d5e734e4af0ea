/*
 * Reading what a series' cells hold, over all slots. No lock is taken: the total of a series that is recorded into
 * meanwhile lies between what it was before the read and what it is after it.
 */
#ifndef CELLS_H
#define CELLS_H

#include "shm/lives.h"
#include "shm/segment.h"

/* What a slot's cell of a series holds; 0: the slot never bound it. */
static inline uint64_t cells_at(const chalk_segment *g, uint32_t writer, uint32_t id) {
  if (!segment_chunk_real(g, g->slots[writer].chunks, id)) return 0;
  return atomic_load_explicit(segment_cell(g, writer, id), memory_order_acquire);
}

/* The total of a count over all writers; the number of values of a histogram. */
int64_t cells_total(const chalk_segment *g, uint32_t id);
/* A gauge as `across` combines it over those who live; false when none of them has set it. */
bool cells_gauge(const chalk_segment *g, uint32_t id, lives *alive, double *value);
/* Whether any writer has recorded into it since the marks were last taken. */
bool cells_gauge_touched(const chalk_segment *g, uint32_t id);
/* The same, and takes the marks. Only the holder. */
bool cells_gauge_take(chalk_segment *g, uint32_t id);
/* Whether any writer has bound it. */
bool cells_bound(const chalk_segment *g, uint32_t id);

#endif
