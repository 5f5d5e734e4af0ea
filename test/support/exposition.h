/* For C tests that look at an exposition as a scraper does: rendering all of it, and a strict parser. */
#ifndef TEST_EXPOSITION_H
#define TEST_EXPOSITION_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chalk.h"

/* How one metric is shown. Its pointers lead into the struct itself, so it is not copied. */
typedef struct exposition_family {
  chalk_family f;
  char name[4][64], le_text[CHALK_LES][32];
  const char *le[CHALK_LES];
  uint32_t le_index[CHALK_LES];
} exposition_family;

static inline void exposition_describe(chalk_segment *g, uint32_t metric, exposition_family *out) {
  static const char *const labels[] = {"a", "b", "c"}, *const suffix[] = {"", "_bucket", "_sum", "_count"};
  char blob[48];
  size_t blob_size = chalk_metric_blob(g, metric, blob, sizeof blob);
  if (blob_size > sizeof blob) blob_size = 0;
  double bounds[CHALK_LES];
  uint32_t n_le = chalk_metric_les(g, metric, bounds);
  for (uint32_t i = 0; i < n_le; i++) {
    out->le_text[i][chalk_text_bound(out->le_text[i], bounds[i])] = 0;
    out->le[i] = out->le_text[i], out->le_index[i] = i;
  }
  for (int i = 0; i < 4; i++) {
    snprintf(out->name[i], sizeof out->name[i], "%.*s%s", (int)blob_size, blob, suffix[i]);
  }
  out->f = (chalk_family){.sample = out->name[0],
                          .bucket = out->name[1],
                          .sum = out->name[2],
                          .count = out->name[3],
                          .labels = labels,
                          .n_labels = 3,
                          .le = out->le,
                          .le_index = out->le_index,
                          .n_le = n_le};
}

/* Only the name tells which kind a metric has here. */
static inline const char *exposition_type(const char *name) {
  return strstr(name, "latency") ? "histogram" : strstr(name, "load") ? "gauge" : "counter";
}

/*
 * Renders all of a segment in Prometheus's text format. The name of each metric is its blob, and its tags are a, b, c.
 * The caller frees the text. NULL: out of memory.
 */
static inline char *exposition_render(chalk_segment *g, size_t *size) {
  enum { LINE = 1 << 16 };
  chalk_snapshot *s = chalk_snapshot_take(g, 0, NULL);
  if (!s) return NULL;
  uint32_t n, next = 0;
  const chalk_entry *entries = chalk_snapshot_entries(s, &n);
  size_t capacity = LINE, used = 0;
  char *out = malloc(capacity);
  while (out && next < n) {
    uint32_t last = next, metric = entries[next].metric;
    while (last < n && entries[last].metric == metric) last++;
    exposition_family family;
    exposition_describe(g, metric, &family);
    const char *name = family.name[0];
    used += (size_t)snprintf(out + used, capacity - used, "# TYPE %s %s\n", name, exposition_type(name));
    while (out && next < last) {
      used += chalk_snapshot_render(s, &family.f, &next, last, out + used, capacity - used);
      if (next < last || capacity - used < LINE / 2) out = realloc(out, capacity *= 2);
    }
  }
  chalk_snapshot_free(s);
  *size = used;
  return out;
}

static inline bool exposition_name(const char **p) {
  const char *start = *p;
  while ((**p >= 'a' && **p <= 'z') || (**p >= '0' && **p <= '9' && *p > start) || **p == '_') (*p)++;
  return *p > start;
}

static inline bool exposition_label(const char **p) {
  if (!exposition_name(p) || (*p)[0] != '=' || (*p)[1] != '"') return false;
  for (*p += 2; **p && **p != '"' && **p != '\n'; (*p)++) {
    if (**p != '\\') continue;
    (*p)++;
    if (**p != '\\' && **p != '"' && **p != 'n') return false;
  }
  return *(*p)++ == '"';
}

/* Whether p is one line of the form name{label="value",...} number. */
static inline bool exposition_sample(const char *p) {
  if (!exposition_name(&p)) return false;
  if (*p == '{') {
    do {
      p++;
      if (!exposition_label(&p)) return false;
    } while (*p == ',');
    if (*p++ != '}') return false;
  }
  if (*p++ != ' ') return false;
  char *end;
  strtod(p, &end);
  return end > p && *end == 0;
}

static inline int exposition_order(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/*
 * Returns the first line that is not a valid line, or that occurs twice; NULL: there is none. `text` has `size` bytes
 * and space for one more. The function overwrites it.
 */
static inline const char *exposition_check(char *text, size_t size) {
  size_t n = 0, lines = 0;
  for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
  if (size > 0 && text[size - 1] != '\n') return "no newline at the end";
  char **name = malloc((lines + 1) * sizeof *name);
  const char *bad = NULL;
  for (char *p = text; p < text + size && !bad;) {
    char *end = memchr(p, '\n', (size_t)(text + size - p));
    *end = 0;
    if (*p != '#' && !exposition_sample(p)) bad = p;
    if (*p != '#') name[n++] = p;
    p = end + 1;
  }
  for (size_t i = 0; i < n && !bad; i++) *strrchr(name[i], ' ') = 0;
  if (!bad) qsort(name, n, sizeof *name, exposition_order);
  for (size_t i = 1; i < n && !bad; i++) bad = strcmp(name[i - 1], name[i]) == 0 ? name[i] : NULL;
  free(name);
  return bad;
}

#endif
