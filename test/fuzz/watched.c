#include "watched.h"

#include <math.h>
#include <string.h>

#include "record/tap.h"
#include "record/writer.h"

static chalk_event expected[EVENTS];

void watched_new(watched *w, chalk_segment *g) {
  memset(w, 0, sizeof *w);
  w->g = g;
}

static bool is_on(const watched *w, uint32_t kind) { return chalk_tap_kinds(w->g) >> kind & 1; }

static void forget(watched *w) { w->n = 0, w->unreported = 0; }

void watched_switch(watched *w, uint32_t how) {
  uint32_t kinds = 0;
  bool widen = how & 8;
  if (how & 1) kinds |= 1u << CHALK_COUNT;
  if (how & 2) kinds |= 1u << CHALK_GAUGE;
  if (how & 4) kinds |= 1u << CHALK_HISTOGRAM;
  uint32_t before = chalk_tap_kinds(w->g);
  chalk_tap_switch(w->g, kinds, how & 16 ? 2 * CHALK_TAP_LEAST : how & 32 ? 4 * CHALK_TAP_LEAST : 0, widen);
  check(chalk_tap_kinds(w->g) == (widen ? before | kinds : kinds));
  if (!widen && kinds == 0) forget(w);
}

static uint64_t dropped(const watched *w) {
  uint64_t n = atomic_load(&w->g->head->tap_lost);
  for (uint32_t i = 0; i < atomic_load(&w->g->head->slot_top); i++) n += atomic_load(&w->g->slots[i].dropped);
  return n;
}

void watched_before(watched *w) { w->dropped = dropped(w); }

/* An event may be dropped only if there is no ring or the ring is full. */
static void check_dropped(const watched *w, const chalk_series *s) {
  const slot *taken = &w->g->slots[s->writer->slot];
  const tap_ring *r = segment_block(w->g, atomic_load((shared_u64 *)&taken->ring), sizeof *r);
  if (r) check(atomic_load((shared_u64 *)&r->head) - atomic_load((shared_u64 *)&r->tail) == r->size);
}

void watched_after(watched *w, const chalk_series *s, int rc, uint32_t verb, double v) {
  uint64_t now = dropped(w);
  bool stored = rc >= 0 && is_on(w, s->kind);
  check(now == w->dropped || (stored && now == w->dropped + 1));
  if (!stored) return;
  if (now != w->dropped) {
    check_dropped(w, s);
    w->unreported++;
    return;
  }
  if (s->kind == CHALK_COUNT) verb = CHALK_EVENT_INC;
  if (s->kind == CHALK_HISTOGRAM) verb = CHALK_EVENT_RECORD;
  if (!verb) verb = v < 0 ? CHALK_EVENT_DOWN : CHALK_EVENT_UP;
  check(w->n < EVENTS);
  expected[(w->first + w->n++) % EVENTS] = (chalk_event){.series = s->series,
                                                         .generation = s->generation,
                                                         .metric = s->metric,
                                                         .verb = verb,
                                                         .value = verb == CHALK_EVENT_DOWN ? -v : v};
}

static uint32_t read_batch(watched *w, chalk_tap *t) {
  uint32_t n = chalk_tap_read(t);
  const chalk_event *got = chalk_tap_events(t);
  check(n <= w->n);
  for (uint32_t i = 0; i < n; i++) {
    const chalk_event *event = &expected[(w->first + i) % EVENTS];
    check(got[i].series == event->series && got[i].generation == event->generation && got[i].metric == event->metric);
    check(got[i].verb == event->verb && (got[i].value == event->value || (isnan(got[i].value) && isnan(event->value))));
    check(i == 0 || got[i].time >= got[i - 1].time);
    /* A number is not reused before its events were read. Overflow series keep theirs. */
    check(atomic_load(&w->g->series[event->series].generation) == event->generation || event->series < METRICS);
  }
  w->first = (w->first + n) % EVENTS;
  w->n -= n;
  return n;
}

static void read_all(watched *w, chalk_tap *t) {
  while (read_batch(w, t) > 0) {
  }
  check(w->n == 0);
}

static void report_dropped(watched *w, chalk_tap *t) {
  check(chalk_tap_dropped(t) == w->unreported);
  w->unreported = 0;
}

void watched_read(watched *w, uint32_t how) {
  chalk_tap **t = &w->taps[how % WATCHERS];
  if (!*t) {
    bool keep = how & 2;
    *t = must(chalk_tap_open(w->g, keep, NULL));
    if (!keep) forget(w);
  } else if (how & 4) {
    chalk_tap_close(*t);
    *t = NULL;
  } else if (how & 8) {
    report_dropped(w, *t);
  } else if (how & 16) {
    read_all(w, *t);
  } else {
    read_batch(w, *t);
  }
}

void watched_end(watched *w) {
  chalk_tap *t = must(chalk_tap_open(w->g, 1, NULL));
  read_all(w, t);
  report_dropped(w, t);
  chalk_tap_close(t);
  for (int i = 0; i < WATCHERS; i++) {
    if (w->taps[i]) chalk_tap_close(w->taps[i]);
  }
  chalk_tap_switch(w->g, 0, 0, 0);
}
