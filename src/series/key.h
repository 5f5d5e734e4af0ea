/*
 * A series' key: its tag values in declared order, in the form in which they are stored and compared.
 *
 *   size | value | size | value | ...       a size is two bytes, little-endian
 *
 * Each value is normalised, so that two series never differ in what exporters cannot show: it is valid UTF-8 without
 * NUL (what is not becomes U+FFFD), and has at most CHALK_VALUE bytes (a longer one is cut, and "~" and a hash of the
 * whole value are appended). An absent value has size 0, which is the same as "".
 */
#ifndef KEY_H
#define KEY_H

#include "shm/segment.h"

enum { KEY_MOST = CHALK_TAGS * (2 + CHALK_VALUE) };

/* The value of every tag of an overflow series. No other series has it in all tags. */
#define KEY_OVERFLOW "__overflow__"

/* What identifies a series. */
typedef struct series_key {
  uint32_t metric;
  uint32_t size;     /* of the key in bytes, up to KEY_MOST */
  const char *bytes; /* as key_encode writes them */
  uint64_t hash;     /* key_hash of metric and bytes */
} series_key;

/*
 * Writes the key of n values, n up to CHALK_TAGS, to `out`, which has space for KEY_MOST bytes. Returns the key's size
 * in bytes.
 */
uint32_t key_encode(char *out, const char *const *values, const size_t *sizes, uint32_t n);
/* Writes the key of the overflow series of a metric with n tags in the same way. */
uint32_t key_overflow(char *out, uint32_t n);
/* The hash that chooses the stripe of a metric's overflow series. */
uint64_t key_overflow_hash(uint32_t metric);
/* The hash of a series, by its metric and key. */
uint64_t key_hash(uint32_t metric, const char *key, uint32_t size);

/* Reads the next value of a key and advances *at, which begins at 0. False: the key ends there, or is damaged. */
static inline bool key_next(const char *key, uint32_t size, uint32_t *at, const char **value, uint32_t *value_size) {
  if (*at + 2 > size) return false;
  uint32_t n = (unsigned char)key[*at] | (uint32_t)(unsigned char)key[*at + 1] << 8;
  if (n > size - *at - 2) return false;
  *value = key + *at + 2;
  *value_size = n;
  *at += 2 + n;
  return true;
}

#endif
