/*
 * What the holder of the flusher's role does for all processes: it serves requests for flushes, and sweeps.
 *
 * A process that wants a flush takes a ticket, the next number of `requested`. The holder flushes, then stores the
 * highest ticket that it has served into `done`, and wakes the waiters, which sleep on a futex. A sweep drops idle
 * series, frees metrics and cursors that are not used any more, and reclaims dropped series, see reclaim.h.
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

/*
 * Whether every cursor has sent what the series stands at: `total`, and for a histogram `sketched`, the number
 * of values in its sketch (0: not asked). A gauge is never owed.
 */
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

/* A kind's idle timeout in seconds; `idle` has one for each kind. 0: none. */
static double limit_of(const double *idle, uint32_t kind) { return kind_is_known(kind) ? idle[kind - CHALK_COUNT] : 0; }

/*
 * Whether a series is to be dropped as idle. Notes whether something was recorded into it since the last sweep. A
 * series that was idle for its timeout stays until every cursor has sent it, at most for the same time again.
 */
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

enum {
  QUARANTINE = 300, /* seconds that a dropped series waits for cursors, if its kind has no idle timeout */
  STAMPED = 2       /* as series.active: seen_time is when the series was first seen dropped */
};

/*
 * Reclaims the dropped series that every cursor has sent, and those that have waited long enough for a cursor whose
 * exporter is away.
 */
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
  if (any) segment_epoch_move(g); /* handles that were folded look for their series again */
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
