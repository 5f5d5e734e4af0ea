/*
 * StatsD lines, packed into packets. A line is name:value|type|@rate|#tags and what the caller wants behind that; names
 * and constant tags come from the caller, this file knows the shape of a line and what makes a packet.
 *
 * An entry's lines are made in a text of their own, then packed: all of them into one packet where they fit into one,
 * so that a packet that is lost or refused is a set of whole entries.
 *
 * A sketch goes over the wire as its buckets' representative values, each weighted by a sample rate of 1 / count.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "key.h"
#include "sketch.h"
#include "snapshot.h"
#include "text.h"

enum { TAG = 200, PART = 128, HASH = 9, RATE = 24, ROOM = 4096 }; /* characters of a tag, of a value in a name */
enum { JOINT = 1 }; /* for the newline between lines that have to be in one packet; no text has it */

typedef struct sent_gauge {
  double value;
  uint32_t generation;
  bool sent;
} sent_gauge;

typedef struct weighted {
  double value;
  uint64_t weight, times;
} weighted;

struct chalk_statsd {
  char *packet, *text;
  uint32_t packet_size, packet_most;
  size_t text_at, text_size, text_room;
  bool failed; /* no memory for the entry's lines */
  bool joined; /* some of them are */
  chalk_statsd_totals totals;
  sent_gauge *gauges;
  uint32_t n_gauges;
  weighted *items;
  uint32_t items_room;
};

chalk_statsd *chalk_statsd_new(uint32_t max_packet) {
  chalk_statsd *k = calloc(1, sizeof *k);
  if (k) k->packet = malloc(max_packet), k->text = malloc(ROOM);
  if (!k || !k->packet || !k->text) {
    chalk_statsd_free(k);
    return NULL;
  }
  k->packet_most = max_packet;
  k->text_room = ROOM;
  return k;
}

void chalk_statsd_free(chalk_statsd *k) {
  if (!k) return;
  free(k->packet);
  free(k->text);
  free(k->gauges);
  free(k->items);
  free(k);
}

/* Text of the entry under way */

static char *reserve(chalk_statsd *k, size_t n) {
  if (k->text_size + n > k->text_room) {
    size_t room = 2 * (k->text_size + n);
    char *text = realloc(k->text, room);
    if (!text) {
      k->failed = true;
      return NULL;
    }
    k->text = text;
    k->text_room = room;
  }
  return k->text + k->text_size;
}

static void put(chalk_statsd *k, const char *s, size_t n) {
  char *o = reserve(k, n);
  if (!o) return;
  memcpy(o, s, n);
  k->text_size += n;
}

static void put_text(chalk_statsd *k, const char *s) { put(k, s, strlen(s)); }

static void put_number(chalk_statsd *k, double v) {
  char *o = reserve(k, TEXT_NUMBER_MAX);
  if (o) k->text_size += text_double(o, v);
}

static void put_whole(chalk_statsd *k, int64_t v) {
  char *o = reserve(k, TEXT_NUMBER_MAX);
  if (o) k->text_size += text_int(o, v);
}

/* Tags */

/* 32 bits of FNV-1a, as text after "_". */
static char *put_hash(char *o, const char *s, size_t n) {
  uint32_t h = 2166136261u;
  for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 16777619u;
  *o++ = '_';
  for (int shift = 28; shift >= 0; shift -= 4) *o++ = "0123456789abcdef"[h >> shift & 15];
  return o;
}

static bool is_plain(unsigned char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-';
}

static bool is_first(char c) { return ((unsigned char)c & 0xc0) != 0x80; }

/* A key's values are valid UTF-8. How many bytes of it are one character that ends lines: C1, U+2028, U+2029. */
static uint32_t control_at(const char *s, uint32_t left) {
  const unsigned char *u = (const unsigned char *)s;
  if (left >= 2 && u[0] == 0xc2 && u[1] < 0xa0) return 2;
  return left >= 3 && u[0] == 0xe2 && u[1] == 0x80 && (u[2] == 0xa8 || u[2] == 0xa9) ? 3 : 0;
}

/* The value with whatever is not a letter, digit or one of _-./: replaced; at most `most` characters. */
static char *put_value(char *o, const char *value, uint32_t n, size_t most) {
  char *start = o, *cut = NULL;
  size_t characters = 0;
  for (uint32_t i = 0; i < n;) {
    unsigned char c = (unsigned char)value[i];
    if (is_first(value[i])) {
      if (characters == most) return put_hash(cut, value, n);
      if (characters++ == most - HASH) cut = o;
    }
    uint32_t control = control_at(value + i, n - i);
    *o++ = !control && (is_plain(c) || c == '.' || c == '/' || c == ':' || c >= 0x80) ? (char)c : '_';
    i += control ? control : 1;
  }
  if (o > start && o[-1] == ':') o[-1] = '_';
  return o;
}

static void put_tag(chalk_statsd *k, const char *label, const char *value, uint32_t n) {
  size_t size = strlen(label), characters = 1;
  for (size_t i = 0; i < size; i++) characters += is_first(label[i]);
  put(k, label, size);
  put(k, ":", 1);
  char *o = reserve(k, n + HASH);
  if (o) k->text_size += (size_t)(put_value(o, value, n, TAG - characters) - o);
}

static void put_folded(chalk_statsd *k, const char *value, uint32_t n) {
  char *o = reserve(k, n + 8);
  if (!o) return;
  *o++ = '.';
  uint32_t size = n > PART ? PART - HASH : n;
  for (uint32_t i = 0; i < size; i++) o[i] = is_plain((unsigned char)value[i]) ? value[i] : '_';
  if (n > PART) size = (uint32_t)(put_hash(o + size, value, n) - o);
  if (n == 0) memcpy(o, "none", size = 4);
  k->text_size += size + 1;
}

/* What is the same in all lines of an entry: its name, and from the tags on its end. */
typedef struct frame {
  const chalk_statsd_family *f;
  const char *key;
  uint32_t key_size;
} frame;

static void put_name(chalk_statsd *k, const frame *e, const char *suffix) {
  put_text(k, e->f->name);
  if (e->f->fold) {
    uint32_t at = 0, n;
    const char *value;
    while (key_next(e->key, e->key_size, &at, &value, &n)) put_folded(k, value, n);
  }
  put_text(k, suffix);
  put(k, ":", 1);
}

static void put_tags(chalk_statsd *k, const frame *e, const char *le) {
  if (e->f->fold) return;
  size_t start = k->text_size;
  put(k, "|#", 2);
  put_text(k, e->f->tags);
  bool any = *e->f->tags != 0;
  uint32_t at = 0, n;
  const char *value;
  for (uint32_t i = 0; i < e->f->n_labels && key_next(e->key, e->key_size, &at, &value, &n); i++) {
    if (n == 0) continue;
    if (any) put(k, ",", 1);
    put_tag(k, e->f->labels[i], value, n);
    any = true;
  }
  if (le) {
    put_text(k, any ? ",le:" : "le:");
    put_text(k, le);
    any = true;
  }
  if (!any) k->text_size = start;
}

/* From behind the values: the line's type and all that follows. */
static void end_line(chalk_statsd *k, const frame *e, const char *type, const char *rate, const char *le,
                     const char *timestamp) {
  put(k, "|", 1);
  put_text(k, type);
  if (rate) put(k, "|@", 2), put_text(k, rate);
  put_tags(k, e, le);
  put_text(k, e->f->tail);
  put_text(k, timestamp);
  put(k, "\n", 1);
}

/* Counts and gauges */

static void put_count(chalk_statsd *k, const frame *e, int64_t delta) {
  put_name(k, e, "");
  put_whole(k, delta);
  end_line(k, e, "c", NULL, NULL, e->f->timestamp);
}

static void put_gauge(chalk_statsd *k, const frame *e, const char *suffix, double v) {
  if (!isfinite(v)) return;
  if (v < 0 && e->f->relative) {
    put_name(k, e, suffix);
    put(k, "0", 1);
    end_line(k, e, "g", NULL, NULL, e->f->timestamp);
    if (k->failed) return;
    k->text[k->text_size - 1] = JOINT;
    k->joined = true;
  }
  put_name(k, e, suffix);
  put_number(k, v);
  end_line(k, e, "g", NULL, NULL, e->f->timestamp);
}

static bool is_sent(chalk_statsd *k, const chalk_entry *e) {
  if (e->series >= k->n_gauges) {
    uint32_t n = 2 * (e->series + 512);
    sent_gauge *more = realloc(k->gauges, n * sizeof *more);
    if (!more) return false;
    memset(more + k->n_gauges, 0, (n - k->n_gauges) * sizeof *more);
    k->gauges = more;
    k->n_gauges = n;
  }
  sent_gauge *g = &k->gauges[e->series];
  bool same = g->sent && g->generation == e->generation && g->value == e->value;
  *g = (sent_gauge){e->value, e->generation, true};
  return same;
}

void chalk_statsd_forget(chalk_statsd *k) {
  if (k->gauges) memset(k->gauges, 0, k->n_gauges * sizeof *k->gauges);
  k->text_at = k->text_size = 0;
  k->joined = false;
  k->packet_size = 0;
}

/* Histograms */

/*
 * The shortest decimal r with floor(1 / r) = n and 1 / r - n < 1e-6, since receivers cut 1 / r to a whole number. With m
 * = floor(10^d / n), r = m / 10^d is at most 1 / n, and 1 / r - n = (10^d mod n) / m.
 */
size_t chalk_statsd_rate(char *out, uint64_t n) {
  if (n <= 1) {
    *out = '1';
    return 1;
  }
  uint64_t power = 1;
  for (int digits = 1; digits <= 18; digits++) {
    power *= 10;
    uint64_t m = power / n;
    if (m == 0 || (double)(power % n) >= 1e-6 * (double)m) continue;
    double r = (double)m / (double)power;
    if (floor(1 / r) != (double)n) continue;
    char text[TEXT_NUMBER_MAX];
    size_t size = text_uint(text, m), zeros = (size_t)digits - size;
    memcpy(out, "0.", 2);
    memset(out + 2, '0', zeros);
    memcpy(out + 2 + zeros, text, size);
    return 2 + zeros + size;
  }
  return 0;
}

static double representative(const chalk_bucket *b) {
  double l = b->lower, u = b->upper;
  if (l == u || l == 0 || u == 0) return l == 0 ? u : l;
  double v = 2 * (l / (l + u)) * u;
  return isfinite(v) ? v : u;
}

static double clamped(double v) { return v > DBL_MAX ? DBL_MAX : v < -DBL_MAX ? -DBL_MAX : v; }

static bool add_item(chalk_statsd *k, uint32_t *n, double value, uint64_t weight, uint64_t times) {
  if (*n == k->items_room) {
    uint32_t room = k->items_room ? 2 * k->items_room : 64;
    weighted *more = realloc(k->items, room * sizeof *more);
    if (!more) return false;
    k->items = more;
    k->items_room = room;
  }
  k->items[(*n)++] = (weighted){value, weight, times};
  return true;
}

static int by_weight(const void *a, const void *b) {
  const weighted *x = a, *y = b;
  return x->weight != y->weight ? (x->weight < y->weight ? -1 : 1) : (x->value > y->value) - (x->value < y->value);
}

/* A bucket of more than the most weight: so many lines of that, and one of the rest. */
static uint32_t items_of(chalk_statsd *k, const chalk_statsd_family *f, const chalk_sketch *d) {
  uint32_t n = 0;
  chalk_bucket b;
  for (uint32_t i = 0; chalk_sketch_bucket(d, i, &b); i++) {
    double v = clamped(representative(&b) * f->factor);
    uint64_t rest = b.count % f->max_weight, whole = b.count / f->max_weight;
    if (whole && !add_item(k, &n, v, f->max_weight, whole)) break;
    if (rest && !add_item(k, &n, v, rest, 1)) break;
  }
  if (n > 1) qsort(k->items, n, sizeof *k->items, by_weight);
  return n;
}

/* Values of one weight share lines, as long as a line fits into a packet. */
static void put_weighted(chalk_statsd *k, const frame *e, const chalk_sketch *d) {
  uint32_t n = items_of(k, e->f, d);
  char rate[RATE + 1];
  for (uint32_t i = 0; i < n;) {
    uint64_t weight = k->items[i].weight;
    rate[chalk_statsd_rate(rate, weight)] = 0;
    size_t start = k->text_size, begun = start;
    end_line(k, e, e->f->type, weight > 1 ? rate : NULL, NULL, "");
    size_t end = k->text_size - start;
    k->text_size = start;
    put_name(k, e, "");
    bool first = true;
    while (i < n && k->items[i].weight == weight) {
      bool full = !first && (!e->f->pack || k->text_size - begun + TEXT_NUMBER_MAX + end > k->packet_most);
      if (full) {
        end_line(k, e, e->f->type, weight > 1 ? rate : NULL, NULL, "");
        begun = k->text_size;
        put_name(k, e, "");
        first = true;
      }
      if (!first) put(k, ":", 1);
      put_number(k, k->items[i].value);
      first = false;
      if (--k->items[i].times == 0) i++;
      if (k->failed) return;
    }
    end_line(k, e, e->f->type, weight > 1 ? rate : NULL, NULL, "");
  }
}

static void put_percentiles(chalk_statsd *k, const frame *e, const chalk_sketch *d) {
  double count = (double)chalk_sketch_count(d), factor = e->f->factor;
  put_gauge(k, e, ".count", count);
  put_gauge(k, e, ".avg", chalk_sketch_sum(d) / count * factor);
  put_gauge(k, e, ".min", chalk_sketch_min(d) * factor);
  put_gauge(k, e, ".max", chalk_sketch_max(d) * factor);
  for (uint32_t i = 0; i < e->f->n_quantiles; i++) {
    put_gauge(k, e, e->f->quantile_names[i], chalk_sketch_quantile(d, e->f->quantiles[i]) * factor);
  }
}

static void put_buckets(chalk_statsd *k, const frame *e, const uint64_t *counts) {
  for (uint32_t i = 0; i < e->f->n_le; i++) {
    uint64_t n = counts[e->f->le_index[i]];
    if (n == 0) continue;
    put_name(k, e, e->f->fold ? e->f->le_suffixes[i] : "");
    put_whole(k, (int64_t)n);
    end_line(k, e, "c", NULL, e->f->le[i], e->f->timestamp);
  }
}

static void put_histogram(chalk_statsd *k, const frame *e, chalk_cursor *c, chalk_snapshot *s, uint32_t i) {
  if (e->f->mode == CHALK_STATSD_BUCKETS) {
    uint64_t counts[CHALK_LES + 1];
    if (chalk_cursor_delta_les(c, s, i, counts) > 0) put_buckets(k, e, counts);
    return;
  }
  chalk_sketch *d = chalk_cursor_delta_sketch(c, s, i);
  if (!d) {
    k->failed = true;
  } else if (e->f->mode == CHALK_STATSD_PERCENTILES) {
    put_percentiles(k, e, d);
  } else {
    put_weighted(k, e, d);
  }
  chalk_sketch_free(d);
}

/* Entries and packets */

static void put_entry(chalk_statsd *k, const chalk_statsd_family *f, chalk_cursor *c, chalk_snapshot *s, uint32_t i) {
  const chalk_entry *e = &s->entries[i];
  uint32_t kind = s->segment->metrics[e->metric].kind;
  int64_t delta = kind == CHALK_GAUGE ? 1 : chalk_cursor_delta(c, s, i);
  if (delta == 0 || (kind == CHALK_GAUGE && f->changed_only && is_sent(k, e))) return;
  uint64_t key[(KEY_MOST + 7) / 8];
  frame frame = {f, (const char *)key, snapshot_key(s, e, key)};
  if (frame.key_size == NONE) return;
  if (kind == CHALK_COUNT) put_count(k, &frame, delta);
  if (kind == CHALK_GAUGE) put_gauge(k, &frame, "", e->value);
  if (kind == CHALK_HISTOGRAM) put_histogram(k, &frame, c, s, i);
}

static void copy_lines(const chalk_statsd *k, char *out, const char *lines, size_t n) {
  memcpy(out, lines, n);
  for (char *joint; k->joined && (joint = memchr(out, JOINT, n)) != NULL;) *joint = '\n';
}

/* Packs the lines of the entry under way. False: the packet is full. */
static bool pack(chalk_statsd *k) {
  size_t left = k->text_size - k->text_at;
  if (left <= k->packet_most && left + k->packet_size > k->packet_most) return false;
  while (k->text_at < k->text_size) {
    const char *line = k->text + k->text_at;
    size_t n = (size_t)((const char *)memchr(line, '\n', k->text_size - k->text_at) - line) + 1;
    if (n <= k->packet_most && n + k->packet_size > k->packet_most) return false;
    if (n > k->packet_most) {
      k->totals.too_long++;
    } else {
      copy_lines(k, k->packet + k->packet_size, line, n);
      k->packet_size += (uint32_t)n;
      k->totals.lines++;
    }
    k->text_at += n;
  }
  k->text_at = k->text_size = 0;
  k->joined = false;
  return true;
}

int chalk_statsd_fill(chalk_statsd *k, const chalk_statsd_family *f, chalk_cursor *c, chalk_snapshot *s, uint32_t *next,
                      uint32_t last) {
  for (; *next < last; (*next)++) {
    if (k->text_size == 0) {
      put_entry(k, f, c, s, *next);
      if (k->failed) {
        k->failed = k->joined = false;
        k->text_size = 0;
        return CHALK_EMEMORY;
      }
      if (k->text_size == 0) continue;
      k->totals.metrics++;
    }
    if (!pack(k)) return 1;
  }
  return CHALK_OK;
}

const char *chalk_statsd_packet(chalk_statsd *k, uint32_t *size) {
  *size = k->packet_size;
  return k->packet;
}

void chalk_statsd_begin(chalk_statsd *k) { k->packet_size = 0; }
void chalk_statsd_count(const chalk_statsd *k, chalk_statsd_totals *totals) { *totals = k->totals; }
