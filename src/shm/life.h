/*
 * Whether a slot's owner is dead.
 *
 * A process of this process's pid namespace is known by its id, start time and program, see process.h. The ids of
 * another namespace (another container with the same segment) say nothing. So each process has a lock on a byte of the
 * segment's file that nobody else has, through a descriptor of its own; the slot says which byte. The lock ends with
 * the last reference to that open file. The only reference that stays is a mapping of a page, which lasts until the
 * process ends or calls exec: the descriptor is closed at once, so a program that closes all its descriptors does not
 * look dead, and forked children do not inherit the mapping, so they do not hold the lock.
 *
 * Where the file may not be opened again (in a worker that gave up root's rights), the process has the lock that its
 * family took when it opened the segment, which ends with the last process of the family.
 */
#ifndef LIFE_H
#define LIFE_H

#include "shm/segment.h"

/* Takes the family's lock of a file that was just opened at a path. Without effect where there are no such locks. */
void life_begin(chalk_segment *g);
/* The number of this process's lock, which is taken if there is none yet. 0: it cannot have one. Under registry. */
uint64_t life_take(chalk_segment *g);
/* Gives the process's lock up. `forked`: the caller is a child with its parent's struct, and never had the lock. */
void life_end(chalk_segment *g, bool forked);

/*
 * Whether the owner is proven to be dead. Without a proof the owner is taken for alive. It asks the kernel: some 10 us.
 */
bool life_is_over(const chalk_segment *g, const owner *o);

#endif
