/*
 * The flusher's role: of all processes and VMs on a segment one has it at a time. Who has it owns the robust mutex of
 * the seat in force, which the kernel hands on when he dies. A process that is stopped (SIGSTOP, a debugger) owns its
 * mutex still; so when its heart has not beaten for a while the next seat comes into force. What only the holder may
 * change he therefore changes between role_enter and role_leave: one that goes on after a stop finds that his seat is
 * out of force, and one that was stopped in between is waited for.
 */
#ifndef ROLE_H
#define ROLE_H

#include <stdbool.h>

#include "shm/segment.h"

/* False: this process had the role and has lost it. One that never had it is taken at its word. */
bool role_enter(chalk_segment *g);
void role_leave(chalk_segment *g);

/* Whether this process had the role and has lost it. */
bool role_is_lost(const chalk_segment *g);

/* Whether the holder is in its last flush. */
bool role_is_left(const chalk_segment *g);

/*
 * Takes the role for what this thread is about to start: the thread's next chalk_hold has it. So of many that wait
 * for the role only one makes ready for it.
 */
bool role_reserve(chalk_segment *g, uint32_t generation);
void role_unreserve(void); /* gives it back, if chalk_hold was not called */

#endif
