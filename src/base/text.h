/*
 * Text of numbers, labels and tag values. No function here allocates, depends on the locale or fails. Each writes to
 * `out`, adds no NUL and returns the length in bytes. The room that `out` must have is stated with each function; bytes
 * of it behind the text may be overwritten. Input and output must not overlap.
 */

#ifndef CHALK_TEXT_H
#define CHALK_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of room that any number's text needs at most. */
#define TEXT_NUMBER_MAX 32

/* Decimal: 0, 42, -7. Integers and doubles need TEXT_NUMBER_MAX bytes of room. */
size_t text_uint(char *out, uint64_t v);
size_t text_int(char *out, int64_t v);

/*
 * The shortest decimal that reads back to the same double, and of those the nearest: 42, 0.1, 1.5e-07. An exponent is
 * written below 1e-04 and from 1e+21 on; whole numbers below that are filled up with zeros, so they need not be exact
 * beyond 2^53. NaN, +Inf and -Inf are written so, negative zero is -0.
 */
size_t text_double(char *out, double v);

/*
 * The same number as OpenMetrics 1.0 wants the bound of a bucket (section "Considerations: Canonical Numbers"): 1.0,
 * 0.005, 100000.0, 1e+06, 1.234567e+06, +Inf.
 */
size_t text_bound(char *out, double v);

/* A label value of n bytes, with \, " and newline escaped as \\, \" and \n. It needs 2 * n bytes of room. */
size_t text_label(char *out, const char *s, size_t n);

/*
 * Valid UTF-8 without NUL: each maximal subpart of an ill-formed sequence and each NUL becomes U+FFFD, and all else is
 * copied. It needs 3 * n bytes of room.
 */
size_t text_utf8(char *out, const char *s, size_t n);

/*
 * A well mixed hash of n bytes: any of its bits may be used. It is the same on every machine and in every version,
 * because cut tag values carry it in their names. It has no key, so it protects no secret.
 */
uint64_t text_hash(const void *s, size_t n);

#endif
