/* The limits of a segment: checking the options that set them, and setting them in a new segment or one in use. */
#ifndef LIMITS_H
#define LIMITS_H

#include "shm/segment.h"

#define LIMITS_DEFAULT (1ull << 30) /* of memory, in bytes; the upper limit of the default */
#define LIMITS_LEAST (4ull << 20)   /* the smallest limit of memory */
#define LIMITS_SERIES 100000u       /* the default of max_series */
/* Capacities are numbers of series. Overflow series and series in quarantine need numbers too. */
#define LIMITS_LEAST_CAPACITY (1u << 17)
#define LIMITS_MOST_CAPACITY (1u << 24)

/* CHALK_EINVALID, and a message: an option is out of its range. */
int limits_check(const chalk_options *o, char *message);
/* Sets the limits that are given; zero leaves a limit unchanged. */
void limits_set(chalk_segment *g, const chalk_options *o);
/* The same in a new segment, where zero stands for the default. */
void limits_begin(chalk_segment *g, const chalk_options *o);

#endif
