/*
 * Definitions. A metric is found by its name; a newer definition under a taken name supersedes the older one, which
 * leaves, with its series, once no live VM has it any more. A metric's number is also the number of its overflow
 * series, which exists as long as the metric does.
 */
#ifndef METRIC_H
#define METRIC_H

#include "shm/lives.h"
#include "shm/segment.h"

/*
 * Finds or makes the metric, notes in `uses` (a slot's; may be NULL) that it has a user, before anybody can let it go,
 * which generation it is, and whether it was made; its number or a negative code.
 */
int metric_define(chalk_segment *g, const chalk_definition *d, shared_u64 *uses, uint32_t *generation, bool *made,
                  char *message);
/* The same for a metric that is there: the definition of the name that is in force. */
int metric_find(chalk_segment *g, const char *name, shared_u64 *uses, uint32_t *generation, uint32_t *tags);
/* Lets go of a metric that was made in vain, if nobody has it: at once where nothing was ever bound to it. */
void metric_take_back(chalk_segment *g, uint32_t number);
/* Whether its series are to be shown: not while a newer definition of the name is of another kind. */
bool metric_is_shown(const chalk_segment *g, uint32_t number);
/* Lets go of superseded metrics that nobody uses. Only the holder. */
void metric_sweep(chalk_segment *g, lives *alive);

#endif
