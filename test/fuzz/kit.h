/*
 * What the fuzz targets of the core share: reading an input number by number, a set of metrics, and everything that a
 * reader can do with a segment.
 */
#ifndef FUZZ_KIT_H
#define FUZZ_KIT_H

#include <stdio.h>
#include <stdlib.h>

#include "shm/segment.h"

#define check(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                                       \
    }                                                                                \
  } while (0)

/* The pointer itself. The target fails if it is NULL. */
#define must(pointer) kit_must((pointer), #pointer)
void *kit_must(void *pointer, const char *what);

/* The rest of an input. Beyond its end it reads as zeros. */
typedef struct input {
  const uint8_t *at;
  size_t n;
} input;

static inline uint32_t take8(input *in) { return in->n ? (in->n--, *in->at++) : 0; }
static inline uint32_t take16(input *in) {
  uint32_t low = take8(in);
  return low | take8(in) << 8;
}
static inline uint64_t take64(input *in) {
  uint64_t v = 0;
  for (int i = 0; i < 8; i++) v |= (uint64_t)take8(in) << (8 * i);
  return v;
}

/* The sorts of metrics, one metric of each. NARROW has few series. PLAIN and PLAIN_HISTOGRAM have no tags. */
enum { COUNT, GAUGE, TOGETHER, HISTOGRAM, NARROW, HIGHEST, PLAIN, PLAIN_HISTOGRAM, KINDS };
enum { NARROW_SERIES = 3 };

typedef struct kit {
  int metrics[KINDS];
} kit;

static inline uint32_t kit_kind(int sort) {
  if (sort == HISTOGRAM || sort == PLAIN_HISTOGRAM) return CHALK_HISTOGRAM;
  return sort == GAUGE || sort == TOGETHER || sort == HIGHEST ? CHALK_GAUGE : CHALK_COUNT;
}

/* Defines all metrics. */
kit kit_define(chalk_writer *w);
/* A new handle. `tag` has no effect on metrics without tags. NULL: there is no memory, or no such metric. */
chalk_series *kit_series(chalk_writer *w, const kit *k, int sort, const char *tag);
void kit_record(chalk_writer *w, const kit *k, int sort, const char *tag, double v);
void kit_remove(chalk_writer *w, const kit *k, int sort, const char *tag);
void kit_commit(chalk_segment *g, chalk_cursor *c);
void kit_sweep(chalk_segment *g, double now, double idle);
/* Reads everything: definitions, snapshots, rendered lines, sketches, a cursor. */
void kit_read(chalk_segment *g);
/* Closes the segment and unmaps its addresses. */
void kit_close(chalk_segment *g);

#endif
