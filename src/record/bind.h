/*
 * Binding: from a metric and tag values to a handle that points at the cell of the writer's slot.
 *
 * A handle is bound under the lock of its series' stripe, so that no drop comes in between, at the epoch that the writer
 * has told it acts on. It keeps its key, so it can be bound anew, to the series that has the key then.
 */
#ifndef BIND_H
#define BIND_H

#include "record/writer.h"
#include "series/series.h"

static inline series_key bind_key_of(const chalk_series *s) {
  return (series_key){s->metric, s->key_size, s->key, key_hash(s->metric, s->key, s->key_size)};
}

/* Points the handle at its cell in the writer's slot. */
int bind_cell(chalk_series *s, uint32_t id);
/*
 * Whether the number still is the metric that the writer defined. A process that was forked may find others under the
 * numbers it brought along, since its metrics were free to leave until it took a slot. From then on they stay.
 */
bool bind_has_metric(const chalk_writer *w, uint32_t number);
/* The handle's metric has left. */
int bind_gone(chalk_series *s);

#endif
