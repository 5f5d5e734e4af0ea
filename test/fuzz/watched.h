/*
 * What the event tap should report: a list of all records while the tap was on. The list is in order, because
 * everything happens in one thread. There are up to two readers, of which the one that was opened last reads.
 */
#ifndef FUZZ_WATCHED_H
#define FUZZ_WATCHED_H

#include <stdbool.h>

#include "kit.h"

enum { WATCHERS = 2, EVENTS = 8 * CHALK_TAP_LEAST };

typedef struct watched {
  chalk_segment *g;
  chalk_tap *taps[WATCHERS];
  uint32_t first, n;            /* of the list, which is a ring */
  uint64_t dropped, unreported; /* events dropped in all; those that chalk_tap_dropped has not returned */
} watched;

void watched_new(watched *w, chalk_segment *g);
void watched_switch(watched *w, uint32_t how);
/* Called before and after a record that returned `rc`. `verb` 0: the record was an addition. */
void watched_before(watched *w);
void watched_after(watched *w, const chalk_series *s, int rc, uint32_t verb, double v);
/* Does what `how` says: opens a reader, closes it, reads a batch or everything, or asks for the dropped events. */
void watched_read(watched *w, uint32_t how);
/* Reads all events that are left, and switches the tap off. */
void watched_end(watched *w);

#endif
