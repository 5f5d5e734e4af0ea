/*
 * A clock that is cheap to read: the processor's time stamp counter where the kernel uses that for its own clocks, so
 * that it agrees on all processors, and the wall clock elsewhere. A writer notes ticks; the reader converts them to the
 * wall clock's nanoseconds, with a rate that it measures while time goes by.
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

/* Whether this machine's counter can be used. */
bool ticks_are_steady(void);

/* The ticks of now. `steady` is what ticks_are_steady said where the ticks are to be converted. */
static inline uint64_t ticks_now(bool steady) {
#if defined(__x86_64__)
  if (steady) return __rdtsc();
#endif
  (void)steady;
  return ticks_wall();
}

/* What turns ticks into nanoseconds since 1970. It belongs to one thread. */
typedef struct ticks_scale {
  bool steady;
  uint64_t from_ticks, from; /* where the rate is measured from */
  uint64_t ticks, wall;      /* a point near to what is converted */
  double rate;               /* nanoseconds a tick */
  uint64_t last;             /* the last result */
} ticks_scale;

/* Begins to measure, for ticks of the counter or (not steady) of the wall clock. */
void ticks_begin(ticks_scale *s, bool steady);
/* Measures again. Called now and then, so that neither drift nor a wall clock that is set leads astray. */
void ticks_adjust(ticks_scale *s);
/* Converts ticks that come in their order. Results keep the order, except where the wall clock was set back. */
uint64_t ticks_to_wall(ticks_scale *s, uint64_t ticks);

#endif
