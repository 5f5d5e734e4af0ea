/*
 * What other files need of StatsD's lines: the ranges of a family's numbers, and a series' line without its value.
 * Bytes of the format are made in statsd.c only.
 */
#ifndef STATSD_H
#define STATSD_H

#include <stddef.h>

#include <stdbool.h>

#include "chalk.h"

/* Whether the numbers of a family are in the ranges that chalk_statsd_family states: all other code relies on them. */
static inline bool statsd_family_fits(const chalk_statsd_family *f) {
  bool fits = f->n_labels <= CHALK_TAGS && f->n_le <= CHALK_LES + 1 && f->mode <= CHALK_STATSD_RAW;
  for (uint32_t i = 0; fits && i < f->n_le; i++) fits = f->le_index[i] <= CHALK_LES;
  return fits && (f->mode != CHALK_STATSD_VALUES || (f->max_weight >= 1 && f->max_weight <= CHALK_STATSD_WEIGHT));
}

/*
 * The line of one value of a series, without the value: *text is good until the packer is used again, the value belongs
 * at *value_at and a rate at *rate_at. Returns the size in bytes. 0: out of memory. STATSD_TEXT_ROOM bytes behind the
 * key have to be readable.
 */
size_t statsd_line(chalk_statsd *k, const chalk_statsd_family *f, const char *key, uint32_t key_size, const char **text,
                   size_t *value_at, size_t *rate_at);

#endif
