/*
 * Processes: an identity that survives the reuse of process ids, proofs that a process is dead or stopped, the lock of
 * this process's private lists, and what has to happen after fork().
 */
#ifndef PROCESS_H
#define PROCESS_H

#include "shm/segment.h"

/*
 * The lock of the private lists of this process: segments, writers, sockets, threads. A thread that holds it does not
 * wait for any lock of a segment that other processes use. A forked child resets it.
 */
void process_lock(void);
void process_unlock(void);

/* Stores the identity of this process in *o, field by field. */
void process_own(owner *o);
/* Whether the owner is this process. */
bool process_is_own(const owner *o);
/* Whether the owner is in this process's pid namespace, so that /proc tells about it. */
bool process_is_near(const owner *o);
/* Whether an owner in this namespace is proven to be dead. Without a proof it counts as alive. */
bool process_is_dead(const owner *o);
/* Whether an owner in this namespace is known to be stopped, by a signal or a debugger. */
bool process_is_stopped(const owner *o);
/* How often this process has asked the kernel whether an owner is dead. For tests. */
uint64_t process_questions(void);

/*
 * Whether this is the first process of a server, which leaves its segments and sockets open for its children and for
 * the program that replaces it, see inherit.h. chalk_inherit sets it.
 */
extern bool process_hands_on;

/* Calls `child` in every forked child from now on, after the lock is reset. A repeated call has no effect. */
void process_at_fork(void (*child)(void));

/* The number of forks in this process and its ancestors since the first call of process_at_fork. */
uint32_t process_forks(void);

/* The memory limit of the control group of the process, in bytes. UINT64_MAX: no limit is known. */
uint64_t process_memory_limit(void);

/* Formats a sentence into `message`, which has CHALK_MESSAGE bytes or is NULL. A longer sentence is cut. */
void process_say(char *message, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
