/*
 * Reading a series' key without a lock: the key is copied, then the generation says whether the series was still there.
 */
#ifndef SERIES_KEY_H
#define SERIES_KEY_H

#include "series/key.h"

enum { SERIES_KEY_WORDS = (KEY_MOST + 7) / 8 };

/* Copies the key of a series to `out`, room for SERIES_KEY_WORDS, and returns its size in bytes. NONE: it has gone. */
uint32_t series_key_read(const chalk_segment *g, uint32_t metric, uint32_t id, uint32_t generation, uint64_t *out);

#endif
