/*
 * A clock that is cheap to read. It is the processor's time stamp counter if the kernel uses the counter for its own
 * clocks, which it does only where the counters of all processors agree; otherwise it is the wall clock. A writer
 * stores ticks. The reader converts them to nanoseconds of the wall clock with a rate that it measures as time passes.
 */
#ifndef TICKS_H
#define TICKS_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

/* Nanoseconds since 1970. */
static inline uint64_t ticks_wall(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Returns whether the kernel trusts the counter of this machine. It reads a file in /sys. */
bool ticks_are_steady(void);

/* Returns the current ticks. `steady` is the result of ticks_are_steady, for the writer and the reader alike. */
static inline uint64_t ticks_now(bool steady) {
#if defined(__x86_64__)
  if (steady) return __rdtsc();
#endif
  (void)steady;
  return ticks_wall();
}

/* A conversion from ticks to nanoseconds since 1970. It belongs to one thread. */
typedef struct ticks_scale {
  bool steady;
  uint64_t from_ticks, from; /* the moment since which the rate is measured: ticks, and ns of the monotonic clock */
  uint64_t ticks, wall;      /* a recent moment that conversions start from: ticks, and ns of the wall clock */
  double rate;               /* nanoseconds per tick */
  uint64_t last;             /* the last result of ticks_to_wall */
} ticks_scale;

/* Begins to measure the rate of the counter, which takes 100 us. If not `steady`, ticks are nanoseconds already. */
void ticks_begin(ticks_scale *s, bool steady);
/*
 * Measures again. The reader calls this before it converts a group of ticks, so that results follow the drift of the
 * counter and a wall clock that is set.
 */
void ticks_adjust(ticks_scale *s);
/*
 * Converts ticks, which come in the order of time, to nanoseconds since 1970. Results keep this order, unless the wall
 * clock was set back by 1 ms or more.
 */
uint64_t ticks_to_wall(ticks_scale *s, uint64_t ticks);

#endif
