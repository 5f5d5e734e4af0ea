#include "base/ticks.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/*
 * Nanoseconds: the time over which the rate is measured at first and later, and a step back of the wall clock that is
 * not followed, because it comes from measuring and not from setting the clock.
 */
enum { FIRST_INTERVAL = 100000, INTERVAL = 1000000000, JITTER = 1000000 };
#define FARTHEST 0x1p62 /* ns between a moment and ticks of the same counter */

bool ticks_are_steady(void) {
#if defined(__x86_64__)
  char name[8] = "";
  int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, name, sizeof name - 1);
  close(fd);
  return n > 0 && strcmp(name, "tsc\n") == 0;
#else
  return false;
#endif
}

static uint64_t nanoseconds(clockid_t id) {
  struct timespec t;
  clock_gettime(id, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/*
 * Reads a clock, and the ticks at the same moment. An interrupt may come between the two, so the shortest of a few
 * readings counts.
 */
static uint64_t read_both(clockid_t id, uint64_t *ticks) {
  enum { READINGS = 5 };
  uint64_t read = 0, least = UINT64_MAX;
  *ticks = 0;
  for (int i = 0; i < READINGS; i++) {
    uint64_t before = ticks_now(true), now = nanoseconds(id), took = ticks_now(true) - before;
    if (took >= least) continue;
    least = took, read = now;
    *ticks = before + took / 2;
  }
  return read;
}

/* Measures the rate since `from`, by the monotonic clock, which cannot be set. */
static void measure(ticks_scale *s, uint64_t ticks, uint64_t now) {
  if (ticks > s->from_ticks && now > s->from) s->rate = (double)(now - s->from) / (double)(ticks - s->from_ticks);
}

void ticks_begin(ticks_scale *s, bool steady) {
  *s = (ticks_scale){.steady = steady, .rate = 1};
  if (!steady) return;
  uint64_t now, ticks;
  s->from = read_both(CLOCK_MONOTONIC, &s->from_ticks);
  do now = read_both(CLOCK_MONOTONIC, &ticks);
  while (now < s->from + FIRST_INTERVAL);
  measure(s, ticks, now);
  s->wall = read_both(CLOCK_REALTIME, &s->ticks);
}

void ticks_adjust(ticks_scale *s) {
  if (!s->steady) return;
  s->wall = read_both(CLOCK_REALTIME, &s->ticks);
  uint64_t ticks, now = read_both(CLOCK_MONOTONIC, &ticks);
  if (now - s->from < INTERVAL) return;
  measure(s, ticks, now);
  s->from_ticks = ticks;
  s->from = now;
}

uint64_t ticks_to_wall(ticks_scale *s, uint64_t ticks) {
  if (!s->steady) return ticks;
  double since = (double)(int64_t)(ticks - s->ticks) * s->rate;
  if (!(since > -FARTHEST && since < FARTHEST)) since = 0; /* these ticks are of another counter */
  uint64_t wall = s->wall + (uint64_t)(int64_t)since;
  if (wall < s->last && s->last - wall < JITTER) wall = s->last;
  return s->last = wall;
}
