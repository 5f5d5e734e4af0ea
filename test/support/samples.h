/* Random values with a distribution, and sorting them to compare quantiles. */
#ifndef TEST_SAMPLES_H
#define TEST_SAMPLES_H

#include "common.h"

/* From the normal distribution with mean 0 and deviation 1, by the Box-Muller transform. */
static inline double random_normal(void) {
  return sqrt(-2 * log(random_unit())) * cos(6.283185307179586 * random_unit());
}

/* For qsort. */
static inline int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

#endif
