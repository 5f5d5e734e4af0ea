/*
 * What the cells of a series hold, over all slots: reading, making and freeing them.
 *
 *   row of slot 0      | 12 |  0 | ...         series 0 has the total 12 + 3 + 0
 *   row of slot 1      |  3 |  5 | ...
 *   row of slot 2      |  0 |  9 | ...
 *
 * Readers take no lock. The total of a series that is recorded into meanwhile lies between what it was before the read
 * and what it is after it.
 */
#ifndef CELLS_H
#define CELLS_H

#include "shm/lives.h"
#include "shm/segment.h"
#include "value/histogram.h"
#include "value/kind.h"

/* Makes the chunk of a slot's row real that has the cell of a series. False: there is no memory. */
static inline bool cells_make(chalk_segment *g, uint32_t row, uint32_t id) {
  shared_u64 *chunks = g->slots[row].chunks;
  return segment_chunk_real(g, chunks, id) ||
         segment_chunk_make(g, chunks, segment_row(g, row), 8, id, id < METRICS) == CHALK_OK;
}

/* What a slot's cell of a series holds. 0: no owner of the slot has bound it. */
static inline uint64_t cells_at(const chalk_segment *g, uint32_t row, uint32_t id) {
  if (!segment_chunk_real(g, g->slots[row].chunks, id)) return 0;
  return atomic_load_explicit(segment_cell(g, row, id), memory_order_acquire);
}

/*
 * What a slot's cell, of these bits, adds to a total. It is unsigned, because the sum of damaged cells may overflow.
 */
static inline uint64_t cells_amount(const chalk_segment *g, kind_content holds, uint64_t bits) {
  if (holds == KIND_TOTAL) return (uint64_t)(int64_t)as_double(bits);
  const histogram *h = holds == KIND_HISTOGRAM ? histogram_at(g, bits) : NULL;
  return h ? histogram_count(g, h) : 0;
}

/* The total of a count over all slots; the number of values of a histogram. */
int64_t cells_total(const chalk_segment *g, uint32_t id);
/* *value is a gauge as `across` combines it over all live VMs. False: none of them has set it. */
bool cells_gauge(const chalk_segment *g, uint32_t id, lives *alive, double *value);
/* Whether any writer has recorded into a gauge since its marks were last taken. */
bool cells_gauge_touched(const chalk_segment *g, uint32_t id);
/* Takes the marks of a gauge: TOUCHED becomes SET. True: there was one to take. Only the holder. */
bool cells_gauge_take(chalk_segment *g, uint32_t id);
/* Whether any writer has bound the series. */
bool cells_bound(const chalk_segment *g, uint32_t id);

/*
 * Empties all cells of a series, and frees the blocks that they led to. Under the registry lock, because a process that
 * takes a slot resets the gauges to which the slot's cells lead.
 */
void cells_free(chalk_segment *g, uint32_t id);

#endif
