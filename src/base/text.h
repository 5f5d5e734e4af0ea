/* Text of numbers, labels and tag values, as fast as the exposition needs it. Nothing here
   allocates, depends on the locale or fails. All write to `out`, add no NUL and return the length;
   the room that out must have is stated with each, and bytes of it behind the text may have been
   written. Input and output must not overlap. */

#ifndef CHALK_TEXT_H
#define CHALK_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* Room for any number. */
#define TEXT_NUMBER_MAX 32

/* Decimal: 0, 42, -7. Room for these and the doubles: TEXT_NUMBER_MAX. */
size_t text_uint(char *out, uint64_t v);
size_t text_int(char *out, int64_t v);

/* The shortest decimal that reads back to the same double, and of those the nearest: 42, 0.1,
   1.5e-07. An exponent is written below 1e-04 and from 1e+21 on; whole numbers below that are
   filled up with zeros, so beyond 2^53 they need not be exact. Else NaN, +Inf, -Inf; negative zero
   is -0. */
size_t text_double(char *out, double v);

/* The same number as OpenMetrics 1.0 wants the bound of a bucket (section "Considerations:
   Canonical Numbers"): 1.0, 0.005, 100000.0, 1e+06, 1.234567e+06, +Inf. */
size_t text_bound(char *out, double v);

/* A label value with \, " and newline escaped as \\, \" and \n. Room: 2 * n bytes. */
size_t text_label(char *out, const char *s, size_t n);

/* Valid UTF-8 without NUL: whatever is not, each maximal subpart of an ill-formed sequence and each
   NUL, becomes U+FFFD. Valid text is copied. Room: 3 * n bytes. */
size_t text_utf8(char *out, const char *s, size_t n);

/* A well mixed hash of n bytes: any of its bits may be used. Same on every machine and in every
   version, because cut tag values carry it in their names. Not for secrets: it has no key. */
uint64_t text_hash(const void *s, size_t n);

#endif
