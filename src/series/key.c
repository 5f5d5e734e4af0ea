#include "series/key.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"

enum {
  READ_MOST = 4 * CHALK_VALUE, /* bytes of a value that are made valid UTF-8; enough to fill CHALK_VALUE */
  HASH_SIZE = 17               /* "~" and 16 hexadecimal digits */
};

/* Writes a value as key.h says. Returns its size in bytes. */
static uint32_t normalise(char *out, const char *value, size_t size) {
  char repaired[3 * READ_MOST];
  size_t n = text_utf8(repaired, value, size < READ_MOST ? size : READ_MOST);
  if (n <= CHALK_VALUE && size <= READ_MOST) {
    memcpy(out, repaired, n);
    return (uint32_t)n;
  }
  n = CHALK_VALUE - HASH_SIZE;
  while (n > 0 && ((unsigned char)repaired[n] & 0xc0) == 0x80) n--;
  memcpy(out, repaired, n);
  char hash[HASH_SIZE + 1];
  snprintf(hash, sizeof hash, "~%016llx", (unsigned long long)text_hash(value, size));
  memcpy(out + n, hash, HASH_SIZE);
  return (uint32_t)n + HASH_SIZE;
}

uint32_t key_encode(char *out, const char *const *values, const size_t *sizes, uint32_t n) {
  uint32_t at = 0;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t size = sizes[i] ? normalise(out + at + 2, values[i], sizes[i]) : 0;
    out[at] = (char)(size & 255);
    out[at + 1] = (char)(size >> 8);
    at += 2 + size;
  }
  return at;
}

uint32_t key_overflow(char *out, uint32_t n) {
  enum { SIZE = sizeof KEY_OVERFLOW - 1 };
  for (uint32_t i = 0; i < n; i++) {
    char *p = out + i * (2 + SIZE);
    p[0] = SIZE, p[1] = 0;
    memcpy(p + 2, KEY_OVERFLOW, SIZE);
  }
  return n * (2 + SIZE);
}

uint64_t key_hash(uint32_t metric, const char *key, uint32_t size) {
  return text_hash(key, size) ^ (metric + 1) * 0x9e3779b97f4a7c15ull;
}

uint64_t key_overflow_hash(uint32_t metric) { return key_hash(metric, KEY_OVERFLOW, sizeof KEY_OVERFLOW - 1); }
