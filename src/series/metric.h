/*
 * Definitions. A metric is found by its name. A newer definition of a name supersedes the older one, which leaves with
 * its series once no live VM uses it. A metric's number is also the number of its overflow series, which exists as long
 * as the metric does; the generation of that series moves when the metric leaves, so it tells one metric of a number
 * from the next. All functions take the registry lock where they need it.
 */
#ifndef METRIC_H
#define METRIC_H

#include "shm/lives.h"
#include "shm/segment.h"

/*
 * Finds or makes a metric, and notes in `uses` (of a slot; may be NULL) that it has a user, before anybody can let it
 * go. *generation is that of its overflow series, *made whether nobody had it before. Returns its number, or a code as
 * chalk_define.
 */
int metric_define(chalk_segment *g, const chalk_definition *d, shared_u64 *uses, uint32_t *generation, bool *made,
                  char *message);
/* Finds the definition of a name that is in force, in the same way. CHALK_EGONE: there is none. */
int metric_find(chalk_segment *g, const char *name, shared_u64 *uses, uint32_t *generation, uint32_t *tags);
/*
 * Frees a metric that was made in vain and that nobody uses: at once if nothing was ever bound to it, and with the next
 * sweeps otherwise.
 */
void metric_take_back(chalk_segment *g, uint32_t number);
/* Whether the metric's series are shown: not while a newer definition of the name is of another kind. */
bool metric_is_shown(const chalk_segment *g, uint32_t number);
/* Frees superseded metrics, and those of older configurations, that nobody uses. Only the holder. */
void metric_sweep(chalk_segment *g, lives *alive);

#endif
