/*
 * Numbers, labels and tag values as text. No function here allocates, depends on the locale or fails. Each writes to
 * `out`, adds no NUL and returns the length of the text in bytes. The comment of each function says how many bytes
 * `out` must have; the bytes behind the text may be overwritten up to there. Input and output do not overlap.
 */

#ifndef CHALK_TEXT_H
#define CHALK_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* The bytes that `out` must have for any number. */
#define TEXT_NUMBER_MAX 32

/* Decimal integers: 0, 42, -7. `out` has TEXT_NUMBER_MAX bytes. */
size_t text_uint(char *out, uint64_t v);
size_t text_int(char *out, int64_t v);

/*
 * The shortest decimal that reads back to the same double, and the nearest one if there are several: 42, 0.1, 1.5e-07.
 * Numbers below 1e-04 and from 1e+21 on have an exponent. Whole numbers below 1e+21 are padded with zeros, so beyond
 * 2^53 their digits need not be those of the exact value. NaN, +Inf and -Inf are written like this; negative zero is
 * -0. `out` has TEXT_NUMBER_MAX bytes.
 */
size_t text_double(char *out, double v);

/*
 * The same number in the form that OpenMetrics 1.0 requires for the bound of a bucket (section "Considerations:
 * Canonical Numbers"): 1.0, 0.005, 100000.0, 1e+06, 1.234567e+06, +Inf. `out` has TEXT_NUMBER_MAX bytes.
 */
size_t text_bound(char *out, double v);

/* A label value of n bytes, in which \, " and newline are escaped as \\, \" and \n. `out` has 2 * n bytes. */
size_t text_label(char *out, const char *s, size_t n);

/*
 * Valid UTF-8 without NUL from any n bytes: each NUL and each maximal subpart of an ill-formed sequence becomes U+FFFD,
 * everything else is copied. `out` has 3 * n bytes.
 */
size_t text_utf8(char *out, const char *s, size_t n);

/*
 * A hash of n bytes. Every bit of the result is equally well mixed, so a table may use any of them. The result is the
 * same on every machine and in every version, because tag values that were cut carry it in their names. The hash has no
 * key, so it protects no secret.
 */
uint64_t text_hash(const void *s, size_t n);

#endif
