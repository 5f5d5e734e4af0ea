/*
 * Reading what a series' cells hold, over all slots. No lock is taken: the total of a series that is recorded into
 * meanwhile lies between what it was before the read and what it is after it.
 */
#ifndef CELLS_H
#define CELLS_H

#include "shm/lives.h"
#include "shm/segment.h"
#include "value/histogram.h"
#include "value/kind.h"

/* Makes the memory of a slot's cell real, with that of its neighbours. False: there is none left. */
static inline bool cells_make(chalk_segment *g, uint32_t row, uint32_t id) {
  shared_u64 *chunks = g->slots[row].chunks;
  return segment_chunk_real(g, chunks, id) ||
         segment_chunk_make(g, chunks, segment_row(g, row), 8, id, id < METRICS) == CHALK_OK;
}

/* What a slot's cell of a series holds; 0: the slot never bound it. */
static inline uint64_t cells_at(const chalk_segment *g, uint32_t row, uint32_t id) {
  if (!segment_chunk_real(g, g->slots[row].chunks, id)) return 0;
  return atomic_load_explicit(segment_cell(g, row, id), memory_order_acquire);
}

/* What a slot's cell adds to a total. Unsigned, as cells that are damaged may add up to more than there can be. */
static inline uint64_t cells_amount(const chalk_segment *g, kind_content holds, uint64_t bits) {
  if (holds == KIND_TOTAL) return (uint64_t)(int64_t)as_double(bits);
  const histogram *h = holds == KIND_HISTOGRAM ? histogram_at(g, bits) : NULL;
  return h ? histogram_count(g, h) : 0;
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

/*
 * Empties all cells of a series, and gives back what they led to. Under the registry lock, which keeps away those who
 * take a slot and look at the gauges in it.
 */
void cells_free(chalk_segment *g, uint32_t id);

#endif
