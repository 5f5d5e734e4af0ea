#include "export/statsd_lines.h"

#include <stdlib.h>
#include <string.h>

#include "export/statsd_text.h"
#include "series/key.h"

enum { FIRST_CAPACITY = 4096, FIRST_ENDS = 64 };

void statsd_lines_clear(statsd_lines *lines) {
  lines->size = 0;
  lines->values = 0;
  lines->n = 0;
  lines->failed = false;
}

void statsd_lines_free(statsd_lines *lines) {
  free(lines->text);
  free(lines->ends);
}

char *statsd_lines_grow(statsd_lines *lines, size_t n) {
  size_t capacity = 2 * (lines->size + n);
  if (capacity < FIRST_CAPACITY) capacity = FIRST_CAPACITY;
  char *text = realloc(lines->text, capacity);
  if (!text) {
    lines->failed = true;
    return NULL;
  }
  lines->text = text;
  lines->capacity = capacity;
  return text + lines->size;
}

/* Copies n bytes. Most texts are so short that a call of memcpy would cost more than these moves. */
static inline char *append(char *o, const char *s, size_t n) {
  if (n > 16) {
    memcpy(o, s, n);
  } else if (n >= 8) {
    uint64_t first, last;
    memcpy(&first, s, 8), memcpy(&last, s + n - 8, 8);
    memcpy(o, &first, 8), memcpy(o + n - 8, &last, 8);
  } else if (n >= 4) {
    uint32_t first, last;
    memcpy(&first, s, 4), memcpy(&last, s + n - 4, 4);
    memcpy(o, &first, 4), memcpy(o + n - 4, &last, 4);
  } else if (n > 0) {
    char first = s[0], middle = s[n / 2], last = s[n - 1];
    o[0] = first, o[n / 2] = middle, o[n - 1] = last;
  }
  return o + n;
}

static inline char *append_measured(char *o, measured text) { return append(o, text.bytes, text.size); }

void statsd_pattern_make(statsd_pattern *p, const chalk_statsd_family *f) {
  p->family = f;
  p->name = measure(f->name), p->tags = measure(f->tags), p->tail = measure(f->tail);
  p->type = measure(f->type), p->timestamp = measure(f->timestamp), p->absent = measure(f->absent);
  p->line_most = p->name.size + p->tags.size + p->tail.size + p->type.size + p->timestamp.size;
  p->line_most += sizeof ":||@|#\n" + STATSD_RATE_MOST + STATSD_TEXT_PADDING;
  for (uint32_t i = 0; i < f->n_labels; i++) {
    p->labels[i] = measure(f->labels[i]);
    p->line_most += p->labels[i].size + 2 + STATSD_TEXT_GROWTH + p->absent.size;
  }
}

/* The tag values as further parts of the name. */
static char *put_tags_in_name(char *o, const statsd_frame *frame) {
  const chalk_statsd_family *f = frame->family;
  uint32_t at = 0, n;
  const char *value;
  for (uint32_t i = 0; i < f->n_labels && key_next(frame->key, frame->key_size, &at, &value, &n); i++) {
    *o++ = '.';
    o = n > 0 ? statsd_text_in_name(o, value, n, f->value_most[i]) : append_measured(o, frame->pattern->absent);
  }
  return o;
}

void statsd_lines_begin(statsd_lines *lines, const statsd_frame *frame, measured suffix) {
  char *o = statsd_lines_reserve(lines, frame->line_most + suffix.size + TEXT_NUMBER_MAX);
  if (!o) return;
  o = append_measured(o, frame->pattern->name);
  if (frame->family->tags_in_name) o = put_tags_in_name(o, frame);
  o = append_measured(o, suffix);
  *o++ = ':';
  lines->size = (size_t)(o - lines->text);
  lines->values++;
}

/* "|#" and all tags, or nothing. */
static char *put_tags(char *o, const statsd_frame *frame) {
  const statsd_pattern *p = frame->pattern;
  const chalk_statsd_family *f = frame->family;
  char *start = o;
  uint32_t at = 0, n;
  const char *value;
  *o++ = '|';
  if (p->tags.size > 0) {
    *o++ = '#';
    o = append_measured(o, p->tags);
  }
  for (uint32_t i = 0; i < f->n_labels && key_next(frame->key, frame->key_size, &at, &value, &n); i++) {
    if (n == 0) continue;
    *o++ = ',';
    o = append_measured(o, p->labels[i]);
    *o++ = ':';
    o = statsd_text_value(o, value, n, f->value_most[i]);
  }
  if (o - start == 1) return start;
  start[1] = '#'; /* without constant tags this byte is the comma of the first tag */
  return o;
}

static char *put_le(char *o, bool has_tags, measured le) {
  return append_measured(has_tags ? append(o, ",", 1) : append(o, "|#", 2), le);
}

static bool grow_ends(statsd_lines *lines) {
  uint32_t capacity = lines->ends_capacity ? 2 * lines->ends_capacity : FIRST_ENDS;
  statsd_end *ends = realloc(lines->ends, capacity * sizeof *ends);
  if (!ends) {
    lines->failed = true;
    return false;
  }
  lines->ends = ends;
  lines->ends_capacity = capacity;
  return true;
}

static inline void note_end(statsd_lines *lines) {
  if (lines->n < lines->ends_capacity || grow_ends(lines)) {
    lines->ends[lines->n++] = (statsd_end){lines->size, lines->values};
  }
}

void statsd_lines_end(statsd_lines *lines, statsd_frame *frame, measured type, const char *rate, const char *le,
                      bool timed) {
  if (le) statsd_lines_reserve(lines, frame->line_most + strlen(le) + sizeof "|#");
  if (lines->failed) return;
  char *o = lines->text + lines->size;
  *o++ = '|';
  o = append_measured(o, type);
  if (rate) o = append_measured(append(o, "|@", 2), measure(rate));
  if (!frame->family->tags_in_name) {
    char *start = o;
    o = frame->tags_size ? append(o, lines->text + frame->tags_at, frame->tags_size) : put_tags(o, frame);
    frame->tags_at = (size_t)(start - lines->text), frame->tags_size = (size_t)(o - start);
    if (le) o = put_le(o, frame->tags_size > 0, measure(le));
  }
  o = append_measured(o, frame->pattern->tail);
  if (timed) o = append_measured(o, frame->pattern->timestamp);
  *o++ = '\n';
  lines->size = (size_t)(o - lines->text);
  note_end(lines);
}

size_t statsd_lines_end_size(statsd_lines *lines, statsd_frame *frame, measured type, const char *rate) {
  size_t start = lines->size;
  if (!statsd_lines_reserve(lines, frame->line_most)) return 0;
  statsd_lines_end(lines, frame, type, rate, NULL, false);
  if (lines->failed) return 0;
  size_t size = lines->size - start;
  lines->size = start;
  lines->n--;
  frame->tags_size = 0;
  return size;
}
