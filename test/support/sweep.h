/* chalk_sweep with the same limit for every kind of metric. */
#ifndef SWEEP_H
#define SWEEP_H

#include "value/kind.h"

static inline int sweep_all(chalk_snapshot *s, double now, double idle) {
  double limits[KIND_MOST];
  for (int i = 0; i < KIND_MOST; i++) limits[i] = idle;
  return chalk_sweep(s, now, limits);
}

#endif
