/*
 * Whether the owner of a slot is dead.
 *
 * A process of this process's pid namespace is identified by its id, start time and program, see process.h. In another
 * namespace, such as that of another container with the same segment, a process id has no meaning here. So each process
 * also locks one byte of the segment's file that no other process locks, and its slot says which byte.
 *
 * This lock is on an open file description of its own, and ends with the last reference to that. The only reference
 * that remains is a mapping of one page, which lasts until the process ends or calls exec. The descriptor is closed at
 * once, so a program that closes all its descriptors does not look dead. Forked children do not inherit the mapping, so
 * they do not hold the lock.
 *
 * A worker that has given up root's rights may be unable to open the file again. It then relies on the lock that its
 * family (the processes forked from the same one) took when the segment was opened. That lock ends with the last
 * process of the family.
 */
#ifndef LIFE_H
#define LIFE_H

#include "shm/segment.h"

/*
 * Takes the lock of the family on a file that was just opened at a path. No effect on file systems without such locks.
 */
void life_begin(chalk_segment *g);
/*
 * The number of this process's lock, which is taken at the first call. 0: the process can have no lock. The caller
 * holds the registry lock.
 */
uint64_t life_take(chalk_segment *g);
/*
 * Releases the lock of the process. `forked`: the caller is a forked child that has a copy of its parent's struct, and
 * does not have the lock.
 */
void life_end(chalk_segment *g, bool forked);

/*
 * Whether the owner is proven to be dead. Without a proof the owner counts as alive. The call asks the kernel, which
 * takes about 10 us.
 */
bool life_is_over(const chalk_segment *g, const owner *o);

#endif
