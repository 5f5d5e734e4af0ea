/*
 * The flusher's role. Of all processes and VMs on a segment one holds it at a time: the owner of the robust mutex of
 * the seat in force. The kernel hands the mutex on when its owner dies. A process that is stopped (SIGSTOP, a debugger)
 * still owns its mutex, so the next seat comes into force when the heartbeat has been missing for half a second.
 * Therefore the holder makes its changes between role_enter and role_leave: a holder that goes on after a stop finds
 * that its seat is out of force, and one that was stopped in between is waited for.
 */
#ifndef ROLE_H
#define ROLE_H

#include <stdbool.h>

#include "shm/segment.h"

/*
 * Takes `acting`, for a change that only the holder makes. False: this process had the role and has lost it; the lock
 * is not held. A process that never had the role is taken at its word.
 */
bool role_enter(chalk_segment *g);
/* Lets go of `acting`. */
void role_leave(chalk_segment *g);

/* Whether this process had the role and has lost it. */
bool role_is_lost(const chalk_segment *g);

/* Whether the holder has said that it is in its last flush. */
bool role_is_left(const chalk_segment *g);

/*
 * Takes the role before what is to use it was started: this thread's next chalk_hold of the segment then returns 1. So
 * of many threads that wait for the role only one prepares for it. False: the role is not to be had.
 */
bool role_reserve(chalk_segment *g, uint32_t generation);
/* Gives the role back if it was reserved and chalk_hold was not called. */
void role_unreserve(void);

#endif
