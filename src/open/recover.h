/*
 * Reopening the file of a segment that no process has open: a program starts again after it ended, crashed or the
 * machine rebooted, and the file may be damaged.
 *
 * No other process has the segment, so everything that can be derived is derived again: locks, slots, chains, free
 * numbers of series. Everything else is checked, as far as it could lead a reader or writer of the segment astray:
 * states, numbers and offsets are valid, sums of counts are far from an overflow, and no two blocks of the heap, used
 * or free, share a byte.
 */
#ifndef RECOVER_H
#define RECOVER_H

#include "shm/segment.h"

/*
 * Checks and repairs the segment. `rebooted`: its times and processes are those of another boot or another machine.
 * CHALK_EINVALID: the segment is damaged. CHALK_EMEMORY: there is no memory to check it. `message` says which.
 */
int recover(chalk_segment *g, bool rebooted, char *message);

/* Whether chalk can have stored the numbers in the header. Other processes may use the segment meanwhile. */
bool recover_is_plausible(const chalk_segment *g);

/* The check without the repair. It only changes fields without a meaning. For tests. */
bool recover_check(chalk_segment *g);

#endif
