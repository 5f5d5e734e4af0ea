#include "series/handover.h"

#include "base/peek.h"
#include "value/histogram.h"
#include "value/kind.h"
#include "value/stored.h"

void handover_finish(chalk_segment *g, stripe *stripe) {
  if (!atomic_load_explicit(&stripe->handing_over, memory_order_acquire)) return;
  uint32_t number = peek_u32(&stripe->handover_from), to = peek_u32(&stripe->handover_to);
  if (number >= g->capacity || to >= g->capacity) {
    atomic_store(&stripe->handing_over, 0);
    return;
  }
  series *from = &g->series[number];
  shared_u64 *cell = segment_cell(g, 0, to);
  bool is_histogram = kind_has_histogram(segment_metric_of(g, number)->kind);
  uint64_t tables[2] = {0, 0};
  if (is_histogram) {
    histogram *h = histogram_at(g, atomic_load(cell)), *new = histogram_at(g, stripe->handover_value);
    if (h && new) histogram_become(g, h, new, tables);
  } else {
    atomic_store(cell, stripe->handover_value);
  }
  uint64_t old = atomic_exchange(&from->at_drop, stripe->handover_at_drop);
  atomic_store(&stripe->handing_over, 0);
  if (!is_histogram) return;
  for (int i = 0; i < 2; i++) histogram_free_table(g, tables[i]);
  histogram_free_block(g, stripe->handover_value);
  if (old != stripe->handover_at_drop) stored_give(g, old);
}

void handover_publish(chalk_segment *g, stripe *stripe, uint32_t from, uint32_t to, uint64_t value, uint64_t at_drop) {
  stripe->handover_from = from;
  stripe->handover_to = to;
  stripe->handover_value = value;
  stripe->handover_at_drop = at_drop;
  atomic_store_explicit(&stripe->handing_over, 1, memory_order_release);
  handover_finish(g, stripe);
}
