#include "series/cells.h"

#include "series/gauge.h"

bool cells_bound(const chalk_segment *g, uint32_t id) {
  for (uint32_t row = 0; row < segment_slots(g); row++) {
    if (cells_at(g, row, id) != 0) return true;
  }
  return false;
}

int64_t cells_total(const chalk_segment *g, uint32_t id) {
  kind_content holds = kind_of(segment_metric_of(g, id)->kind)->holds;
  uint64_t total = 0;
  for (uint32_t row = 0; row < segment_slots(g); row++) total += cells_amount(g, holds, cells_at(g, row, id));
  return (int64_t)total;
}

/*
 * Adds the gauge of a slot with a row. A new owner resets the gauge, then takes the slot, which moves the slot's turn,
 * and only then sets the gauge. So a value that was read within one turn was set by one owner.
 */
static void add_own_gauge(gauge_sum *sum, const chalk_segment *g, uint32_t row, uint64_t offset, lives *alive) {
  const gauge_link *block = segment_block(g, offset, GAUGE_BLOCK);
  shared_u32 *turn = &g->slots[row].turn;
  uint32_t before = atomic_load(turn);
  if (!block || !lives_on(alive, row)) return;
  gauge_sum more = *sum;
  gauge_add(&more, block);
  if (atomic_load(turn) == before) *sum = more;
}

bool cells_gauge(const chalk_segment *g, uint32_t id, lives *alive, double *value) {
  series *s = &g->series[id];
  uint32_t across = segment_metric_of(g, id)->across;
  if (across == CHALK_LAST) {
    /* The mark is read first: read after the value, it could make a value of the zero from before the first set. */
    bool set = as_double(atomic_load_explicit(&s->mark, memory_order_acquire)) != GAUGE_UNSET;
    *value = load_double(&s->gauge);
    return set;
  }
  gauge_sum sum = {.across = across};
  gauge_add_links(&sum, g, cells_at(g, 0, id), alive);
  for (uint32_t row = 1; row < segment_slots(g); row++) add_own_gauge(&sum, g, row, cells_at(g, row, id), alive);
  *value = sum.value;
  return sum.any;
}

static bool is_marked(shared_u64 *mark) {
  return as_double(atomic_load_explicit(mark, memory_order_acquire)) == GAUGE_TOUCHED;
}

static bool take_mark(shared_u64 *mark) {
  uint64_t touched = as_bits(GAUGE_TOUCHED);
  return atomic_compare_exchange_strong(mark, &touched, as_bits(GAUGE_SET));
}

/* Calls `ask` for each mark of a gauge. True: one call returned true. */
static bool ask_marks(const chalk_segment *g, uint32_t id, bool (*ask)(shared_u64 *mark)) {
  if (segment_metric_of(g, id)->across == CHALK_LAST) return ask(&g->series[id].mark);
  bool any = false;
  for (uint32_t row = 0; row < segment_slots(g); row++) {
    if (gauge_ask(g, row, cells_at(g, row, id), ask)) any = true;
  }
  return any;
}

bool cells_gauge_touched(const chalk_segment *g, uint32_t id) { return ask_marks(g, id, is_marked); }
bool cells_gauge_take(chalk_segment *g, uint32_t id) { return ask_marks(g, id, take_mark); }

void cells_free(chalk_segment *g, uint32_t id) {
  const metric *m = segment_metric_of(g, id);
  bool is_split = kind_is_split(m), has_histogram = kind_has_histogram(m->kind);
  for (uint32_t row = 0; row < segment_slots(g); row++) {
    uint64_t bits = cells_at(g, row, id);
    if (bits == 0) continue;
    if (is_split) gauge_free(g, row, id);
    if (has_histogram) histogram_empty(g, bits);
    atomic_store(segment_cell(g, row, id), 0);
    if (has_histogram) histogram_free_block(g, bits);
  }
}
