/*
 * What a process knows of itself and of others: an identity that survives the reuse of process ids, the lock over the
 * process's own lists, and what has to happen after fork().
 */
#ifndef PROCESS_H
#define PROCESS_H

#include "shm/segment.h"

/*
 * The lock over the lists of this process: segments, writers, sockets, threads. A thread that holds it waits for no
 * lock of a segment that others use. It is reset in a forked child.
 */
void process_lock(void);
void process_unlock(void);

/* Stores this process's identity in *o, field by field. */
void process_own(owner *o);
/* Whether the owner is this process. */
bool process_is_own(const owner *o);
/* Whether the owner is of this process's pid namespace, so that /proc tells about it. */
bool process_is_near(const owner *o);
/* Whether an owner of this namespace is proven to be gone. Without a proof it is taken for alive. */
bool process_is_dead(const owner *o);
/* Whether an owner of this namespace is known to be stopped, by a signal or a debugger. */
bool process_is_stopped(const owner *o);
/* How often this process has asked the kernel whether an owner is dead. For tests. */
uint64_t process_questions(void);

/*
 * Whether this is a server's first process, whose children and next program are to have what is open, see inherit.h. It
 * is written by chalk_inherit.
 */
extern bool process_hands_on;

/*
 * Calls `child` in every forked child from now on, after the lock was reset. A second call for the same has no effect.
 */
void process_at_fork(void (*child)(void));

/* How many forks there were, in this process and those it comes from, since the first call of process_at_fork. */
uint32_t process_forks(void);

/* How many bytes of memory the process's control group may take. UINT64_MAX: no limit is known. */
uint64_t process_memory_limit(void);

/* Writes a sentence to `message`, which has room for CHALK_MESSAGE bytes or is NULL; a longer sentence is cut. */
void process_say(char *message, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
