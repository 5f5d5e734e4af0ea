/*
 * Cursors: for each exporter that sends differences, what it has sent of each series. A cursor is found by the
 * exporter's name and survives it. Baselines are rows beside the series, checked by generation: a baseline of another
 * generation counts as nothing sent. Only the holder touches them.
 */
#ifndef CURSOR_H
#define CURSOR_H

#include "segment.h"

/* Frees those that nobody has used for a day. */
void cursor_sweep(chalk_segment *g, double now);

#endif
