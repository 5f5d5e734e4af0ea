/* Conversion between doubles and the 64-bit words that shared memory holds them as. */
#ifndef BITS_H
#define BITS_H

#include <stdint.h>

static inline double as_double(uint64_t bits) {
  union {
    uint64_t u;
    double d;
  } v = {bits};
  return v.d;
}

static inline uint64_t as_bits(double d) {
  union {
    double d;
    uint64_t u;
  } v = {d};
  return v.u;
}

#endif
