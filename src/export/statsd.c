/*
 * StatsD lines, packed into packets. A line is name:value|type|@rate|#tags and what the caller wants behind that; names
 * and constant tags come from the caller, this file knows the shape of a line and what makes a packet.
 *
 * An entry's lines are made in a text of their own, then packed: all of them into one packet where they fit into one,
 * so that a packet that is lost or refused is a set of whole entries. Of a histogram whose lines do not, what is in each
 * packet is committed with it, see statsd_part.h. Each line notes where it ends and how many values stand up to there,
 * so that packing never reads the text again.
 *
 * A sketch goes over the wire as its buckets' representative values, each weighted by a sample rate of 1 / count.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "read/cursor.h"
#include "series/key.h"
#include "series/series_key.h"
#include "value/kind.h"
#include "value/sketch.h"
#include "read/snapshot.h"
#include "export/statsd.h"
#include "export/statsd_part.h"
#include "export/statsd_text.h"
#include "base/text.h"

enum { RATE = 24, ROOM = 4096 };

/* A line of the entry under way, or several that have to share a packet: where its text ends, and the values so far. */
typedef struct line_end {
  size_t at;
  uint64_t values;
} line_end;

typedef struct sent_gauge {
  double value;
  uint32_t generation;
  bool sent;
} sent_gauge;

struct chalk_statsd {
  char *packet, *text;
  uint32_t packet_size, packet_most;
  size_t text_size, text_room;
  line_end *lines; /* the text's */
  uint32_t n_lines, lines_room;
  uint32_t packed; /* of them, those in a packet, or too long for any */
  uint64_t values; /* in the text */
  bool failed;     /* no memory for the entry's lines */
  chalk_statsd_totals totals;
  sent_gauge *gauges;
  uint32_t n_gauges;
  uint32_t entry; /* the one under way; what follows is a histogram's */
  chalk_sketch delta;
  bool bounds; /* its lines are of bounds, not of the delta's buckets */
  statsd_items items;
  uint64_t values_begun; /* in its lines of the packets before this one */
  statsd_part sent;      /* what of it is in the packet that was begun before */
};

chalk_statsd *chalk_statsd_new(uint32_t max_packet) {
  if (max_packet == 0) return NULL;
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
  free(k->lines);
  free(k->gauges);
  free(k->items.at);
  sketch_free_sides(&k->delta);
  sketch_free_sides(&k->sent.sketch);
  free(k);
}

/* Text of the entry under way */

static char *grow(chalk_statsd *k, size_t n) {
  size_t room = 2 * (k->text_size + n);
  char *text = realloc(k->text, room);
  if (!text) {
    k->failed = true;
    return NULL;
  }
  k->text = text;
  k->text_room = room;
  return k->text + k->text_size;
}

/* Room for n bytes more; NULL and `failed`: there is none. */
static inline char *reserve(chalk_statsd *k, size_t n) {
  return k->text_size + n > k->text_room ? grow(k, n) : k->text + k->text_size;
}

/* Most of it is a few bytes, which take less than a call. */
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

typedef struct piece {
  const char *text;
  size_t size;
} piece;

static inline piece piece_of(const char *text) { return (piece){text, strlen(text)}; }
static inline char *append_piece(char *o, piece p) { return append(o, p.text, p.size); }

/* The types of counts and gauges are the protocol's; a histogram's is its family's. */
static const piece nothing = {"", 0}, count_type = {"c", 1}, gauge_type = {"g", 1};

/* A family's texts, measured, and the room that a line of an empty key takes, but for what only some lines have. */
typedef struct shape {
  const chalk_statsd_family *f;
  piece name, tags, tail, type, timestamp, absent, labels[CHALK_TAGS];
  size_t room;
} shape;

static void measure(shape *h, const chalk_statsd_family *f) {
  h->f = f;
  h->name = piece_of(f->name), h->tags = piece_of(f->tags), h->tail = piece_of(f->tail);
  h->type = piece_of(f->type), h->timestamp = piece_of(f->timestamp), h->absent = piece_of(f->absent);
  h->room = h->name.size + h->tags.size + h->tail.size + h->type.size + h->timestamp.size;
  h->room += sizeof ":||@|#\n" + RATE + STATSD_TEXT_ROOM;
  for (uint32_t i = 0; i < f->n_labels; i++) {
    h->labels[i] = piece_of(f->labels[i]);
    h->room += h->labels[i].size + 2 + STATSD_TEXT_MORE + h->absent.size;
  }
}

/*
 * What is the same in all lines of an entry: its name, and its tags. While a line is begun there is always room for its
 * end, so that only what some lines have needs to ask for it.
 */
typedef struct frame {
  const shape *h;
  const chalk_statsd_family *f;
  const char *key; /* STATSD_TEXT_ROOM bytes behind it can be read */
  uint32_t key_size;
  size_t room;
  size_t tags_at, tags_size; /* in the text, once they are there */
} frame;

static inline frame frame_of(const shape *h, const void *key, uint32_t key_size) {
  return (frame){.h = h, .f = h->f, .key = key, .key_size = key_size, .room = h->room + key_size};
}

static char *put_folded(char *o, const frame *e) {
  uint32_t at = 0, n;
  const char *value;
  for (uint32_t i = 0; i < e->f->n_labels && key_next(e->key, e->key_size, &at, &value, &n); i++) {
    *o++ = '.';
    o = n > 0 ? statsd_text_folded(o, value, n, e->f->value_most[i]) : append_piece(o, e->h->absent);
  }
  return o;
}

/* A line's name, up to its first value. */
static void begin_line(chalk_statsd *k, const frame *e, piece suffix) {
  char *o = reserve(k, e->room + suffix.size + TEXT_NUMBER_MAX);
  if (!o) return;
  o = append_piece(o, e->h->name);
  if (e->f->fold) o = put_folded(o, e);
  o = append_piece(o, suffix);
  *o++ = ':';
  k->text_size = (size_t)(o - k->text);
  k->values++;
}

/* A line's first value: there is room. */
static inline void put_number(chalk_statsd *k, double v) {
  if (!k->failed) k->text_size += text_double(k->text + k->text_size, v);
}

static inline void put_whole(chalk_statsd *k, int64_t v) {
  if (!k->failed) k->text_size += text_int(k->text + k->text_size, v);
}

static void put_further(chalk_statsd *k, const frame *e, double v) {
  char *o = reserve(k, 1 + TEXT_NUMBER_MAX + e->room);
  if (!o) return;
  *o = ':';
  k->text_size++;
  k->values++;
  put_number(k, v);
}

/* "|#" and all tags, or nothing. */
static char *put_tags(char *o, const frame *e) {
  char *start = o;
  uint32_t at = 0, n;
  const char *value;
  *o++ = '|';
  if (e->h->tags.size > 0) {
    *o++ = '#';
    o = append_piece(o, e->h->tags);
  }
  for (uint32_t i = 0; i < e->f->n_labels && key_next(e->key, e->key_size, &at, &value, &n); i++) {
    if (n == 0) continue;
    *o++ = ',';
    o = append_piece(o, e->h->labels[i]);
    *o++ = ':';
    o = statsd_text_value(o, value, n, e->f->value_most[i]);
  }
  if (o - start == 1) return start;
  start[1] = '#'; /* or there was a comma */
  return o;
}

static char *put_le(char *o, bool any, piece le) {
  return append_piece(any ? append(o, ",", 1) : append(o, "|#", 2), le);
}

static bool grow_lines(chalk_statsd *k) {
  uint32_t room = k->lines_room ? 2 * k->lines_room : 64;
  line_end *more = realloc(k->lines, room * sizeof *more);
  if (!more) {
    k->failed = true;
    return false;
  }
  k->lines = more;
  k->lines_room = room;
  return true;
}

static inline void note_line(chalk_statsd *k) {
  if (k->n_lines < k->lines_room || grow_lines(k)) k->lines[k->n_lines++] = (line_end){k->text_size, k->values};
}

/* From behind the values: the line's type and all that follows. */
static void end_line(chalk_statsd *k, frame *e, piece type, const char *rate, const char *le, bool timed) {
  if (le) reserve(k, e->room + strlen(le) + sizeof "|#");
  if (k->failed) return;
  char *o = k->text + k->text_size;
  *o++ = '|';
  o = append_piece(o, type);
  if (rate) o = append_piece(append(o, "|@", 2), piece_of(rate));
  if (!e->f->fold) {
    char *start = o;
    o = e->tags_size ? append(o, k->text + e->tags_at, e->tags_size) : put_tags(o, e);
    e->tags_at = (size_t)(start - k->text), e->tags_size = (size_t)(o - start);
    if (le) o = put_le(o, e->tags_size > 0, piece_of(le));
  }
  o = append_piece(o, e->h->tail);
  if (timed) o = append_piece(o, e->h->timestamp);
  *o++ = '\n';
  k->text_size = (size_t)(o - k->text);
  note_line(k);
}

/* Counts and gauges */

static void put_count(chalk_statsd *k, frame *e, int64_t delta) {
  begin_line(k, e, nothing);
  put_whole(k, delta);
  end_line(k, e, count_type, NULL, NULL, true);
}

static void put_gauge(chalk_statsd *k, frame *e, piece suffix, double v) {
  if (!isfinite(v)) return;
  if (v < 0 && e->f->relative) {
    begin_line(k, e, suffix);
    put_whole(k, 0);
    end_line(k, e, gauge_type, NULL, NULL, true);
    if (k->failed) return;
    k->n_lines--; /* one with the next */
  }
  begin_line(k, e, suffix);
  put_number(k, v);
  end_line(k, e, gauge_type, NULL, NULL, true);
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

/* No entry is under way. */
static void end_entry(chalk_statsd *k) {
  k->text_size = 0;
  k->values = k->values_begun = 0;
  k->n_lines = k->packed = k->items.n = 0;
  k->failed = false;
}

void chalk_statsd_forget(chalk_statsd *k) {
  if (k->gauges) memset(k->gauges, 0, k->n_gauges * sizeof *k->gauges);
  end_entry(k);
  k->sent.any = false;
  k->packet_size = 0;
}

/* Histograms */

/* How long a line's end is, without the rest of the line. */
static size_t end_size(chalk_statsd *k, frame *e, const char *rate) {
  size_t start = k->text_size;
  if (!reserve(k, e->room)) return 0;
  end_line(k, e, e->h->type, rate, NULL, false);
  if (k->failed) return 0;
  size_t size = k->text_size - start;
  k->text_size = start;
  k->n_lines--;
  e->tags_size = 0;
  return size;
}

/* The values of one weight, from item i on, share lines as long as a line fits into a packet. Returns the next item. */
static uint32_t put_values(chalk_statsd *k, frame *e, uint32_t i) {
  char text[RATE + 1];
  const statsd_item *items = k->items.at;
  uint64_t weight = items[i].weight, times = 0;
  uint32_t n = k->items.n;
  text[chalk_statsd_rate(text, weight)] = 0;
  const char *rate = weight > 1 ? text : NULL;
  size_t begun = k->text_size, end = n > 1 && e->f->pack ? end_size(k, e, rate) : 0;
  begin_line(k, e, nothing);
  for (bool first = true; i < n && items[i].weight == weight && !k->failed; first = false) {
    double v = items[i].value;
    if (!first && e->f->pack && k->text_size - begun + TEXT_NUMBER_MAX + end <= k->packet_most) {
      put_further(k, e, v);
    } else {
      if (!first) {
        end_line(k, e, e->h->type, rate, NULL, false);
        begun = k->text_size;
        begin_line(k, e, nothing);
      }
      put_number(k, v);
    }
    if (++times == items[i].times) i++, times = 0;
  }
  end_line(k, e, e->h->type, rate, NULL, false);
  return i;
}

static void put_weighted(chalk_statsd *k, frame *e, const chalk_sketch *d) {
  k->failed = !statsd_items_of(&k->items, d, e->f->factor, e->f->max_weight);
  for (uint32_t i = 0; i < k->items.n && !k->failed;) i = put_values(k, e, i);
}

static double gauge_of(const chalk_sketch *d, const chalk_statsd_gauge *g, double factor) {
  switch (g->what) {
    case CHALK_STATSD_COUNT:
      return (double)d->count;
    case CHALK_STATSD_SUM:
      return d->sum * factor;
    case CHALK_STATSD_AVG:
      return d->sum * factor / (double)d->count;
    case CHALK_STATSD_MIN:
      return chalk_sketch_min(d) * factor;
    case CHALK_STATSD_MAX:
      return chalk_sketch_max(d) * factor;
    default:
      return chalk_sketch_quantile(d, g->quantile) * factor;
  }
}

static void put_percentiles(chalk_statsd *k, frame *e, const chalk_sketch *d) {
  for (uint32_t i = 0; i < e->f->n_gauges; i++) {
    const chalk_statsd_gauge *g = &e->f->gauges[i];
    put_gauge(k, e, (piece){g->suffix, g->size}, gauge_of(d, g, e->f->factor));
  }
}

static void put_buckets(chalk_statsd *k, frame *e, const uint64_t *counts, uint32_t n_counts) {
  for (uint32_t i = 0; i < e->f->n_le; i++) {
    uint64_t n = e->f->le_index[i] < n_counts ? counts[e->f->le_index[i]] : 0;
    if (n == 0) continue;
    k->failed = !statsd_items_add(&k->items, (statsd_item){.weight = n, .times = 1, .place = e->f->le_index[i]});
    if (k->failed) return;
    begin_line(k, e, e->f->fold ? piece_of(e->f->le_suffixes[i]) : nothing);
    put_whole(k, (int64_t)n);
    end_line(k, e, count_type, NULL, e->f->le_tags[i], true);
  }
}

size_t statsd_line(chalk_statsd *k, const chalk_statsd_family *f, const char *key, uint32_t key_size, const char **text,
                   size_t *value_at, size_t *rate_at) {
  shape h;
  measure(&h, f);
  frame e = frame_of(&h, key, key_size);
  k->text_size = 0;
  begin_line(k, &e, nothing);
  *value_at = k->text_size;
  end_line(k, &e, h.type, NULL, NULL, false);
  size_t size = k->failed ? 0 : k->text_size;
  *rate_at = *value_at + 1 + h.type.size;
  *text = k->text;
  end_entry(k);
  return size;
}

static void put_histogram(chalk_statsd *k, frame *e, chalk_cursor *c, chalk_snapshot *s, uint32_t i) {
  k->entry = i;
  k->bounds = e->f->mode == CHALK_STATSD_BUCKETS;
  if (k->bounds) {
    uint64_t counts[CHALK_LES + 1];
    put_buckets(k, e, counts, chalk_cursor_delta_les(c, s, i, counts));
    return;
  }
  if (cursor_subtract(c, s, i, &k->delta) != CHALK_OK) {
    k->failed = true;
  } else if (e->f->mode == CHALK_STATSD_PERCENTILES) {
    sketch_clip(&k->delta, chalk_snapshot_sketch(s, i));
    put_percentiles(k, e, &k->delta);
  } else {
    put_weighted(k, e, &k->delta);
  }
}

/* Entries and packets */

static void put_entry(chalk_statsd *k, const shape *h, chalk_cursor *c, chalk_snapshot *s, uint32_t i) {
  const chalk_statsd_family *f = h->f;
  const chalk_entry *e = &s->entries[i];
  uint32_t kind = s->segment->metrics[e->metric].kind;
  bool has_value = kind_has_value(kind), has_histogram = kind_has_histogram(kind);
  if (has_histogram && f->mode == CHALK_STATSD_RAW) return; /* see statsd_raw.c */
  int64_t delta = has_value ? 1 : chalk_cursor_delta(c, s, i);
  if (delta == 0 || (has_value && f->changed_only && is_sent(k, e))) return;
  uint64_t key[SERIES_KEY_WORDS + STATSD_TEXT_ROOM / 8];
  uint32_t key_size = snapshot_key(s, e, key);
  if (key_size == NONE) return;
  frame frame = frame_of(h, key, key_size);
  if (kind_has_total(kind)) put_count(k, &frame, delta);
  if (has_value) put_gauge(k, &frame, nothing, e->value);
  if (has_histogram) put_histogram(k, &frame, c, s, i);
}

static size_t packed_size(const chalk_statsd *k) { return k->packed ? k->lines[k->packed - 1].at : 0; }
static uint64_t packed_values(const chalk_statsd *k) { return k->packed ? k->lines[k->packed - 1].values : 0; }

/* The lines that are not packed yet, up to this one, into the packet where they may fit into one. False: it is full. */
static bool pack_lines(chalk_statsd *k, uint32_t end) {
  size_t at = packed_size(k), n = k->lines[end - 1].at - at;
  if (n > k->packet_most) {
    k->totals.too_long += end - k->packed;
  } else if (n + k->packet_size > k->packet_most) {
    return false;
  } else {
    memcpy(k->packet + k->packet_size, k->text + at, n);
    k->packet_size += (uint32_t)n;
    k->totals.lines += end - k->packed;
  }
  k->packed = end;
  return true;
}

/* Packs the lines of the entry under way. False: the packet is full. */
static bool pack(chalk_statsd *k) {
  if (k->text_size - packed_size(k) <= k->packet_most && !pack_lines(k, k->n_lines)) return false;
  while (k->packed < k->n_lines) {
    if (!pack_lines(k, k->packed + 1)) return false;
  }
  end_entry(k);
  return true;
}

int chalk_statsd_fill(chalk_statsd *k, const chalk_statsd_family *f, chalk_cursor *c, chalk_snapshot *s, uint32_t *next,
                      uint32_t last) {
  shape shape;
  if (!statsd_family_fits(f)) return CHALK_EINVALID;
  if (last > s->n) last = s->n;
  measure(&shape, f);
  for (; *next < last; (*next)++) {
    if (k->text_size == 0) {
      put_entry(k, &shape, c, s, *next);
      if (k->failed) {
        end_entry(k);
        return CHALK_EMEMORY;
      }
      if (k->text_size == 0) continue; /* no items either */
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

void chalk_statsd_begin(chalk_statsd *k) {
  uint64_t values = k->items.n ? packed_values(k) - k->values_begun : 0;
  k->sent.any = false;
  if (values) {
    statsd_part_note(&k->sent, k->entry, &k->items, k->values_begun, values, k->bounds ? NULL : &k->delta);
  }
  k->values_begun += values;
  k->packet_size = 0;
}

int chalk_statsd_commit(chalk_statsd *k, chalk_cursor *c, chalk_snapshot *s, double now) {
  return statsd_part_commit(&k->sent, c, s, now);
}

void chalk_statsd_count(const chalk_statsd *k, chalk_statsd_totals *totals) { *totals = k->totals; }
