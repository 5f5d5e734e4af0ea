#include "export/statsd_text.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "chalk.h"
#include "base/text.h"

enum { HASH = 9 }; /* bytes: "_" and eight digits */

/* Writes "_" and the 32-bit FNV-1a hash of n bytes. */
static char *put_hash(char *o, const char *s, size_t n) {
  uint32_t h = 2166136261u;
  for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 16777619u;
  *o++ = '_';
  for (int shift = 28; shift >= 0; shift -= 4) *o++ = "0123456789abcdef"[h >> shift & 15];
  return o;
}

/* The bytes below 128 that a value may have, as sets of bits: letters, digits, _ and -; in a tag also . / and : */
static const uint64_t in_tag[4] = {0x07ffe00000000000, 0x07fffffe87fffffe};
static const uint64_t in_name[4] = {0x03ff200000000000, 0x07fffffe87fffffe};

/* The byte itself if it is in the set, else "_". */
static inline char kept(const uint64_t *set, unsigned char c) { return set[c >> 6] >> (c & 63) & 1 ? (char)c : '_'; }

/* Whether a byte of UTF-8 is the first of its character. */
static bool is_first(char c) { return ((unsigned char)c & 0xc0) != 0x80; }

/* Sixteen bytes, which are compared at once: the result of a comparison has all bits of a byte set where it is true. */
typedef unsigned char bytes __attribute__((vector_size(STATSD_TEXT_PADDING)));

/* The sixteen bytes from byte 16 - n on are n zeros, then ones: a mask of the bytes after the first n. */
static const unsigned char behind[2 * STATSD_TEXT_PADDING] = {[16] = 255, 255, 255, 255, 255, 255, 255, 255,
                                                              255,        255, 255, 255, 255, 255, 255, 255};

/* Which of the bytes a tag may have: letters, digits and _ - . / : */
static inline bytes are_plain(bytes x) {
  return (bytes)((x | 0x20) - 'a' <= 'z' - 'a') | (bytes)(x - '-' <= ':' - '-') | (bytes)(x == '_');
}

static inline bool are_all(bytes x) {
  uint64_t halves[2];
  memcpy(halves, &x, sizeof halves);
  return (halves[0] & halves[1]) == UINT64_MAX;
}

/* Copies n > 0 bytes. False: a tag must not have one of them, and the copy may be incomplete. */
static inline bool copy_plain(char *o, const char *s, uint32_t n) {
  bytes x, beyond;
  for (; n > 16; n -= 16, o += 16, s += 16) {
    memcpy(&x, s, 16), memcpy(o, &x, 16);
    if (!are_all(are_plain(x))) return false;
  }
  memcpy(&x, s, 16), memcpy(o, &x, 16);
  memcpy(&beyond, behind + 16 - n, 16);
  return are_all(are_plain(x) | beyond);
}

/*
 * The number of bytes of the character at s, if it is a control character that may end a line: C1, U+2028, U+2029;
 * otherwise 0. Values are valid UTF-8, because keys are.
 */
static uint32_t control_at(const char *s, uint32_t left) {
  const unsigned char *u = (const unsigned char *)s;
  if (left >= 2 && u[0] == 0xc2 && u[1] < 0xa0) return 2;
  return left >= 3 && u[0] == 0xe2 && u[1] == 0x80 && (u[2] == 0xa8 || u[2] == 0xa9) ? 3 : 0;
}

/* Writes a value that is too long or has other bytes. It is a function of its own to keep the usual case short. */
static __attribute__((noinline)) char *put_other_value(char *o, const char *value, uint32_t n, size_t most) {
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

char *statsd_text_in_name(char *o, const char *value, uint32_t n, size_t most) {
  size_t size = n > most ? most - HASH : n;
  for (size_t i = 0; i < size; i++) *o++ = kept(in_name, (unsigned char)value[i]);
  return n > most ? put_hash(o, value, n) : o;
}

/*
 * Whether the rate digits / power stands for n values. Receivers compute the same: they read the decimal as a double,
 * and cut its inverse to a whole number.
 */
static bool is_rate(uint64_t digits, uint64_t power, uint64_t n) {
  double inverse = 1 / ((double)digits / (double)power);
  return (uint64_t)inverse == n && inverse - (double)n < 1e-6;
}

/*
 * The shortest decimal r with floor(1 / r) = n and 1 / r - n < 1e-6. With d digits this is floor(10^d / n) / 10^d. If
 * 1 / n is exactly that decimal, rounding may put the inverse of the double below n; then it is the next lower decimal.
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
