#include "fresh.h"

#include <string.h>

#include "series/series.h"
#include "series/slot.h"

/* The segment, and copies of those of its regions that are not zero after it was made. */
static struct {
  chalk_segment *g;
  header head;
  stripe stripes[STRIPES];
  metric metrics[KINDS];
  series overflow[KINDS];
  char *heap;
  uint64_t heap_size;
} fresh;

static void make(void) {
  chalk_options o = {.memory_limit = 64 << 20, .max_buckets = 64};
  chalk_segment *g = fresh.g = must(chalk_segment_open("fuzz", &o, NULL));
  chalk_writer *w = must(chalk_writer_open(g, NULL));
  kit_define(w);
  chalk_writer_close(w);
  /* Gives guest slots real memory, as if some had been in use. */
  segment_lock_take(&g->head->registry);
  slot_give(g, slot_take_guest(g, (uint64_t[METRICS / 64]){0}));
  segment_lock_give(&g->head->registry);
  fresh.heap_size = g->head->heap_top - g->head->heap;
  fresh.heap = must(malloc(fresh.heap_size));
  memcpy(&fresh.head, g->head, sizeof fresh.head);
  memcpy(fresh.stripes, g->stripes, sizeof fresh.stripes);
  memcpy(fresh.metrics, g->metrics, sizeof fresh.metrics);
  memcpy(fresh.overflow, g->series, sizeof fresh.overflow);
  memcpy(fresh.heap, segment_at(g, g->head->heap), fresh.heap_size);
}

static void clear_row(char *row, uint32_t width, uint32_t top) {
  memset(row, 0, (size_t)width * KINDS);
  memset(row + (size_t)width * METRICS, 0, (size_t)width * (top - METRICS));
}

chalk_segment *fresh_segment(void) {
  if (!fresh.g) make();
  return fresh.g;
}

void fresh_again(void) {
  chalk_segment *g = fresh.g;
  uint32_t top = series_top(g);
  uint64_t used = g->head->heap_top - g->head->heap;
  for (uint32_t w = 0; w < SLOTS; w++) clear_row((char *)segment_cell(g, w, 0), 8, top);
  for (uint32_t c = 0; c < TRACKED; c++) clear_row((char *)segment_baseline(g, c, 0), sizeof(baseline), top);
  memset(g->slots, 0, SLOTS * sizeof(slot));
  memset(&g->slots[WRITERS], 0, (atomic_load(&g->head->guest_top) - WRITERS) * sizeof(slot));
  for (uint32_t w = SLOTS; w < WRITERS; w++) atomic_store(&g->slots[w].taken, 0);
  memset(g->cursors, 0, TRACKED * sizeof(cursor_head));
  memset(&g->series[METRICS], 0, (top - METRICS) * sizeof(series));
  memcpy(g->head, &fresh.head, sizeof fresh.head);
  memcpy(g->stripes, fresh.stripes, sizeof fresh.stripes);
  memcpy(g->metrics, fresh.metrics, sizeof fresh.metrics);
  memcpy(g->series, fresh.overflow, sizeof fresh.overflow);
  memcpy(segment_at(g, g->head->heap), fresh.heap, fresh.heap_size);
  memset((char *)segment_at(g, g->head->heap) + fresh.heap_size, 0, used - fresh.heap_size);
}
