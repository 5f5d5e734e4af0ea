/*
 * Binding: from a metric and tag values to a handle that points at the cell in the row of the writer's slot.
 *
 * A handle is bound under the lock of its series' stripe, so that no drop comes in between. Before that the writer
 * stores the present epoch as the one that it has seen, and the handle is bound at that epoch. The handle keeps its
 * key, so it can be bound again, to the series that has the key then.
 */
#ifndef BIND_H
#define BIND_H

#include "record/writer.h"
#include "series/series.h"

/* The key of a handle's series. */
static inline series_key bind_key_of(const chalk_series *s) {
  return (series_key){s->metric, s->key_size, s->key, key_hash(s->metric, s->key, s->key_size)};
}

/*
 * Points a handle at the cell, block or gauge of series `id`, which the caller holds. The block is made if there is
 * none. CHALK_EMEMORY: there is no memory, and the handle is not bound.
 */
int bind_cell(chalk_series *s, uint32_t id);
/*
 * Whether the number still is that of the metric which the writer defined. A forked child has no slot at first, so the
 * metrics that its parent's VM used may leave, and others get their numbers. Once the child has a slot, they stay.
 */
bool bind_has_metric(const chalk_writer *w, uint32_t number);
/* Unbinds a handle whose metric has left, and returns CHALK_EGONE. */
int bind_gone(chalk_series *s);

#endif
