#include "statsd_text.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "chalk.h"
#include "text.h"

enum { HASH = 9, PART = 128 }; /* "_" and eight digits; characters of a value in a name */

/* 32 bits of FNV-1a, as text after "_". */
static char *put_hash(char *o, const char *s, size_t n) {
  uint32_t h = 2166136261u;
  for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 16777619u;
  *o++ = '_';
  for (int shift = 28; shift >= 0; shift -= 4) *o++ = "0123456789abcdef"[h >> shift & 15];
  return o;
}

/* Which bytes may stand in a value, as sets: letters, digits, _ and -; in a tag also . / and : */
static const uint64_t in_tag[4] = {0x07ffe00000000000, 0x07fffffe87fffffe};
static const uint64_t in_name[4] = {0x03ff200000000000, 0x07fffffe87fffffe};

static inline char kept(const uint64_t *set, unsigned char c) { return set[c >> 6] >> (c & 63) & 1 ? (char)c : '_'; }

static bool is_first(char c) { return ((unsigned char)c & 0xc0) != 0x80; }

/* Eight bytes at once: the high bits of those from `low` to `high`, if none is above 127. */
#define ONES 0x0101010101010101u
static inline uint64_t between(uint64_t x, unsigned char low, unsigned char high) {
  return (x + ONES * (0x80u - low)) & ~(x + ONES * (0x7fu - high));
}

/* Whether all eight may stand in a tag. */
static inline bool is_plain(uint64_t x) {
  uint64_t good = between(x | ONES * 0x20, 'a', 'z') | between(x, '-', ':') | between(x, '_', '_');
  return (good & ~x & ONES * 0x80) == ONES * 0x80;
}

static inline bool copy_four(char *o, const char *first, const char *last, size_t at) {
  uint32_t x, y;
  memcpy(&x, first, 4), memcpy(&y, last, 4);
  memcpy(o, &x, 4), memcpy(o + at, &y, 4);
  return is_plain(x | (uint64_t)y << 32);
}

static inline bool copy_eight(char *o, const char *s) {
  uint64_t x;
  memcpy(&x, s, 8), memcpy(o, &x, 8);
  return is_plain(x);
}

/* Copies n > 0 bytes. False: some may not stand in a tag, and the copy may be of no use. */
static bool copy_plain(char *o, const char *s, uint32_t n) {
  if (n < 4) {
    for (uint32_t i = 0; i < n; i++) {
      o[i] = s[i];
      if (!is_plain(ONES * (unsigned char)s[i])) return false;
    }
    return true;
  }
  if (n < 8) return copy_four(o, s, s + n - 4, n - 4);
  for (uint32_t i = 0; i + 8 < n; i += 8) {
    if (!copy_eight(o + i, s + i)) return false;
  }
  return copy_eight(o + n - 8, s + n - 8);
}

/* A key's values are valid UTF-8. How many bytes of it are one character that ends lines: C1, U+2028, U+2029. */
static uint32_t control_at(const char *s, uint32_t left) {
  const unsigned char *u = (const unsigned char *)s;
  if (left >= 2 && u[0] == 0xc2 && u[1] < 0xa0) return 2;
  return left >= 3 && u[0] == 0xe2 && u[1] == 0x80 && (u[2] == 0xa8 || u[2] == 0xa9) ? 3 : 0;
}

static char *put_other_value(char *o, const char *value, uint32_t n, size_t most) {
  char *cut = NULL;
  size_t characters = 0;
  for (uint32_t i = 0; i < n;) {
    unsigned char c = (unsigned char)value[i];
    if (is_first(value[i])) {
      if (characters == most) return put_hash(cut, value, n);
      if (characters++ == most - HASH) cut = o;
    }
    uint32_t control = control_at(value + i, n - i);
    *o++ = control ? '_' : c >= 0x80 ? (char)c : kept(in_tag, c);
    i += control ? control : 1;
  }
  return o;
}

char *statsd_text_value(char *o, const char *value, uint32_t n, size_t most) {
  if (n == 0) return o;
  char *end = n <= most && copy_plain(o, value, n) ? o + n : put_other_value(o, value, n, most);
  if (end[-1] == ':') end[-1] = '_';
  return end;
}

char *statsd_text_folded(char *o, const char *value, uint32_t n) {
  *o++ = '.';
  if (n == 0) {
    memcpy(o, "none", 4);
    return o + 4;
  }
  uint32_t size = n > PART ? PART - HASH : n;
  for (uint32_t i = 0; i < size; i++) *o++ = kept(in_name, (unsigned char)value[i]);
  return n > PART ? put_hash(o, value, n) : o;
}

size_t statsd_text_characters(const char *s) {
  size_t n = 0;
  for (; *s; s++) n += is_first(*s);
  return n;
}

/* As receivers compute: the decimal to a double, its inverse cut to a whole number. */
static bool is_rate(uint64_t digits, uint64_t power, uint64_t n) {
  double inverse = 1 / ((double)digits / (double)power);
  return (uint64_t)inverse == n && inverse - (double)n < 1e-6;
}

/*
 * The shortest decimal r with floor(1 / r) = n and 1 / r - n < 1e-6. Of d digits that is floor(10^d / n) / 10^d or, where
 * 1 / n is that very decimal and rounding puts its inverse under n, the one below.
 */
size_t chalk_statsd_rate(char *out, uint64_t n) {
  if (n <= 1) {
    *out = '1';
    return 1;
  }
  uint64_t power = 1;
  for (int digits = 1; digits <= 18; digits++) {
    power *= 10;
    uint64_t m = power / n;
    if (m > 1 && !is_rate(m, power, n)) m--;
    if (m == 0 || !is_rate(m, power, n)) continue;
    char text[TEXT_NUMBER_MAX];
    size_t size = text_uint(text, m), zeros = (size_t)digits - size;
    memcpy(out, "0.", 2);
    memset(out + 2, '0', zeros);
    memcpy(out + 2 + zeros, text, size);
    return 2 + zeros + size;
  }
  return 0;
}
