#include "series/number.h"

void number_rebuild(chalk_segment *g) {
  header *head = g->head;
  head->ids_free = NONE;
  for (uint32_t id = series_top(g); id-- > METRICS;) {
    if (series_state(&g->series[id]) != SERIES_FREE) continue;
    g->series[id].next = head->ids_free;
    head->ids_free = id;
  }
}

/* Takes the list's lock, and rebuilds the list if the owner died. False: see segment_lock_reach. */
static bool lock_list(chalk_segment *g) {
  bool orphaned;
  if (!segment_lock_reach(&g->head->ids_lock, &orphaned)) return false;
  if (orphaned) number_rebuild(g);
  return true;
}

/* Makes the structs up to and including number `id` real. */
static int make_structs(chalk_segment *g, uint32_t id) {
  enum { BATCH = 512 }; /* whole pages */
  header *head = g->head;
  uint32_t real = atomic_load(&head->series_real);
  if (id < real) return CHALK_OK;
  uint32_t want = (id / BATCH + 1) * BATCH;
  if (want > g->capacity) want = g->capacity;
  uint64_t offset = segment_offset(g, &g->series[real]);
  int rc = segment_make_real(g, offset, (uint64_t)(want - real) * sizeof(series), false);
  if (rc == CHALK_OK) atomic_store(&head->series_real, want);
  return rc;
}

/* Takes a number that no series has had yet. NONE: all were used, or there is no memory. */
static uint32_t take_first(chalk_segment *g, uint32_t state) {
  uint32_t top = series_top(g);
  if (top >= g->capacity || make_structs(g, top) != CHALK_OK) return NONE;
  atomic_store(&g->series[top].state, state);
  atomic_store_explicit(&g->head->ids_top, top + 1, memory_order_release);
  return top;
}

uint32_t number_take(chalk_segment *g, uint32_t of_stripe) {
  uint32_t state = SERIES_RESERVED | of_stripe << NUMBER_STATE_BITS;
  if (!lock_list(g)) return NONE;
  header *head = g->head;
  uint32_t id = number_at(g, &head->ids_free);
  if (id == NONE) {
    id = take_first(g, state);
  } else {
    uint32_t next = g->series[id].next;
    atomic_store(&g->series[id].state, state);
    head->ids_free = next;
  }
  segment_lock_give(&head->ids_lock);
  return id;
}

void number_give(chalk_segment *g, uint32_t id) {
  if (!lock_list(g)) return;
  g->series[id].next = g->head->ids_free;
  atomic_store(&g->series[id].state, SERIES_FREE);
  g->head->ids_free = id;
  segment_lock_give(&g->head->ids_lock);
}
