#include "ticks.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { FIRST = 100000, LONG = 1000000000, SMALL = 1000000 }; /* ns */

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

/* Both clocks at one moment. */
static void read_both(uint64_t *ticks, uint64_t *wall) {
  uint64_t before = ticks_now(true);
  *wall = ticks_wall();
  *ticks = before + (ticks_now(true) - before) / 2;
}

/* The rate since `from`; one that the wall clock was set meanwhile is none. */
static void measure(ticks_scale *s) {
  double rate = (double)(s->wall - s->from_wall) / (double)(s->ticks - s->from_ticks);
  bool is_first = s->rate == 0;
  if (s->wall > s->from_wall && (is_first || (rate > s->rate * 0.99 && rate < s->rate * 1.01))) s->rate = rate;
}

void ticks_begin(ticks_scale *s, bool steady) {
  *s = (ticks_scale){.steady = steady};
  if (!steady) return;
  read_both(&s->from_ticks, &s->from_wall);
  double end = (double)s->from_wall + FIRST;
  do read_both(&s->ticks, &s->wall);
  while ((double)s->wall < end && s->wall >= s->from_wall);
  measure(s);
  if (s->rate == 0) s->rate = 1; /* the clock was set in this very moment: the next measure is a better one */
}

void ticks_adjust(ticks_scale *s) {
  if (!s->steady) return;
  read_both(&s->ticks, &s->wall);
  if (s->wall - s->from_wall < LONG) return;
  measure(s);
  s->from_ticks = s->ticks;
  s->from_wall = s->wall;
}

uint64_t ticks_to_wall(ticks_scale *s, uint64_t ticks) {
  if (!s->steady) return ticks;
  uint64_t wall = s->wall + (uint64_t)(int64_t)((double)(int64_t)(ticks - s->ticks) * s->rate);
  if (wall < s->last && s->last - wall < SMALL) wall = s->last;
  return s->last = wall;
}
