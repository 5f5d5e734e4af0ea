/*
 * Sample lines of the exposition formats: name{labels} value. The names of samples and labels and the texts of `le`
 * bounds come from the caller. This file knows only the layout of a line, which Prometheus's text format and
 * OpenMetrics share:
 *
 *     sample{constant,label="tag value",...} value
 *     bucket{constant,label="tag value",...,le="0.5"} count      one line for each bound, then le="+Inf"
 *     sum{constant,label="tag value",...} value
 *     count{constant,label="tag value",...} count
 *
 * The most bytes that an entry can take are known before it is written: the number of its lines times a line's names
 * and twice the key, since each byte of a value may need an escape. So the free space is compared once an entry, and
 * the functions that write do not check it.
 */
#include <string.h>

#include "series/key.h"
#include "series/series_key.h"
#include "read/snapshot.h"
#include "base/measured.h"
#include "base/text.h"
#include "value/kind.h"

/* What is the same for all entries of a chalk_family. Made once in each call, because the family is the caller's. */
typedef struct pattern {
  measured sample, bucket, sum, count, constant;
  measured labels[CHALK_TAGS];
  measured le[CHALK_LES + 1]; /* the bounds to show; +Inf is the last */
  uint32_t n_labels, n_le;
  const uint32_t *le_index;
  size_t lines;     /* the most lines of an entry */
  size_t line_most; /* the most bytes of a line, without the key and the bound */
  size_t le_most;   /* the most bytes of a bound */
} pattern;

static size_t longest(const pattern *p) {
  size_t n = p->sample.size;
  if (n < p->bucket.size) n = p->bucket.size;
  if (n < p->sum.size) n = p->sum.size;
  return n < p->count.size ? p->count.size : n;
}

/* Takes the bounds up to the first one whose index the metric, which has `les` bounds, does not have. */
static void pattern_les(pattern *p, const chalk_family *f, uint32_t les) {
  uint32_t most = f->n_le < CHALK_LES ? f->n_le : CHALK_LES;
  p->n_le = 0;
  while (p->n_le < most && f->le_index[p->n_le] < les) p->n_le++;
  p->le_index = f->le_index;
  p->le_most = 4;
  for (uint32_t i = 0; i < p->n_le; i++) {
    p->le[i] = measure(f->le[i]);
    if (p->le_most < p->le[i].size) p->le_most = p->le[i].size;
  }
  p->le[p->n_le] = (measured){"+Inf", 4};
}

static void pattern_make(pattern *p, const chalk_family *f, uint32_t kind, uint32_t les) {
  enum { PUNCTUATION = 16, AROUND_LABEL = 4 };
  p->sample = measure(f->sample);
  p->bucket = measure(f->bucket);
  p->sum = measure(f->sum);
  p->count = measure(f->count);
  p->constant = measure(f->constant ? f->constant : "");
  p->line_most = longest(p) + p->constant.size + TEXT_NUMBER_MAX + PUNCTUATION;
  p->n_labels = f->n_labels < CHALK_TAGS ? f->n_labels : CHALK_TAGS;
  for (uint32_t i = 0; i < p->n_labels; i++) {
    p->labels[i] = measure(f->labels[i]);
    p->line_most += p->labels[i].size + AROUND_LABEL;
  }
  p->lines = 1;
  p->le_most = 0;
  if (!kind_has_histogram(kind)) return;
  pattern_les(p, f, les < CHALK_LES ? les : CHALK_LES);
  p->lines = p->n_le + 3;
}

/* The most bytes that an entry with a key of this size takes. */
static size_t most_bytes(const pattern *p, uint32_t key_size) {
  return p->lines * (p->line_most + p->le_most + 2 * key_size);
}

static inline char *put(char *o, const char *s, size_t n) {
  memcpy(o, s, n);
  return o + n;
}

static inline char *put_measured(char *o, measured text) { return put(o, text.bytes, text.size); }

/* The labels of a series, without braces: the constant ones, then its tags without absent ones. */
static char *put_labels(char *o, const pattern *p, const char *key, uint32_t size) {
  const char *start = o, *value;
  uint32_t at = 0, n;
  o = put_measured(o, p->constant);
  for (uint32_t i = 0; i < p->n_labels && key_next(key, size, &at, &value, &n); i++) {
    if (n == 0) continue;
    if (o > start) *o++ = ',';
    o = put_measured(o, p->labels[i]);
    o = put(o, "=\"", 2);
    o += text_label(o, value, n);
    *o++ = '"';
  }
  return o;
}

static char *put_sample(char *o, const pattern *p, const chalk_entry *entry, uint32_t kind, const char *key,
                        uint32_t size) {
  o = put_measured(o, p->sample);
  char *brace = o;
  o = put_labels(o + 1, p, key, size);
  if (o == brace + 1) {
    o = brace;
  } else {
    *brace = '{';
    *o++ = '}';
  }
  *o++ = ' ';
  o += kind_has_total(kind) ? text_uint(o, (uint64_t)entry->total) : text_double(o, entry->value);
  *o++ = '\n';
  return o;
}

/* name{labels} and the blank after it. */
static char *put_head(char *o, measured name, const char *labels, size_t size) {
  o = put_measured(o, name);
  if (size > 0) {
    *o++ = '{';
    o = put(o, labels, size);
    *o++ = '}';
  }
  *o++ = ' ';
  return o;
}

/* All lines of a histogram. Further bucket lines copy the beginning of the first one. */
static char *put_histogram(char *o, const pattern *p, const histogram_sum *sum, const char *key, uint32_t size) {
  const char *first = o;
  o = put_measured(o, p->bucket);
  *o++ = '{';
  const char *labels = o;
  o = put_labels(o, p, key, size);
  size_t labels_size = (size_t)(o - labels);
  if (labels_size > 0) *o++ = ',';
  o = put(o, "le=\"", 4);
  size_t common = (size_t)(o - first);
  for (uint32_t i = 0; i <= p->n_le; i++) {
    if (i > 0) o = put(o, first, common);
    o = put_measured(o, p->le[i]);
    o = put(o, "\"} ", 3);
    o += text_uint(o, sum->le[i < p->n_le ? p->le_index[i] : sum->les]);
    *o++ = '\n';
  }
  if (!p->sum.bytes) return o;
  o = put_head(o, p->sum, labels, labels_size);
  o += text_double(o, sum->sum);
  *o++ = '\n';
  o = put_head(o, p->count, labels, labels_size);
  o += text_uint(o, sum->le[sum->les]);
  *o++ = '\n';
  return o;
}

size_t chalk_snapshot_render(chalk_snapshot *s, const chalk_family *f, uint32_t *next, uint32_t last, char *out,
                             size_t size) {
  if (last > s->n) last = s->n;
  if (*next >= last) return 0;
  pattern p;
  const metric *m = &s->segment->metrics[s->entries[*next].metric];
  uint32_t kind = m->kind;
  bool has_histogram = kind_has_histogram(kind);
  /* The metric's number has gone to a metric of another kind, for which the family has no name. */
  if (!(has_histogram ? f->bucket : f->sample)) {
    *next = last;
    return 0;
  }
  pattern_make(&p, f, kind, m->les);
  char *o = out, *end = out + size;
  uint64_t key_words[SERIES_KEY_WORDS];
  const char *key = (const char *)key_words;
  for (; *next < last; (*next)++) {
    const chalk_entry *entry = &s->entries[*next];
    uint32_t key_size = snapshot_key(s, entry, key_words);
    if (key_size == NONE) continue;
    if ((size_t)(end - o) < most_bytes(&p, key_size)) break;
    histogram_sum sum;
    if (has_histogram && !snapshot_sum(s, entry, &sum)) continue;
    o = has_histogram ? put_histogram(o, &p, &sum, key, key_size) : put_sample(o, &p, entry, kind, key, key_size);
  }
  return (size_t)(o - out);
}

size_t chalk_text_double(char *out, double v) { return text_double(out, v); }
size_t chalk_text_bound(char *out, double v) { return text_bound(out, v); }
