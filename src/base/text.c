/*
 * Numbers, labels and tag values as text, and the hash of this text.
 *
 * A double is first reduced to a decimal, that is an integer of at most 17 digits and a power of ten, by Schubfach (R.
 * Giulietti, "The Schubfach way to render doubles", 2020). The interval of reals that round to the double is scaled by
 * a power of ten, taken from a table of 128-bit integers, until the interval is between 1 and 10 units wide. Then at
 * least one integer lies inside it, and at most one multiple of ten. If there is a multiple of ten, it is the shortest
 * decimal; otherwise all candidates are equally long and the nearest wins. Three multiplications decide this, without a
 * loop or big integers. Scaled values keep two bits of fraction, and their lowest bit is set if any bit beyond was cut
 * off ("round to odd"), which keeps every comparison exact.
 *
 * Strings are scanned eight bytes at a time, in a uint64_t whose lowest byte is the first byte in memory. A filter
 * marks the bytes that it looks for by setting their top bits. The lowest mark is exact, marks above it may be false: a
 * scan therefore stops at the first mark and starts again behind it.
 */

#include "base/text.h"

#include <stdbool.h>
#include <string.h>

#include "base/pow10.h"

__extension__ typedef unsigned __int128 uint128;

/*
 * Integers. Eight digits are made at once, without a branch: the number is split into lanes of 4 + 4 digits, then 2 + 2
 * + 2 + 2, then single digits. Each lane is divided by multiplying with a rounded-up reciprocal, which is exact for all
 * values that a lane can hold. The leading half always goes to the lower lane, so that the digits lie in memory in
 * order.
 */

static const uint32_t block_limit = 100000000;

/* Returns the eight digits of v, which is below block_limit, one in each byte; the lowest byte has the first digit. */
static inline uint64_t block_digits(uint32_t v) {
  uint64_t fours = v / 10000 | (uint64_t)(v % 10000) << 32;
  uint64_t hundreds = (fours * 10486 >> 20) & 0x0000007f0000007f;
  uint64_t twos = hundreds | (fours - 100 * hundreds) << 16;
  uint64_t tens = (twos * 103 >> 10) & 0x000f000f000f000f;
  return tens | (twos - 10 * tens) << 8;
}

static inline void put_block(char *out, uint64_t digits) {
  digits += 0x3030303030303030;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  digits = __builtin_bswap64(digits);
#endif
  memcpy(out, &digits, 8);
}

/* Returns the number of leading zeros. The last digit never counts as one of them. */
static inline unsigned leading_zeros(uint64_t digits) {
  return (unsigned)__builtin_ctzll(digits | UINT64_C(1) << 56) / 8;
}

/*
 * Writes v, which is below 10^17. Leading zeros are shifted out, and a first digit that is not there is written and
 * then overwritten: the length varies from number to number, so a branch on it would often be mispredicted.
 */
static inline size_t put_digits(char *out, uint64_t v) {
  if (v < block_limit) {
    uint64_t digits = block_digits((uint32_t)v);
    unsigned zeros = leading_zeros(digits);
    put_block(out, digits >> 8 * zeros);
    return 8 - zeros;
  }
  uint32_t head = (uint32_t)(v / block_limit);
  uint32_t first = head / block_limit;
  uint64_t digits = block_digits(head % block_limit);
  unsigned zeros = leading_zeros(digits) * (first == 0);
  *out = (char)('0' + first);
  char *p = out + (first != 0);
  put_block(p, digits >> 8 * zeros);
  p += 8 - zeros;
  put_block(p, block_digits((uint32_t)(v % block_limit)));
  return (size_t)(p + 8 - out);
}

size_t text_uint(char *out, uint64_t v) {
  if (v < UINT64_C(100000000000000000)) return put_digits(out, v);
  size_t n = put_digits(out, v / block_limit);
  put_block(out + n, block_digits((uint32_t)(v % block_limit)));
  return n + 8;
}

size_t text_int(char *out, int64_t v) {
  if (v >= 0) return text_uint(out, (uint64_t)v);
  *out = '-';
  return 1 + text_uint(out + 1, 0 - (uint64_t)v);
}

/* Doubles */

#define FRACTION_BITS 52
#define FRACTION_MASK ((UINT64_C(1) << FRACTION_BITS) - 1)
#define EXPONENT_MASK 0x7ff
#define EXPONENT_BIAS 1075 /* of the exponent, if the fraction is read as an integer */

struct decimal {
  uint64_t digits;
  int exponent; /* the value is digits * 10^exponent */
};

static uint64_t bits_of(double v) {
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}

static bool is_finite(uint64_t bits) { return (bits >> FRACTION_BITS & EXPONENT_MASK) != EXPONENT_MASK; }

/*
 * Returns x * g / 2^128, rounded to odd. g may exceed the true power by less than one, which adds at most one to the
 * fraction. Comparing the fraction with 1 instead of 0 therefore still recognises a whole product.
 */
static inline uint64_t scale(uint64_t x, const uint64_t g[2]) {
  uint128 lower = (uint128)x * g[1];
  uint128 upper = (uint128)x * g[0] + (uint64_t)(lower >> 64);
  return (uint64_t)(upper >> 64) | ((uint64_t)upper > 1);
}

/*
 * Returns the shortest decimal of a finite double above zero, given by its bits. Scaled values are four times as large
 * as what they stand for, because the bounds of the rounding interval are half a unit of the last place away from the
 * value, and a quarter of a unit below a power of two.
 */
static struct decimal shortest(uint64_t bits) {
  uint64_t fraction = bits & FRACTION_MASK;
  int biased = (int)(bits >> FRACTION_BITS & EXPONENT_MASK);
  uint64_t c = biased ? fraction | (FRACTION_MASK + 1) : fraction;
  int q = (biased ? biased : 1) - EXPONENT_BIAS;
  bool narrow = fraction == 0 && biased > 1;

  /* k = floor(log10(width of the interval)); shift aligns 10^-k * 2^q with its table entry. */
  int k = (q * 1262611 - (narrow ? 524031 : 0)) >> 22;
  int shift = q + ((-k * 1741647) >> 19) + 1;
  const uint64_t *g = pow10_table[-k - POW10_MIN];
  uint64_t value = scale((4 * c) << shift, g);
  /* If c is even, the bounds read back to the double too, because strtod rounds halves to even. */
  uint64_t odd = c & 1;
  uint64_t low = scale((4 * c - 2 + narrow) << shift, g) + odd;
  uint64_t high = scale((4 * c + 2) << shift, g) - odd;

  /* The nearest integer lies outside only if the interval is narrow, and then below it. */
  uint64_t unit = value / 4;
  uint64_t half = 4 * unit + 2;
  uint64_t near = unit + ((value > half) | ((value == half) & unit));
  near += 4 * near < low;

  uint64_t ten = unit / 10;
  bool below = low <= 40 * ten;
  bool above = 40 * ten + 40 <= high;
  bool shorter = (unit >= 10) & (below != above);
  /* A branch between the two would be unpredictable, so a mask selects the result. */
  uint64_t pick = 0 - (uint64_t)shorter;
  return (struct decimal){(near & ~pick) | ((ten + above) & pick), k + shorter};
}

static size_t put_exponent(char *out, int exponent) {
  unsigned magnitude = (unsigned)(exponent < 0 ? -exponent : exponent);
  char *p = out;
  *p++ = 'e';
  *p++ = exponent < 0 ? '-' : '+';
  *p = (char)('0' + magnitude / 100);
  p += magnitude >= 100;
  *p++ = (char)('0' + magnitude / 10 % 10);
  *p++ = (char)('0' + magnitude % 10);
  return (size_t)(p - out);
}

/*
 * Writes a decimal above zero, with an exponent from 10^large on and below 10^-4. Most digits are written where they
 * stay, and the few before the point are moved. Trailing zeros are cheaper to drop from the text than from the number,
 * unless one division drops a whole block of eight, as with short decimals.
 */
static size_t put_decimal(char *out, struct decimal d, int large) {
  if (d.digits % block_limit == 0) {
    d.digits /= block_limit;
    d.exponent += 8;
  }
  size_t n = put_digits(out + 1, d.digits);
  int point = (int)n + d.exponent; /* digits before the point */
  while (out[n] == '0') n--;
  if ((unsigned)(point + 3) > (unsigned)(large + 3)) {
    out[0] = out[1];
    if (n == 1) return 1 + put_exponent(out + 1, point - 1);
    out[1] = '.';
    return n + 1 + put_exponent(out + n + 1, point - 1);
  }
  if (point <= 0) {
    size_t zeros = (size_t)-point;
    memmove(out + 2 + zeros, out + 1, n);
    memcpy(out, "0.000", 2 + zeros);
    return 2 + zeros + n;
  }
  size_t whole = (size_t)point;
  if (whole < n) {
    memmove(out, out + 1, whole);
    out[whole] = '.';
    return n + 1;
  }
  memmove(out, out + 1, n);
  memset(out + n, '0', whole - n);
  return whole;
}

static size_t put_infinite(char *out, uint64_t bits) {
  bool nan = bits & FRACTION_MASK;
  memcpy(out, nan ? "NaN" : bits >> 63 ? "-Inf" : "+Inf", 4);
  return nan ? 3 : 4;
}

static size_t put_double(char *out, double v, int large) {
  uint64_t bits = bits_of(v);
  if (!is_finite(bits)) return put_infinite(out, bits);
  size_t sign = bits >> 63;
  if (sign) *out++ = '-';
  if (bits << 1 == 0) {
    *out = '0';
    return sign + 1;
  }
  return sign + put_decimal(out, shortest(bits), large);
}

size_t text_double(char *out, double v) {
  /* Below 2^53 the neighbours of a whole number are at most 1 away, so its own digits are the shortest decimal. */
  const double exact = 9007199254740992.0;
  if (v > -exact && v < exact && (double)(int64_t)v == v && (v != 0 || bits_of(v) == 0)) {
    return text_int(out, (int64_t)v);
  }
  return put_double(out, v, 21);
}

size_t text_bound(char *out, double v) {
  size_t n = put_double(out, v, 6);
  if (is_finite(bits_of(v)) && !memchr(out, '.', n) && !memchr(out, 'e', n)) {
    memcpy(out + n, ".0", 2);
    n += 2;
  }
  return n;
}

/* Strings */

#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

static inline uint64_t load8(const char *s) {
  uint64_t x;
  memcpy(&x, s, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  x = __builtin_bswap64(x);
#endif
  return x;
}

static inline uint64_t load4(const char *s) {
  uint32_t x;
  memcpy(&x, s, 4);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  x = __builtin_bswap32(x);
#endif
  return x;
}

/* Loads 1 to 8 bytes and zeros above them. Nothing outside of the n bytes is read: the loads overlap instead. */
static inline uint64_t load_tail(const char *s, size_t n) {
  if (n >= 4) return load4(s) | load4(s + n - 4) << 8 * (n - 4);
  const unsigned char *u = (const unsigned char *)s;
  return u[0] | (uint64_t)u[n / 2] << 8 * (n / 2) | (uint64_t)u[n - 1] << 8 * (n - 1);
}

static inline uint64_t mark_zero(uint64_t x) { return (x - EACH(1)) & ~x & EACH(0x80); }

static inline uint64_t mark_escaped(uint64_t x) {
  return mark_zero(x ^ EACH('\\')) | mark_zero(x ^ EACH('"')) | mark_zero(x ^ EACH('\n'));
}

static inline uint64_t mark_not_ascii(uint64_t x) { return (x & EACH(0x80)) | mark_zero(x); }

/* Returns the number of bytes before the first one that the filter marks. */
static inline size_t unmarked(const char *s, size_t n, uint64_t (*mark)(uint64_t)) {
  size_t i = 0;
  for (; n - i >= 8; i += 8) {
    uint64_t marks = mark(load8(s + i));
    if (marks) return i + (size_t)__builtin_ctzll(marks) / 8;
  }
  if (i == n) return n;
  uint64_t marks = mark(load_tail(s + i, n - i)) & (EACH(0x80) >> 8 * (8 - (n - i)));
  return marks ? i + (size_t)__builtin_ctzll(marks) / 8 : n;
}

size_t text_label(char *out, const char *s, size_t n) {
  char *p = out;
  for (;;) {
    size_t run = unmarked(s, n, mark_escaped);
    memcpy(p, s, run);
    p += run;
    if (run == n) return (size_t)(p - out);
    *p++ = '\\';
    *p++ = s[run] == '\n' ? 'n' : s[run];
    s += run + 1;
    n -= run + 1;
  }
}

/*
 * Returns the length of the sequence that begins at s; n is at least 1. For an ill-formed sequence it is the length of
 * the maximal subpart, the bytes that a longer text could still have made valid (The Unicode Standard, tables 3-7 and
 * 3-8).
 */
static size_t sequence(const char *s, size_t n, bool *valid) {
  const unsigned char *u = (const unsigned char *)s;
  unsigned char lead = u[0];
  size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  *valid = false;
  if (lead < 0xc2 || lead > 0xf4) return 1;

  /* Only the second byte has limits that depend on the first: against overlong forms, surrogates and U+110000 on. */
  unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  size_t i = 1;
  while (i < length && i < n && u[i] >= low && u[i] <= high) {
    low = 0x80;
    high = 0xbf;
    i++;
  }
  *valid = i == length;
  return i;
}

size_t text_utf8(char *out, const char *s, size_t n) {
  char *p = out;
  for (;;) {
    size_t run = unmarked(s, n, mark_not_ascii);
    memcpy(p, s, run);
    p += run;
    s += run;
    n -= run;
    if (n == 0) return (size_t)(p - out);
    do {
      bool valid;
      size_t length = sequence(s, n, &valid);
      size_t written = valid ? length : 3;
      memcpy(p, valid ? s : "\xef\xbf\xbd", written);
      p += written;
      s += length;
      n -= length;
    } while (n > 0 && (*s & 0x80));
  }
}

/*
 * The hash. Each step multiplies two words and combines both halves of the 128-bit product, as wyhash does (Wang Yi,
 * "Modern Non-Cryptographic Hash Function and Pseudorandom Number Generator"). The factors are combined in too, so
 * input that makes one factor zero does not erase the other.
 */

static inline uint64_t mix(uint64_t a, uint64_t b) {
  uint128 product = (uint128)a * b;
  return a ^ b ^ (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t text_hash(const void *s, size_t n) {
  /* The fractions of the square roots of 2, 3, 5 and 7. */
  const uint64_t k2 = 0x6a09e667f3bcc908, k3 = 0xbb67ae8584caa73b;
  const uint64_t k5 = 0x3c6ef372fe94f82b, k7 = 0xa54ff53a5f1d36f1;
  const char *p = s;
  size_t left = n;
  uint64_t h = k2;
  for (; left > 16; left -= 16, p += 16) h = mix(load8(p) ^ k3, load8(p + 8) ^ h);
  uint64_t a = left > 8 ? load8(p) : left ? load_tail(p, left) : 0;
  uint64_t b = left > 8 ? load8(p + left - 8) : 0;
  return mix(mix(a ^ k5, b ^ h), n ^ k7);
}
