/*
 * Definitions. A metric is found by its name. A newer definition that differs in more than its text and its limit of
 * series supersedes the older one of the name, which leaves with its series once no live VM uses it.
 *
 *   FREE --> LIVE <--> SUPERSEDED        from both back to FREE, once no live VM uses the metric
 *
 * A metric's number is also the number of its overflow series, which exists as long as the metric does. The generation
 * of that series moves when the metric leaves, so it tells one metric of a number from the next. All functions take the
 * registry lock where they need it.
 */
#ifndef METRIC_H
#define METRIC_H

#include "shm/lives.h"
#include "shm/segment.h"

/*
 * Finds or makes a metric, and sets its bit in `uses` (a slot's; may be NULL) in the same hold of the registry lock, so
 * that no sweep frees the metric in between. *generation is the generation of its overflow series, *made whether the
 * definition is a new one. Returns the metric's number, or the error code of chalk_define.
 */
int metric_define(chalk_segment *g, const chalk_definition *d, shared_u64 *uses, uint32_t *generation, bool *made,
                  char *message);
/*
 * Finds the live definition of a name, and sets its bit in `uses` in the same way. *tags is its number of tags. Returns
 * the metric's number. CHALK_EGONE: the name has no live definition.
 */
int metric_find(chalk_segment *g, const char *name, shared_u64 *uses, uint32_t *generation, uint32_t *tags);
/*
 * Takes back a definition that no VM uses. If nothing was ever bound to it, it is freed at once, otherwise by the next
 * sweeps.
 */
void metric_take_back(chalk_segment *g, uint32_t number);
/* Whether the metric's series are shown. They are not while a newer definition of the name has another kind. */
bool metric_is_shown(const chalk_segment *g, uint32_t number);
/* Frees the metrics that no live VM uses and that are superseded or of an older configuration. Only the holder. */
void metric_sweep(chalk_segment *g, lives *alive);

#endif
