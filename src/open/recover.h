/*
 * Taking up the file of a segment that nobody has open: a program starts again, after a reboot, a crash, or a disk's
 * mistake. Nobody else has the segment, so what can be derived is derived anew: locks, slots, chains, numbers of
 * series. What cannot be derived is checked, far enough that it can lead neither a reader nor a writer of the segment
 * astray: states, numbers and offsets fit, sums of counts stay far from overflow, and no two blocks of the heap, used
 * or free, share a byte.
 */
#ifndef RECOVER_H
#define RECOVER_H

#include "shm/segment.h"

/*
 * Checks the segment and derives anew. `rebooted`: the times and processes in it are those of another machine or an
 * earlier boot. CHALK_EINVALID: the segment is damaged. CHALK_EMEMORY: there is no memory to check it. `message` says
 * which.
 */
int recover(chalk_segment *g, bool rebooted, char *message);

/* Whether the numbers in the header can be what chalk stored there. Others may use the segment meanwhile. */
bool recover_is_plausible(const chalk_segment *g);

/* Only the check, which changes nothing but what has no meaning. For tests. */
bool recover_check(chalk_segment *g);

#endif
