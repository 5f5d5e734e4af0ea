/*
 * Reading a series' key without a lock. The reader copies the key, then looks whether the series' generation has moved:
 * if it has, the series was reclaimed meanwhile, and the copy may be of another one.
 */
#ifndef SERIES_KEY_H
#define SERIES_KEY_H

#include "series/key.h"

enum { SERIES_KEY_WORDS = (KEY_MOST + 7) / 8 };

/*
 * Copies the key of series `id` to `out`, which has space for SERIES_KEY_WORDS words, and returns the key's size in
 * bytes. NONE: the series of that generation has gone.
 */
uint32_t series_key_read(const chalk_segment *g, uint32_t metric, uint32_t id, uint32_t generation, uint64_t *out);

#endif
