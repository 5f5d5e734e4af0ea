/* The limits of a segment: which options may be given, and setting them in a new segment or one that is in use. */
#ifndef LIMITS_H
#define LIMITS_H

#include "shm/segment.h"

#define LIMITS_DEFAULT (1ull << 30) /* of memory, in bytes */
#define LIMITS_LEAST (4ull << 20)
#define LIMITS_SERIES 100000u            /* unless the options say otherwise */
#define LIMITS_LEAST_CAPACITY (1u << 17) /* of series, in numbers, overflow series and quarantine too */
#define LIMITS_MOST_CAPACITY (1u << 24)

/* CHALK_EINVALID and a message: an option is out of its range. */
int limits_check(const chalk_options *o, char *message);
/* Sets those that are given; zero leaves a limit as it is. */
void limits_set(chalk_segment *g, const chalk_options *o);
/* The same in a new segment, where zero stands for the default. */
void limits_begin(chalk_segment *g, const chalk_options *o);

#endif
