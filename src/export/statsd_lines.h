/*
 * The StatsD lines of one series, as a text that is made before it is put into packets:
 *
 *     name:value:value|type|@rate|#key:value,...|c:ci-12|T1700000000\n
 *
 * A line begins with statsd_lines_begin, has at least one value, and ends with statsd_lines_end. Each end is noted with
 * the number of values up to it, so packing a text never reads it again.
 *
 * What is the same for all lines of a metric, a *pattern*, is measured once a metric; what is the same for all lines of
 * a series, a *frame*, once a series: the tags of the first line are copied to the next ones. Space is compared only
 * when a line begins or gets a further value, which reserves enough for the line's end too.
 *
 * Only this file and statsd_text.c know the bytes of the format. All names and limits are those of the caller's family.
 */
#ifndef STATSD_LINES_H
#define STATSD_LINES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/measured.h"
#include "base/text.h"
#include "chalk.h"

enum { STATSD_RATE_MOST = 24 }; /* bytes of a sample rate's text */

/* Where a line ends, or several lines that have to be in one packet. */
typedef struct statsd_end {
  size_t at;       /* in the text */
  uint64_t values; /* in the text up to there */
} statsd_end;

/* All zero is an empty text. */
typedef struct statsd_lines {
  char *text;
  size_t size, capacity;
  statsd_end *ends;
  uint32_t n, ends_capacity; /* of `ends` */
  uint64_t values;           /* in the text */
  bool failed;               /* out of memory: the text is of no use */
} statsd_lines;

/* The texts of a family, measured. */
typedef struct statsd_pattern {
  const chalk_statsd_family *family;
  measured name, tags, tail, type, timestamp, absent, labels[CHALK_TAGS];
  size_t line_most; /* the most bytes of a line with an empty key, without what only some lines have */
} statsd_pattern;

/* What is the same in all lines of a series. */
typedef struct statsd_frame {
  const statsd_pattern *pattern;
  const chalk_statsd_family *family;
  const char *key; /* STATSD_TEXT_PADDING bytes after it can be read */
  uint32_t key_size;
  size_t line_most;
  size_t tags_at, tags_size; /* where the tags are in the text; their size is 0 until a line has ended */
} statsd_frame;

/* The types of counts and gauges, which the format defines; the type of a histogram's values is its family's. */
static const measured statsd_count = {"c", 1}, statsd_gauge = {"g", 1};
static const measured statsd_no_suffix = {"", 0};

/* Whether a family's numbers are in the ranges that chalk_statsd_family states. All other code relies on them. */
static inline bool statsd_family_fits(const chalk_statsd_family *f) {
  bool fits = f->n_labels <= CHALK_TAGS && f->n_le <= CHALK_LES + 1 && f->mode <= CHALK_STATSD_RAW;
  for (uint32_t i = 0; fits && i < f->n_le; i++) fits = f->le_index[i] <= CHALK_LES;
  return fits && (f->mode != CHALK_STATSD_VALUES || (f->max_weight >= 1 && f->max_weight <= CHALK_STATSD_WEIGHT));
}

void statsd_pattern_make(statsd_pattern *p, const chalk_statsd_family *family);
static inline statsd_frame statsd_frame_of(const statsd_pattern *p, const void *key, uint32_t key_size) {
  return (statsd_frame){
      .pattern = p, .family = p->family, .key = key, .key_size = key_size, .line_most = p->line_most + key_size};
}

/* Empties the text. It keeps its memory. */
void statsd_lines_clear(statsd_lines *lines);
void statsd_lines_free(statsd_lines *lines);

/* Makes the text's memory larger, by at least n bytes. Returns the same as statsd_lines_reserve, which calls it. */
char *statsd_lines_grow(statsd_lines *lines, size_t n);
/* Returns the text's end, after which n bytes can be written. NULL: out of memory, and `failed` is set. */
static inline char *statsd_lines_reserve(statsd_lines *lines, size_t n) {
  return lines->size + n > lines->capacity ? statsd_lines_grow(lines, n) : lines->text + lines->size;
}

/* A line's name, up to its first value, for which there is space. */
void statsd_lines_begin(statsd_lines *lines, const statsd_frame *frame, measured suffix);
/* A line's first value. */
static inline void statsd_lines_number(statsd_lines *lines, double v) {
  if (!lines->failed) lines->size += text_double(lines->text + lines->size, v);
}
static inline void statsd_lines_whole(statsd_lines *lines, int64_t v) {
  if (!lines->failed) lines->size += text_int(lines->text + lines->size, v);
}
/* A further value. Inline, because a histogram's line has very many. */
static inline void statsd_lines_further(statsd_lines *lines, const statsd_frame *frame, double v) {
  char *o = statsd_lines_reserve(lines, 1 + TEXT_NUMBER_MAX + frame->line_most);
  if (!o) return;
  *o = ':';
  lines->size++;
  lines->values++;
  statsd_lines_number(lines, v);
}
/*
 * All that follows a line's values. `rate` is a sample rate and `le` the tag of a bound; NULL: the line has none.
 * `timed` lines have the family's timestamp.
 */
void statsd_lines_end(statsd_lines *lines, statsd_frame *frame, measured type, const char *rate, const char *le,
                      bool timed);
/* Makes the last line share a packet with the next one. */
static inline void statsd_lines_join(statsd_lines *lines) { lines->n--; }
/* How many bytes statsd_lines_end would add. 0: out of memory. */
size_t statsd_lines_end_size(statsd_lines *lines, statsd_frame *frame, measured type, const char *rate);

#endif
