/*
 * Taking up the file of a segment that nobody has open: a program that starts again, after a reboot, a crash, or a
 * disk's mistake. Nobody else is there, so all can be looked at in peace, and what can be derived is derived anew:
 * locks, slots, chains, numbers of series. What cannot is checked, far enough that neither a reader nor a writer of the
 * segment can be led astray by it: states, numbers and offsets fit, sums of counts stay far from overflow, and no two
 * blocks of the heap, used or free, share a byte.
 */
#ifndef RECOVER_H
#define RECOVER_H

#include "shm/segment.h"

/* All of that; `rebooted`: the clock and those who are noted in there were another machine's, or an earlier boot's. */
int recover(chalk_segment *g, bool rebooted, char *message);

/* A look at the header alone, while others use the segment: whether its numbers can be what chalk stored there. */
bool recover_is_plausible(const chalk_segment *g);

/* Only the check, changing nothing but what has no meaning; for tests. */
bool recover_check(chalk_segment *g);

#endif
