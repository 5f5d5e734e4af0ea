/*
 * What a process knows of itself and of others: identity that survives pid reuse, the lock over the process's own
 * lists, and what has to happen after fork().
 */
#ifndef PROCESS_H
#define PROCESS_H

#include "shm/segment.h"

/* The lock over the lists of this process; never held while a segment's lock is waited for. */
void process_lock(void);
void process_unlock(void);

/* Fills in this process. */
void process_own(owner *o);
/* Whether `o` is this process. */
bool process_is_own(const owner *o);
/* Whether it is of this process's pid namespace, where /proc tells about it. */
bool process_is_near(const owner *o);
/* Whether a process that is near is known to be gone. Alive is the default: proof is needed. */
bool process_is_dead(const owner *o);
/* Whether it is a server's first process, whose children and next program are to have what is open: see inherit.h. */
extern bool process_hands_on;

/* How often this process has asked the kernel for a life or a death, for tests. */
uint64_t process_questions(void);
/* Whether it is known to be stopped, by a signal or a debugger. */
bool process_is_stopped(const owner *o);

/* A list of what to call in the child of a fork, after the lock was reset. */
void process_at_fork(void (*child)(void));

/* How many forks there were, in this process and those it comes from, since something asked to be called at one. */
uint32_t process_forks(void);

/* How much memory the process's control group may take, in bytes; UINT64_MAX: no limit is known. */
uint64_t process_memory_limit(void);

/* Writes a sentence to `message` (CHALK_MESSAGE bytes, may be NULL). */
void process_say(char *message, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
