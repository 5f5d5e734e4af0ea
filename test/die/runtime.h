/*
 * Death at the n-th store to shared memory. The core is compiled once more with the compiler's instrumentation for the
 * thread sanitizer, but linked with the callbacks of this runtime: each store to the segment passes through here, atomic
 * ones too, and the lock operations by way of macros. When the n-th comes the process ends by SIGKILL, just before the
 * store or right behind it, with whatever locks it holds.
 *
 * What is counted is the source's stores in the order that this build makes them. Plain stores may stand in another
 * order in another build: where the order matters the core's are atomic or fenced.
 */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <stdbool.h>
#include <stddef.h>

/* Arms this process: it dies at the n-th store (from 1) into the range. n = 0: only counts. */
void die_arm(const void *base, size_t size, unsigned long n, bool after);
/* Counts no more; how many stores there were. */
unsigned long die_disarm(void);

#endif
