#include "flush/reclaim.h"

#include "record/tap.h"
#include "series/cells.h"
#include "series/gauge.h"
#include "series/residue.h"
#include "series/series.h"
#include "shm/heap.h"
#include "value/kind.h"
#include "value/stored.h"

/*
 * Whether every live writer that has bound the series has seen the epoch of its drop. Asking the kernel
 * whether an owner is alive is slow, so it is asked only about owners that have not seen the epoch.
 */
static bool all_have_seen(const chalk_segment *g, uint32_t id, uint64_t epoch, lives *alive) {
  const metric *m = segment_metric_of(g, id);
  if (kind_is_split(m) && !gauge_links_seen(g, cells_at(g, 0, id), epoch, alive)) return false;
  for (uint32_t row = 1; row < segment_slots(g); row++) {
    if (cells_at(g, row, id) == 0) continue;
    if (atomic_load_explicit(&g->slots[row].seen, memory_order_acquire) < epoch && lives_on(alive, row)) return false;
  }
  return true;
}

bool reclaim_series(chalk_segment *g, uint32_t id, lives *alive) {
  series *s = &g->series[id];
  uint64_t epoch = atomic_load(&s->drop_epoch);
  if (series_state(s) != SERIES_DROPPED || epoch == SERIES_UNSETTLED) return false;
  /* First, because once all have seen the drop nobody stores any more, so series_revive sees the last value. */
  bool seen = all_have_seen(g, id, epoch, alive);
  if (series_revive(g, id) || !seen || !tap_has_read(g, s)) return false;
  metric *m = segment_metric_of(g, id);
  residue_hand_over(g, id);
  atomic_fetch_add_explicit(&s->generation, 1, memory_order_seq_cst);
  segment_lock_take(&g->head->registry);
  cells_free(g, id);
  segment_lock_give(&g->head->registry);
  stored_forget_baselines(g, id, m->kind);
  uint64_t at_drop = atomic_exchange(&s->at_drop, 0), key = s->key;
  if (kind_has_histogram(m->kind)) stored_give(g, at_drop);
  s->key = 0;
  heap_give(g, key, s->key_size);
  number_give(g, id);
  series_count_reclaimed(g);
  return true;
}
