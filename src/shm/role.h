/*
 * The flusher's role. Of all processes and VMs of a segment one at a time has it and is the holder: the owner of the
 * robust mutex of the seat in force.
 *
 * If the holder dies, the kernel marks its mutex, and the next process that asks gets it. A holder that is stopped (by SIGSTOP or a debugger) keeps its
 * mutex, so when its process is stopped and its heartbeat has been missing for half a second, another process takes the next seat, which comes
 * into force:
 *
 *   seats   0        1        2        3
 *           stopped  holder                    header.seat = 1
 *
 * The holder makes its changes between role_enter and role_leave. A holder that continues after a stop finds there that
 * its seat is no longer in force; and no other process takes the next seat while a change is unfinished.
 */
#ifndef ROLE_H
#define ROLE_H

#include <stdbool.h>

#include "shm/segment.h"

/*
 * Takes `acting`, for a change that only the holder makes. False: this process had the role and has lost it; the lock
 * is not held. If this process does not count as a holder, because it never had the role or gave it back, it is
 * trusted to call this for a good reason, and the result is true.
 */
bool role_enter(chalk_segment *g);
/* Releases `acting`. */
void role_leave(chalk_segment *g);

/* Whether this process had the role and has lost it. */
bool role_is_lost(const chalk_segment *g);

/* Whether the holder has announced its last flush. */
bool role_is_left(const chalk_segment *g);

/*
 * Takes the role before the caller starts what will use it: the next chalk_hold of this thread for the segment then
 * returns 1. So of several threads that wait for the role only one does the work of starting. False: the role is not
 * available.
 */
bool role_reserve(chalk_segment *g, uint32_t generation);
/* Gives the role back if it was reserved and chalk_hold was not called. */
void role_unreserve(void);

#endif
