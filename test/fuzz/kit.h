/* What the fuzz targets of the core share: an input read piece by piece, a set of metrics, and everything a reader can
 * do with a segment. */
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

/* The pointer, which must not be NULL. */
#define must(pointer) kit_must((pointer), #pointer)
void *kit_must(void *pointer, const char *what);

/* What is left of an input; beyond its end come zeroes. */
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

/* One metric of each sort, in this order; NARROW takes few series, PLAIN and PLAIN_HISTOGRAM have no tags. */
enum { COUNT, GAUGE, TOGETHER, HISTOGRAM, NARROW, HIGHEST, PLAIN, PLAIN_HISTOGRAM, KINDS };
enum { NARROW_SERIES = 3 };

typedef struct kit {
  int metrics[KINDS];
} kit;

static inline uint32_t kit_kind(int sort) {
  if (sort == HISTOGRAM || sort == PLAIN_HISTOGRAM) return CHALK_HISTOGRAM;
  return sort == GAUGE || sort == TOGETHER || sort == HIGHEST ? CHALK_GAUGE : CHALK_COUNT;
}

kit kit_define(chalk_writer *w);
/* A handle, or NULL; `tag` says nothing where there are none. */
chalk_series *kit_series(chalk_writer *w, const kit *k, int sort, const char *tag);
void kit_record(chalk_writer *w, const kit *k, int sort, const char *tag, double v);
void kit_remove(chalk_writer *w, const kit *k, int sort, const char *tag);
void kit_commit(chalk_segment *g, chalk_cursor *c);
void kit_sweep(chalk_segment *g, double now, double idle);
/* Snapshots, texts, sketches, definitions, cursors. */
void kit_read(chalk_segment *g);
/* Gives the range of addresses back too. */
void kit_close(chalk_segment *g);

#endif
