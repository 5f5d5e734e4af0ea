/* What other files need of StatsD's lines. */
#ifndef STATSD_H
#define STATSD_H

#include <stddef.h>

#include "chalk.h"

/*
 * The line of one value of a series, without the value: where that stands, and where a rate does, in a text that is good
 * until the next call. Its size; 0: out of memory. STATSD_TEXT_ROOM bytes behind the key have to be readable.
 */
size_t statsd_line(chalk_statsd *k, const chalk_statsd_family *f, const char *key, uint32_t key_size, const char **text,
                   size_t *value_at, size_t *rate_at);

#endif
