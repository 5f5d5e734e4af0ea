#!/usr/bin/env python3
"""Writes src/base/pow10.h, the powers of ten that src/base/text.c scales doubles with.

    python3 tools/pow10.py > src/base/pow10.h

Entry e is the smallest 128-bit integer g with g * 2^(floor(log2(10^e)) - 127) >= 10^e: the leading
128 bits of the power, rounded up, with the highest bit always set. The range of exponents is the one
that the shortest decimal of any double needs (R. Giulietti, "The Schubfach way to render doubles",
sections 8 and 9). Before the table is written, the three integer formulas that the C code uses for
the logarithms are checked over their whole range.
"""

from fractions import Fraction

Q_MIN, Q_MAX = -1074, 971  # a double is c * 2^q with c below 2^53
POW10_MIN, POW10_MAX = -292, 324


def floor_log(base, x):
    """The largest integer n with base^n <= x, exactly."""
    n = 0
    while Fraction(base) ** (n + 1) <= x:
        n += 1
    while Fraction(base) ** n > x:
        n -= 1
    return n


def check_logarithms():
    exponents = set()
    for q in range(Q_MIN, Q_MAX + 1):
        k = (q * 1262611) >> 22
        narrow = (q * 1262611 - 524031) >> 22
        power, three_quarters = Fraction(2) ** q, Fraction(2) ** q * Fraction(3, 4)
        assert Fraction(10) ** k <= power < Fraction(10) ** (k + 1), q
        assert Fraction(10) ** narrow <= three_quarters < Fraction(10) ** (narrow + 1), q
        exponents.update((-k, -narrow))
        for e in (k, narrow):
            assert 1 <= q + ((-e * 1741647) >> 19) + 1 <= 4, q
    assert (min(exponents), max(exponents)) == (POW10_MIN, POW10_MAX)
    for e in range(POW10_MIN, POW10_MAX + 1):
        log2 = (e * 1741647) >> 19
        assert Fraction(2) ** log2 <= Fraction(10) ** e < Fraction(2) ** (log2 + 1), e


def entry(e):
    scaled = Fraction(10) ** e / Fraction(2) ** (floor_log(2, Fraction(10) ** e) - 127)
    g = -(-scaled.numerator // scaled.denominator)
    assert 1 << 127 <= g < 1 << 128
    return "{0x%016x, 0x%016x}" % (g >> 64, g & (1 << 64) - 1)


def main():
    check_logarithms()
    entries = [entry(e) for e in range(POW10_MIN, POW10_MAX + 1)]
    print(f"""\
/*
 * Powers of ten, 10^{POW10_MIN} to 10^{POW10_MAX}, as 128-bit integers: the leading 128 bits of each, rounded up. The highest bit is
 * always set. This file is generated, do not edit it: python3 tools/pow10.py > src/base/pow10.h
 */

#ifndef CHALK_POW10_H
#define CHALK_POW10_H

#include <stdint.h>

#define POW10_MIN ({POW10_MIN})
#define POW10_MAX {POW10_MAX}

// clang-format off
/* pow10_table[e - POW10_MIN] is 10^e: upper half, lower half. */
static const uint64_t pow10_table[POW10_MAX - POW10_MIN + 1][2] = {{""")
    for i in range(0, len(entries), 2):
        print("  " + ", ".join(entries[i : i + 2]) + ",")
    print("};\n// clang-format on\n\n#endif")


if __name__ == "__main__":
    main()
