/*
 * What the event tap should tell, kept beside it: all that was recorded while it was on, in one list, as all happens in
 * one thread. Two readers take turns.
 */
#ifndef FUZZ_WATCHED_H
#define FUZZ_WATCHED_H

#include <stdbool.h>

#include "kit.h"

enum { WATCHERS = 2, EVENTS = 8 * CHALK_TAP_LEAST };

typedef struct watched {
  chalk_segment *g;
  chalk_tap *taps[WATCHERS];
  uint32_t first, n;            /* of the list, a ring */
  uint64_t dropped, unreported; /* in all; of them, not reported yet */
} watched;

void watched_new(watched *w, chalk_segment *g);
void watched_switch(watched *w, uint32_t how);
/* Around a record, whose code is e. `verb`: 0: what an addition is. */
void watched_before(watched *w);
void watched_after(watched *w, const chalk_series *s, int e, uint32_t verb, double v);
/* Opens a reader, closes it, reads a batch or all, or asks what was dropped. */
void watched_read(watched *w, uint32_t how);
/* Reads all that is left, and switches off. */
void watched_end(watched *w);

#endif
