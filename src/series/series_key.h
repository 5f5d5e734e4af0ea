/* Reading a series' key without a lock: it is copied, then the series is asked whether it still was that one. */
#ifndef SERIES_KEY_H
#define SERIES_KEY_H

#include "series/key.h"

enum { SERIES_KEY_WORDS = (KEY_MOST + 7) / 8 };

/* The key of a metric's series, to `out`; its size, NONE: it is not there any more. */
uint32_t series_key_read(const chalk_segment *g, uint32_t metric, uint32_t id, uint32_t generation, uint64_t *out);

#endif
