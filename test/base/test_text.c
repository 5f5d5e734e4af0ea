/*
 * What is lost when these fail: a scraped number differs from the recorded one; the text of an `le` label changes,
 * and with it the identity of its series; or a tag value forges a label or a line.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/text.h"

#define RANDOM_DOUBLES 5000000
#define SHORTEST_DOUBLES 100000
#define HASHES 1000000

static uint64_t random_state = 0x2545f4914f6cdd1d;

static uint64_t random_bits(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

static double as_double(uint64_t bits) {
  double v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

static uint64_t as_bits(double v) {
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}

typedef size_t number_writer(char *out, double v);

/* Formats into a heap block of exactly the promised size, so that a sanitizer sees any excess. */
static const char *number(number_writer *writer, double v) {
  static char text[TEXT_NUMBER_MAX + 1];
  char *out = malloc(TEXT_NUMBER_MAX);
  assert_non_null(out);
  size_t n = writer(out, v);
  assert_in_range(n, 1, TEXT_NUMBER_MAX);
  memcpy(text, out, n);
  text[n] = 0;
  free(out);
  return text;
}

struct sample {
  double value;
  const char *text;
};

#define ASSERT_SAMPLES(writer, samples)                                         \
  for (size_t i = 0; i < sizeof(samples) / sizeof((samples)[0]); i++) {         \
    assert_string_equal(number(writer, (samples)[i].value), (samples)[i].text); \
  }

static void integers_are_exact(void **state) {
  (void)state;
  char out[TEXT_NUMBER_MAX], expected[TEXT_NUMBER_MAX];
  uint64_t power = 1;
  for (int digits = 1; digits <= 20; digits++, power *= 10) {
    const uint64_t around[] = {power - 1, power, power + 1, 0 - power};
    for (int i = 0; i < 4; i++) {
      int n = snprintf(expected, sizeof expected, "%llu", (unsigned long long)around[i]);
      assert_int_equal(text_uint(out, around[i]), n);
      assert_memory_equal(out, expected, (size_t)n);
    }
  }
  for (int i = 0; i < 1000000; i++) {
    int64_t v = (int64_t)random_bits() >> (random_bits() & 63);
    int n = snprintf(expected, sizeof expected, "%lld", (long long)v);
    assert_int_equal(text_int(out, v), n);
    assert_memory_equal(out, expected, (size_t)n);
  }
  assert_int_equal(text_int(out, INT64_MIN), 20);
  assert_memory_equal(out, "-9223372036854775808", 20);
}

static void doubles_have_the_documented_layout(void **state) {
  (void)state;
  const struct sample samples[] = {
      {0.0, "0"},
      {-0.0, "-0"},
      {as_double(0x7ff0000000000000), "+Inf"},
      {as_double(0xfff0000000000000), "-Inf"},
      {as_double(0x7ff8000000000000), "NaN"},
      {as_double(0xfff0000000000001), "NaN"},
      {1, "1"},
      {-1, "-1"},
      {42, "42"},
      {1000000, "1000000"},
      {0.1, "0.1"},
      {-0.25, "-0.25"},
      {1.5, "1.5"},
      {0.1 + 0.2, "0.30000000000000004"},
      {123456.789, "123456.789"},
      {1.0 / 3, "0.3333333333333333"},
      {1e-4, "0.0001"},
      {0.00012345678901234567, "0.00012345678901234567"},
      {9.9999e-5, "9.9999e-05"},
      {1e-5, "1e-05"},
      {1.5e-10, "1.5e-10"},
      {1e20, "100000000000000000000"},
      {123456789012345680000.0, "123456789012345680000"},
      {999999999999999900000.0, "999999999999999900000"},
      {1e21, "1e+21"},
      {-1.25e21, "-1.25e+21"},
      {1e100, "1e+100"},
      {9007199254740991, "9007199254740991"},
      {9007199254740992, "9007199254740992"},
      {9007199254740993.0, "9007199254740992"},
      {9007199254740994, "9007199254740994"},
      {-9007199254740992, "-9007199254740992"},
      {9223372036854775808.0, "9223372036854776000"},
      {18446744073709551616.0, "18446744073709552000"},
      {5e-324, "5e-324"},
      {1e-323, "1e-323"},
      {2.225073858507201e-308, "2.225073858507201e-308"},
      {2.2250738585072014e-308, "2.2250738585072014e-308"},
      {-1.7976931348623157e308, "-1.7976931348623157e+308"},
      {1.7976931348623157e308, "1.7976931348623157e+308"},
      {2e23, "2e+23"},
      {9.5e-7, "9.5e-07"},
  };
  ASSERT_SAMPLES(text_double, samples);
}

/* The first two rows are the lists in OpenMetrics 1.0, "Considerations: Canonical Numbers". */
static void bounds_are_canonical(void **state) {
  (void)state;
  const struct sample samples[] = {
      {0, "0.0"},
      {0.001, "0.001"},
      {0.002, "0.002"},
      {0.01, "0.01"},
      {0.1, "0.1"},
      {0.9, "0.9"},
      {0.95, "0.95"},
      {0.99, "0.99"},
      {0.999, "0.999"},
      {1.0, "1.0"},
      {1.7, "1.7"},
      {10, "10.0"},
      {1e-10, "1e-10"},
      {1e-9, "1e-09"},
      {1e-5, "1e-05"},
      {1e-4, "0.0001"},
      {1e5, "100000.0"},
      {1e6, "1e+06"},
      {1e10, "1e+10"},
      {0.005, "0.005"},
      {-0.0, "-0.0"},
      {-5, "-5.0"},
      {2.5, "2.5"},
      {123456.7, "123456.7"},
      {999999, "999999.0"},
      {1234567, "1.234567e+06"},
      {1e100, "1e+100"},
      {as_double(0x7ff0000000000000), "+Inf"},
      {as_double(0xfff0000000000000), "-Inf"},
      {as_double(0x7ff8000000000000), "NaN"},
  };
  ASSERT_SAMPLES(text_bound, samples);
}

static void assert_reads_back(number_writer *writer, double v) {
  const char *text = number(writer, v);
  if (as_bits(strtod(text, NULL)) != as_bits(v)) fail_msg("%.17g became %s", v, text);
}

static void assert_both_read_back(double v) {
  assert_reads_back(text_double, v);
  assert_reads_back(text_bound, v);
}

static void boundaries_read_back(void **state) {
  (void)state;
  for (uint64_t exponent = 0; exponent < 0x7ff; exponent++) {
    for (uint64_t i = 0; i < 4; i++) {
      assert_both_read_back(as_double(exponent << 52 | i));
      assert_both_read_back(as_double(exponent << 52 | ((UINT64_C(1) << 52) - 1 - i)));
    }
  }
  char power[16];
  for (int exponent = -323; exponent <= 308; exponent++) {
    snprintf(power, sizeof power, "1e%d", exponent);
    uint64_t bits = as_bits(strtod(power, NULL));
    for (uint64_t i = 0; i < 7; i++) assert_both_read_back(as_double(bits + i - 3 * (bits > 3)));
  }
  for (uint64_t bits = 1; bits < 10000; bits++) assert_both_read_back(as_double(bits));
}

static double random_double(void) {
  uint64_t bits;
  do bits = random_bits();
  while ((bits >> 52 & 0x7ff) == 0x7ff);
  return as_double(bits);
}

static void random_doubles_read_back(void **state) {
  (void)state;
  for (int i = 0; i < RANDOM_DOUBLES; i++) assert_reads_back(text_double, random_double());
  for (int i = 0; i < RANDOM_DOUBLES / 10; i++) {
    assert_both_read_back((double)(int64_t)(random_bits() >> (random_bits() & 63)));
    assert_both_read_back((double)(random_bits() % 100000000) / 1000);
  }
}

/* Counts the digits from the first to the last that is not zero. */
static int significant_digits(const char *text) {
  int digits = 0, kept = 0;
  for (; *text && *text != 'e'; text++) {
    if (*text < '0' || *text > '9') continue;
    if (digits > 0 || *text != '0') digits++;
    if (*text != '0') kept = digits;
  }
  return kept;
}

static void random_doubles_are_shortest(void **state) {
  (void)state;
  char precise[64];
  for (int i = 0; i < SHORTEST_DOUBLES; i++) {
    double v = i % 2 ? random_double() : (double)(random_bits() % 1000000000) / 10000;
    if (v == 0) continue;
    int digits = 0;
    do snprintf(precise, sizeof precise, "%.*g", ++digits, v);
    while (strtod(precise, NULL) != v);
    const char *text = number(text_double, v);
    if (significant_digits(text) > digits) fail_msg("%s could be %s", text, precise);
  }
}

typedef size_t string_writer(char *out, const char *s, size_t n);

/* Input and output are heap blocks without a byte to spare. */
static void assert_string(string_writer *writer, size_t growth, const char *s, size_t n, const char *expected,
                          size_t length) {
  char *in = malloc(n + 1), *out = malloc(growth * n + 1);
  assert_non_null(in);
  assert_non_null(out);
  memcpy(in + 1, s, n);
  size_t written = writer(out + 1, in + 1, n);
  assert_int_equal(written, length);
  assert_memory_equal(out + 1, expected, length);
  free(in);
  free(out);
}

#define ASSERT_LABEL(in, expected) assert_string(text_label, 2, in, sizeof(in) - 1, expected, sizeof(expected) - 1)

static void labels_are_escaped(void **state) {
  (void)state;
  ASSERT_LABEL("", "");
  ASSERT_LABEL("GET", "GET");
  ASSERT_LABEL("/api/v1/users?sort=asc", "/api/v1/users?sort=asc");
  ASSERT_LABEL("\"", "\\\"");
  ASSERT_LABEL("\\\"\n", "\\\\\\\"\\n");
  ASSERT_LABEL("\\n", "\\\\n");
  ASSERT_LABEL("a\"} 1\nforged{x=\"1", "a\\\"} 1\\nforged{x=\\\"1");
  ASSERT_LABEL("\"\"\"\"\"\"\"\"\"", "\\\"\\\"\\\"\\\"\\\"\\\"\\\"\\\"\\\"");
  ASSERT_LABEL(
      "tab\tcr\rgr\xc3\xbc\xc3\x9f"
      "e#!]\x0b",
      "tab\tcr\rgr\xc3\xbc\xc3\x9f"
      "e#!]\x0b");
}

/* Every length up to five words, with each byte at each position, compared with a plain loop. */
static void labels_are_escaped_at_every_position(void **state) {
  (void)state;
  char in[40], expected[80];
  for (size_t n = 1; n <= sizeof in; n++) {
    for (size_t at = 0; at < n; at++) {
      for (int byte = 0; byte < 256; byte++) {
        memset(in, n % 2 ? '#' : '!', n);
        in[at] = (char)byte;
        if (at >= 3) in[at - 3] = '\\';
        size_t length = 0;
        for (size_t i = 0; i < n; i++) {
          if (in[i] == '\\' || in[i] == '"' || in[i] == '\n') expected[length++] = '\\';
          expected[length++] = in[i] == '\n' ? 'n' : in[i];
        }
        assert_string(text_label, 2, in, n, expected, length);
      }
    }
  }
}

#define R "\xef\xbf\xbd"
#define ASSERT_UTF8(in, expected) assert_string(text_utf8, 3, in, sizeof(in) - 1, expected, sizeof(expected) - 1)

static void valid_utf8_is_kept(void **state) {
  (void)state;
  ASSERT_UTF8("", "");
  ASSERT_UTF8("plain ASCII, longer than a word\n\x7f", "plain ASCII, longer than a word\n\x7f");
  ASSERT_UTF8("\xc2\x80 \xdf\xbf", "\xc2\x80 \xdf\xbf");
  ASSERT_UTF8("\xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf",
              "\xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf");
  ASSERT_UTF8("\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf", "\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf");
  ASSERT_UTF8(
      "Gr\xc3\xbc\xc3\x9f"
      "e \xe4\xb8\x96\xe7\x95\x8c \xf0\x9f\x98\x80!",
      "Gr\xc3\xbc\xc3\x9f"
      "e \xe4\xb8\x96\xe7\x95\x8c \xf0\x9f\x98\x80!");
}

static void invalid_utf8_is_replaced(void **state) {
  (void)state;
  ASSERT_UTF8("a\0b", "a" R "b");
  ASSERT_UTF8("\0\0\0\0\0\0\0\0\0", R R R R R R R R R);
  ASSERT_UTF8("\x80", R);
  ASSERT_UTF8("a\xbf\x80z", "a" R R "z");
  ASSERT_UTF8("\xff\xfe\xc0\xc1\xf5", R R R R R);
  ASSERT_UTF8("\xc3", R);
  ASSERT_UTF8("\xc3(", R "(");
  ASSERT_UTF8("\xe4\xb8", R);
  ASSERT_UTF8("\xe4\xb8|\xe4|", R "|" R "|");
  ASSERT_UTF8("\xf0\x9f\x98", R);
  ASSERT_UTF8("\xf0\x9f\x98\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80");
  ASSERT_UTF8("\xc0\xaf", R R);
  ASSERT_UTF8("\xe0\x80\xaf", R R R);
  ASSERT_UTF8("\xe0\x9f\xbf", R R R);
  ASSERT_UTF8("\xf0\x8f\xbf\xbf", R R R R);
  ASSERT_UTF8("\xed\xa0\x80", R R R);
  ASSERT_UTF8("\xed\xbf\xbf", R R R);
  ASSERT_UTF8("\xf4\x90\x80\x80", R R R R);
  ASSERT_UTF8("\xf5\x80\x80\x80", R R R R);
  /* The examples of the Unicode standard, section 3.9, tables 3-8 to 3-11. */
  ASSERT_UTF8("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", R R R R R R R R "A");
  ASSERT_UTF8("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", R R R R R R R R "A");
  ASSERT_UTF8("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", R R R R R "A" R R "B");
  ASSERT_UTF8("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", R R R R "A");
}

/* A repaired value must not change in a further repair: a restart would rename its series. */
static void repaired_utf8_is_stable(void **state) {
  (void)state;
  char in[64], once[192], twice[576];
  for (int i = 0; i < 200000; i++) {
    size_t n = random_bits() % (sizeof in + 1);
    for (size_t j = 0; j < n; j++) {
      uint64_t r = random_bits();
      in[j] = r % 3 ? (char)(r >> 8) : "\xe0\xed\xf0\xf4\x80\x9f\xa0\xbf"[r >> 8 & 7];
    }
    size_t length = text_utf8(once, in, n);
    assert_in_range(length, n ? 1 : 0, 3 * n);
    assert_null(memchr(once, 0, length));
    assert_int_equal(text_utf8(twice, once, length), length);
    assert_memory_equal(once, twice, length);
  }
}

/* The names of series with a cut value contain these hashes: a release that changes the hash renames all of them. */
static void hashes_never_change(void **state) {
  (void)state;
  char bytes[64];
  for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 37 + 200);
  const struct {
    size_t length;
    uint64_t hash;
  } known[] = {
      {0, 0xe4a7b53ccc48b859},  {1, 0xc52bb3c16a1ce915},  {3, 0xb26aa458a36e9367},  {4, 0xba1d42e85b1b204c},
      {8, 0xb4464e42607fcdcd},  {9, 0x3bbfa2f3549d7dda},  {16, 0x29b7c10892c0867a}, {17, 0x71d929a5feaed4f5},
      {33, 0xbb08ffbeddfa77c0}, {64, 0xd7309257aa3c3db3},
  };
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    assert_int_equal(text_hash(bytes, known[i].length), known[i].hash);
  }
}

/* Each bit of the input changes each bit of the hash about half the time, so a table may use any bits. */
static void hashes_mix_every_bit(void **state) {
  (void)state;
  enum { ROUNDS = 4000 };
  static const size_t lengths[] = {2, 3, 4, 7, 8, 9, 16, 17, 32, 40};
  char bytes[40];
  for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++) {
    size_t n = lengths[l];
    for (size_t bit = 0; bit < 8 * n; bit++) {
      int flips[64] = {0};
      for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < n; i++) bytes[i] = (char)(random_bits() >> 20);
        uint64_t before = text_hash(bytes, n);
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ (1 << bit % 8));
        uint64_t changed = before ^ text_hash(bytes, n);
        for (int i = 0; i < 64; i++) flips[i] += (int)(changed >> i & 1);
      }
      for (int i = 0; i < 64; i++) assert_in_range(flips[i], ROUNDS * 2 / 5, ROUNDS * 3 / 5);
    }
  }
}

static int compare_hashes(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static void hashes_of_similar_keys_differ(void **state) {
  (void)state;
  uint64_t *hashes = malloc(HASHES * sizeof *hashes);
  unsigned char *filled = calloc(HASHES, 1);
  assert_non_null(hashes);
  assert_non_null(filled);
  size_t buckets = 0;
  for (int i = 0; i < HASHES; i++) {
    char key[32];
    int n = snprintf(key, sizeof key, "/api/users/%d", i);
    hashes[i] = text_hash(key, (size_t)n);
    unsigned char *bucket = &filled[hashes[i] % HASHES];
    buckets += !*bucket;
    *bucket = 1;
  }
  qsort(hashes, HASHES, sizeof *hashes, compare_hashes);
  for (int i = 1; i < HASHES; i++) assert_true(hashes[i - 1] != hashes[i]);
  /* Random placement fills a share of 1 - 1/e if there are as many buckets as keys. */
  assert_in_range(buckets, HASHES * 0.631, HASHES * 0.633);
  free(hashes);
  free(filled);
}

static void hashes_tell_zeros_and_lengths_apart(void **state) {
  (void)state;
  static const char zeros[100];
  for (size_t i = 0; i <= sizeof zeros; i++) {
    for (size_t j = 0; j < i; j++) assert_true(text_hash(zeros, i) != text_hash(zeros, j));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(integers_are_exact),
      cmocka_unit_test(doubles_have_the_documented_layout),
      cmocka_unit_test(bounds_are_canonical),
      cmocka_unit_test(boundaries_read_back),
      cmocka_unit_test(random_doubles_read_back),
      cmocka_unit_test(random_doubles_are_shortest),
      cmocka_unit_test(labels_are_escaped),
      cmocka_unit_test(labels_are_escaped_at_every_position),
      cmocka_unit_test(valid_utf8_is_kept),
      cmocka_unit_test(invalid_utf8_is_replaced),
      cmocka_unit_test(repaired_utf8_is_stable),
      cmocka_unit_test(hashes_never_change),
      cmocka_unit_test(hashes_mix_every_bit),
      cmocka_unit_test(hashes_of_similar_keys_differ),
      cmocka_unit_test(hashes_tell_zeros_and_lengths_apart),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
