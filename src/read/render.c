/*
 * Sample lines of the exposition formats: name{labels} value. Names, labels' names and `le` texts come from the
 * caller; this file only knows the shape of a line, which Prometheus's and OpenMetrics' texts share.
 *
 * What an entry can take at most is known before it is written: so many lines, in each the names, and its key twice
 * over for the escapes. It is looked at once an entry; all that writes below it does so without looking.
 */
#include <string.h>

#include "series/key.h"
#include "read/snapshot.h"
#include "base/text.h"
#include "value/kind.h"

typedef struct piece {
  const char *at;
  size_t n;
} piece;

/* A chalk_family measured: what is the same for each of its entries. */
typedef struct plan {
  piece sample, bucket, sum, count, constant;
  piece labels[CHALK_TAGS];
  piece le[CHALK_LES + 1]; /* with what closes the line's labels; the last is +Inf */
  uint32_t n_labels, n_le;
  const uint32_t *le_index;
  size_t line;  /* most bytes of a line, its key and `le` left out */
  size_t lines; /* most lines of an entry */
  size_t le_most;
} plan;

static piece piece_of(const char *s) { return (piece){s, s ? strlen(s) : 0}; }

static size_t longest(const plan *p) {
  size_t n = p->sample.n;
  if (n < p->bucket.n) n = p->bucket.n;
  if (n < p->sum.n) n = p->sum.n;
  return n < p->count.n ? p->count.n : n;
}

/* Up to the first one that is none of the metric's own. */
static void plan_les(plan *p, const chalk_family *f, uint32_t les) {
  uint32_t most = f->n_le < CHALK_LES ? f->n_le : CHALK_LES;
  p->n_le = 0;
  while (p->n_le < most && f->le_index[p->n_le] < les) p->n_le++;
  p->le_index = f->le_index;
  p->le_most = 4;
  for (uint32_t i = 0; i < p->n_le; i++) {
    p->le[i] = piece_of(f->le[i]);
    if (p->le_most < p->le[i].n) p->le_most = p->le[i].n;
  }
  p->le[p->n_le] = (piece){"+Inf", 4};
}

static void plan_make(plan *p, const chalk_family *f, uint32_t kind, uint32_t les) {
  enum { PUNCTUATION = 16, AROUND_LABEL = 4 };
  p->sample = piece_of(f->sample);
  p->bucket = piece_of(f->bucket);
  p->sum = piece_of(f->sum);
  p->count = piece_of(f->count);
  p->constant = piece_of(f->constant ? f->constant : "");
  p->line = longest(p) + p->constant.n + TEXT_NUMBER_MAX + PUNCTUATION;
  p->n_labels = f->n_labels < CHALK_TAGS ? f->n_labels : CHALK_TAGS;
  for (uint32_t i = 0; i < p->n_labels; i++) {
    p->labels[i] = piece_of(f->labels[i]);
    p->line += p->labels[i].n + AROUND_LABEL;
  }
  p->lines = 1;
  p->le_most = 0;
  if (!kind_has_histogram(kind)) return;
  plan_les(p, f, les < CHALK_LES ? les : CHALK_LES);
  p->lines = p->n_le + 3;
}

static size_t most_bytes(const plan *p, uint32_t key_size) { return p->lines * (p->line + p->le_most + 2 * key_size); }

static inline char *put(char *o, const char *s, size_t n) {
  memcpy(o, s, n);
  return o + n;
}

static inline char *put_piece(char *o, piece p) { return put(o, p.at, p.n); }

/* The labels of a series, without braces: constant ones, then its tags; absent tags are left out. */
static char *put_labels(char *o, const plan *p, const char *key, uint32_t size) {
  const char *start = o, *value;
  uint32_t at = 0, n;
  o = put_piece(o, p->constant);
  for (uint32_t i = 0; i < p->n_labels && key_next(key, size, &at, &value, &n); i++) {
    if (n == 0) continue;
    if (o > start) *o++ = ',';
    o = put_piece(o, p->labels[i]);
    o = put(o, "=\"", 2);
    o += text_label(o, value, n);
    *o++ = '"';
  }
  return o;
}

static char *put_sample(char *o, const plan *p, const chalk_entry *e, uint32_t kind, const char *key, uint32_t size) {
  o = put_piece(o, p->sample);
  char *brace = o;
  o = put_labels(o + 1, p, key, size);
  if (o == brace + 1) {
    o = brace;
  } else {
    *brace = '{';
    *o++ = '}';
  }
  *o++ = ' ';
  o += kind_has_total(kind) ? text_uint(o, (uint64_t)e->total) : text_double(o, e->value);
  *o++ = '\n';
  return o;
}

/* name{labels} with the blank behind. */
static char *put_head(char *o, piece name, const char *labels, size_t size) {
  o = put_piece(o, name);
  if (size > 0) {
    *o++ = '{';
    o = put(o, labels, size);
    *o++ = '}';
  }
  *o++ = ' ';
  return o;
}

/* The first line is composed, the others copy what they have in common with it. */
static char *put_histogram(char *o, const plan *p, const histogram_sum *sum, const char *key, uint32_t size) {
  const char *first = o;
  o = put_piece(o, p->bucket);
  *o++ = '{';
  const char *labels = o;
  o = put_labels(o, p, key, size);
  size_t n_labels = (size_t)(o - labels);
  if (n_labels > 0) *o++ = ',';
  o = put(o, "le=\"", 4);
  size_t common = (size_t)(o - first);
  for (uint32_t i = 0; i <= p->n_le; i++) {
    if (i > 0) o = put(o, first, common);
    o = put_piece(o, p->le[i]);
    o = put(o, "\"} ", 3);
    o += text_uint(o, sum->le[i < p->n_le ? p->le_index[i] : sum->les]);
    *o++ = '\n';
  }
  if (!p->sum.at) return o;
  o = put_head(o, p->sum, labels, n_labels);
  o += text_double(o, sum->sum);
  *o++ = '\n';
  o = put_head(o, p->count, labels, n_labels);
  o += text_uint(o, sum->le[sum->les]);
  *o++ = '\n';
  return o;
}

size_t chalk_snapshot_render(chalk_snapshot *s, const chalk_family *f, uint32_t *next, uint32_t last, char *out,
                             size_t size) {
  if (last > s->n) last = s->n;
  if (*next >= last) return 0;
  plan p;
  const metric *m = &s->segment->metrics[s->entries[*next].metric];
  uint32_t kind = m->kind;
  bool has_histogram = kind_has_histogram(kind);
  /* The number went to another metric. */
  if (!(has_histogram ? f->bucket : f->sample)) {
    *next = last;
    return 0;
  }
  plan_make(&p, f, kind, m->les);
  char *o = out, *end = out + size;
  uint64_t key_words[(KEY_MOST + 7) / 8];
  const char *key = (const char *)key_words;
  for (; *next < last; (*next)++) {
    const chalk_entry *e = &s->entries[*next];
    uint32_t key_size = snapshot_key(s, e, key_words);
    if (key_size == NONE) continue;
    if ((size_t)(end - o) < most_bytes(&p, key_size)) break;
    histogram_sum sum;
    if (has_histogram && !snapshot_sum(s, e, &sum)) continue;
    o = has_histogram ? put_histogram(o, &p, &sum, key, key_size) : put_sample(o, &p, e, kind, key, key_size);
  }
  return (size_t)(o - out);
}

size_t chalk_text_double(char *out, double v) { return text_double(out, v); }
size_t chalk_text_bound(char *out, double v) { return text_bound(out, v); }
