/*
 * Whether a slot's owner is dead.
 *
 * By its process id, start time and program, where it is of this process's pid namespace, see process.h. Of a process
 * of another namespace (another container with the same segment) ids say nothing. So each process has a lock on a byte
 * of the segment's file that nobody else has, through a descriptor of its own; the slot says which byte. The lock is
 * gone when the last reference to that open file is. The only one that stays is a mapping of a page, which nothing but
 * the process's end or an exec takes away: the descriptor is closed at once, so a program that closes all its
 * descriptors does not look dead, and the mapping is not inherited by forked children, so they do not hold the lock.
 *
 * Where the file may not be opened again (a worker that gave up root's rights), the process has the lock that its
 * family took when it opened the segment, which is gone once all of them are.
 */
#ifndef LIFE_H
#define LIFE_H

#include "shm/segment.h"

/* Takes the family's lock, where the file was just opened at a path. */
void life_begin(chalk_segment *g);
/* The number of this process's lock, taken if it has none yet; 0: it cannot have one. Under the registry lock. */
uint64_t life_take(chalk_segment *g);
/* Gives it up. In a forked child, that has its parent's struct, `forked`: it never had it. */
void life_end(chalk_segment *g, bool forked);

/* Whether the owner is known to be dead. Alive is the default: proof is needed. */
bool life_is_over(const chalk_segment *g, const owner *o);

#endif
