/*
 * What the holder of the flusher's role is asked for, and what it does for all. Flushes are asked for with tickets. It
 * also sweeps: it drops idle series and makes those reusable whose drop everybody has seen.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "flush/reclaim.h"
#include "read/cursor.h"
#include "read/snapshot.h"
#include "series/cells.h"
#include "series/metric.h"
#include "series/series.h"
#include "shm/lives.h"
#include "shm/role.h"
#include "value/kind.h"
#include "value/stored.h"

/* Tickets */

uint64_t chalk_flush_request(chalk_segment *g) { return atomic_fetch_add(&g->head->requested, 1) + 1; }

void chalk_flush_done(chalk_segment *g, uint64_t ticket) {
  header *head = g->head;
  uint64_t done = atomic_load(&head->done), given = atomic_load(&head->requested);
  if (ticket > given) ticket = given;
  while (done < ticket && !atomic_compare_exchange_weak(&head->done, &done, ticket)) {
  }
  store_double(&head->flushed, chalk_now());
  atomic_fetch_add(&head->done_word, 1);
  syscall(SYS_futex, &head->done_word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

int chalk_flush_wait(chalk_segment *g, uint64_t ticket, double timeout) {
  header *head = g->head;
  double end = chalk_now() + timeout;
  for (;;) {
    uint32_t word = atomic_load(&head->done_word);
    if (atomic_load(&head->done) >= ticket) return CHALK_OK;
    double left = end - chalk_now();
    if (!(left > 0)) return 1;
    if (left > 0.1) left = 0.1;
    struct timespec pause = {0, (long)(left * 1e9)};
    syscall(SYS_futex, &head->done_word, FUTEX_WAIT, word, &pause, NULL, 0);
  }
}

/* Sweeping */

/* Whether every cursor has sent what the series stands at: `sketched` values in its sketch, if it is a histogram. */
static bool is_sent(const chalk_segment *g, uint32_t id, uint64_t total, uint64_t sketched, uint32_t kind) {
  const series *s = &g->series[id];
  if (kind_has_value(kind) || (total == 0 && sketched == 0)) return true;
  for (uint32_t i = 0; i < CURSORS; i++) {
    if (!atomic_load(&g->cursors[i].state)) continue;
    uint64_t sent = stored_sent(g, i, id, atomic_load((shared_u32 *)&s->generation));
    if (stored_total(g, sent, kind) < (int64_t)total || stored_sketched(g, sent, kind) < sketched) return false;
  }
  return true;
}

/* The limit of a kind, of which chalk_sweep is given one for each; 0: none. */
static double limit_of(const double *idle, uint32_t kind) { return kind_is_known(kind) ? idle[kind - CHALK_COUNT] : 0; }

/* Notes whether something was recorded; whether the series is to leave. */
static bool is_idle(chalk_segment *g, const chalk_entry *entry, double now, const double *idle) {
  series *s = &g->series[entry->series];
  const metric *m = &g->metrics[entry->metric];
  bool has_value = kind_has_value(m->kind);
  bool recorded = has_value ? cells_gauge_take(g, entry->series) : (uint64_t)entry->total != s->seen_total;
  if (recorded) {
    s->active = 1;
    if (!has_value) s->seen_total = (uint64_t)entry->total;
  }
  if (recorded || s->seen_time == 0) s->seen_time = now;
  double limit = limit_of(idle, m->kind), age = now - s->seen_time;
  if (!s->active || !(limit > 0) || age <= limit || m->max_series == NONE) return false;
  return age > 2 * limit || is_sent(g, entry->series, s->seen_total, 0, m->kind);
}

/* A dropped series waits for exporters that are away for as long as an idle one would, or this. */
enum { QUARANTINE = 300, STAMPED = 2 };

static void reclaim_dropped(chalk_segment *g, double now, const double *idle, lives *alive) {
  bool any = false;
  for (uint32_t id = METRICS, top = series_top(g); id < top; id++) {
    series *s = &g->series[id];
    if (atomic_load(&s->state) != SERIES_DROPPED || !series_is_settled(s)) continue;
    uint32_t kind = segment_metric_of(g, id)->kind;
    if (s->active != STAMPED) s->active = STAMPED, s->seen_time = now;
    double limit = limit_of(idle, kind);
    if (limit <= 0) limit = QUARANTINE;
    uint64_t at_drop = atomic_load(&s->at_drop);
    uint64_t total = (uint64_t)stored_total(g, at_drop, kind), sketched = stored_sketched(g, at_drop, kind);
    if (now - s->seen_time > limit || is_sent(g, id, total, sketched, kind)) {
      any = reclaim_series(g, id, alive) || any;
    }
  }
  if (any) segment_epoch_move(g); /* handles that were folded for want of memory or numbers look again */
}

int chalk_sweep(chalk_snapshot *s, double now, const double *idle) {
  chalk_segment *g = s->segment;
  uint32_t *ids = malloc(((size_t)s->n + 1) * sizeof *ids), n = 0;
  if (!ids) return CHALK_EMEMORY;
  if (!role_enter(g)) {
    free(ids);
    return 0;
  }
  for (uint32_t i = 0; i < s->n; i++) {
    const chalk_entry *entry = &s->entries[i];
    if (!entry->dropped && entry->series >= METRICS && is_idle(g, entry, now, idle)) ids[n++] = entry->series;
  }
  int dropped = (int)series_drop_idle(g, ids, n);
  free(ids);
  lives alive;
  lives_begin(&alive, g);
  metric_sweep(g, &alive);
  cursor_sweep(g, now);
  series_recount(g);
  if (atomic_load(&g->head->quarantined)) reclaim_dropped(g, now, idle, &alive);
  role_leave(g);
  return dropped;
}
