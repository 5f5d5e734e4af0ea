/*
 * Death at the n-th store to shared memory. The core is compiled once more with the compiler's instrumentation for the
 * thread sanitizer, but linked with the callbacks of this runtime. So each store to the segment calls this runtime,
 * atomic ones too, and so do the lock operations, by macros. At the n-th store the process ends by SIGKILL, just before
 * the store or right behind it, with whatever locks it holds.
 *
 * The runtime counts the stores of the source in the order in which this build makes them. Plain stores may have
 * another order in another build: where the order matters, the core's stores are atomic or fenced.
 */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <stdbool.h>
#include <stddef.h>

/* Arms this process: it dies at the n-th store (from 1) into the range. n = 0: only counts. */
void die_arm(const void *base, size_t size, unsigned long n, bool after);
/* Stops counting and returns the number of stores. */
unsigned long die_disarm(void);

#endif
