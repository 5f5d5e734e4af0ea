/*
 * Definitions. A metric is found by its name; a newer definition under a taken name supersedes the older one, which
 * leaves, with its series, once no live VM has it any more. A metric's number is also the number of its overflow
 * series, which exists as long as the metric does.
 */
#ifndef METRIC_H
#define METRIC_H

#include "lives.h"
#include "segment.h"

/*
 * Finds or makes the metric, notes in `uses` (a slot's; may be NULL) that it has a user, before anybody can let it go,
 * and which generation it is; its number or a negative code.
 */
int metric_define(chalk_segment *g, const chalk_definition *d, shared_u64 *uses, uint32_t *generation, char *message);
/* Whether its series are to be shown: not while a newer definition of the name is of another kind. */
bool metric_is_shown(const chalk_segment *g, uint32_t number);
/* Lets go of superseded metrics that nobody uses. Only the holder. */
void metric_sweep(chalk_segment *g, lives *alive);

#endif
