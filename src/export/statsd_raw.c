/*
 * StatsD lines of single values, as the event tap has them: a queue of packets, each ready to be sent.
 *
 * What is the same in all lines of a series is made when its first value comes, and kept. The queue has room for so many
 * values; what comes beyond is dropped and counted, so that a receiver that is away costs memory up to that and not more.
 *
 * A rate below 1 samples: a value is sent with that probability and then stands for 1 / rate values. Receivers take only
 * whole numbers of those, so it stands for one of the two next to it, as often as keeps the mean.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "series/series_key.h"
#include "export/statsd.h"
#include "export/statsd_text.h"
#include "record/tap.h"
#include "base/text.h"

enum { RATE = 24 };

typedef struct packet {
  struct packet *next;
  uint32_t size, values;
  bool is_whole; /* nothing more comes into it: it is full, or on its way */
  char bytes[];
} packet;

/* How a metric's values are sent. */
typedef struct sampling {
  const chalk_statsd_family *family; /* NULL: they are not */
  uint32_t generation;               /* of its overflow series */
  bool is_known;
  bool has_long;   /* a line of it that was too long, not told yet */
  double rate;     /* how probably */
  double fraction; /* of those that stand for `more` */
  char less[RATE], more[RATE];
} sampling;

/* A line without its value. */
typedef struct line {
  uint32_t generation;
  uint32_t size, value_at, rate_at;
  char *text;
} line;

struct chalk_statsd_raw {
  chalk_segment *segment;
  chalk_statsd *maker; /* of lines */
  packet *first, *last;
  uint32_t packet_most;
  uint64_t values, most; /* in the queue */
  uint32_t packets;
  uint32_t at; /* of the tap's batch */
  uint64_t batch;
  uint64_t random;
  chalk_statsd_raw_totals totals;
  line *lines; /* by series */
  uint32_t n_lines;
  sampling metrics[METRICS];
};

chalk_statsd_raw *chalk_statsd_raw_new(chalk_segment *g, uint32_t max_packet, uint64_t most) {
  chalk_statsd_raw *k = calloc(1, sizeof *k);
  if (k) k->maker = chalk_statsd_new(max_packet);
  if (!k || !k->maker) {
    free(k);
    return NULL;
  }
  k->segment = g;
  k->packet_most = max_packet;
  k->most = most;
  k->random = (uint64_t)(chalk_wall() * 1e6) ^ ((uint64_t)getpid() << 40);
  if (k->random == 0) k->random = 1;
  return k;
}

void chalk_statsd_raw_free(chalk_statsd_raw *k) {
  if (!k) return;
  while (k->first) chalk_statsd_raw_next(k);
  for (uint32_t i = 0; i < k->n_lines; i++) free(k->lines[i].text);
  free(k->lines);
  chalk_statsd_free(k->maker);
  free(k);
}

/* Sampling */

/* In [0, 1). */
static double random_unit(chalk_statsd_raw *k) {
  uint64_t x = k->random;
  x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  k->random = x;
  return (double)(x >> 11) * 0x1p-53;
}

static void put_rate(char *out, uint64_t n) { out[n > 1 ? chalk_statsd_rate(out, n) : 0] = 0; }

int chalk_statsd_raw_define(chalk_statsd_raw *k, uint32_t metric, const chalk_statsd_family *f, double rate) {
  if (metric >= METRICS || !(rate >= 0 && rate <= 1) || (f && !statsd_family_fits(f))) return CHALK_EINVALID;
  double stands_for = rate > 0 ? 1 / rate : 0;
  if (stands_for >= CHALK_STATSD_WEIGHT + 1.0) return CHALK_EINVALID;
  uint64_t whole = (uint64_t)stands_for;
  sampling *m = &k->metrics[metric];
  *m = (sampling){.family = f, .is_known = true, .rate = rate, .fraction = stands_for - (double)whole};
  m->generation = atomic_load(&k->segment->series[metric].generation);
  put_rate(m->less, whole);
  put_rate(m->more, whole + 1);
  return CHALK_OK;
}

static sampling *sampling_of(chalk_statsd_raw *k, uint32_t number) {
  sampling *m = &k->metrics[number];
  return m->is_known && m->generation == atomic_load(&k->segment->series[number].generation) ? m : NULL;
}

/* Lines */

static bool grow_lines(chalk_statsd_raw *k, uint32_t id) {
  if (id < k->n_lines) return true;
  uint32_t n = 2 * id + 512;
  line *more = realloc(k->lines, n * sizeof *more);
  if (!more) return false;
  memset(more + k->n_lines, 0, (n - k->n_lines) * sizeof *more);
  k->lines = more;
  k->n_lines = n;
  return true;
}

static bool make_line(chalk_statsd_raw *k, line *l, const chalk_statsd_family *f, const char *key, uint32_t key_size) {
  const char *text;
  size_t value_at, rate_at, size = statsd_line(k->maker, f, key, key_size, &text, &value_at, &rate_at);
  l->text = size ? malloc(size) : NULL;
  if (!l->text) return false;
  memcpy(l->text, text, size);
  l->size = (uint32_t)size, l->value_at = (uint32_t)value_at, l->rate_at = (uint32_t)rate_at;
  return true;
}

/* The line of an event's series; NULL: that has gone. */
static const line *line_of(chalk_statsd_raw *k, const sampling *m, const chalk_event *e) {
  if (!grow_lines(k, e->series)) return NULL;
  line *l = &k->lines[e->series];
  if (l->text && l->generation == e->generation) return l;
  uint64_t key[SERIES_KEY_WORDS + STATSD_TEXT_ROOM / 8];
  uint32_t n = series_key_read(k->segment, e->metric, e->series, e->generation, key);
  free(l->text);
  *l = (line){.generation = e->generation};
  return n != NONE && make_line(k, l, m->family, (const char *)key, n) ? l : NULL;
}

/* The queue */

/* A packet with so much room. */
static packet *room_for(chalk_statsd_raw *k, size_t n) {
  if (k->last && !k->last->is_whole && k->last->size + n <= k->packet_most) return k->last;
  packet *p = malloc(sizeof *p + k->packet_most);
  if (!p) return NULL;
  p->next = NULL;
  p->size = p->values = 0;
  p->is_whole = false;
  if (k->last) k->last->is_whole = true;
  *(k->last ? &k->last->next : &k->first) = p;
  k->last = p;
  k->packets++;
  return p;
}

static inline char *append(char *o, const char *s, size_t n) {
  memcpy(o, s, n);
  return o + n;
}

static bool put_line(chalk_statsd_raw *k, sampling *m, const line *l, const char *rate, double v) {
  char number[TEXT_NUMBER_MAX];
  size_t number_size = text_double(number, v), rate_size = rate[0] ? strlen(rate) + 2 : 0;
  size_t n = l->size + number_size + rate_size;
  if (n > k->packet_most) {
    k->totals.too_long++;
    m->has_long = true;
    return true;
  }
  packet *p = room_for(k, n);
  if (!p) return false;
  char *o = append(p->bytes + p->size, l->text, l->value_at);
  o = append(o, number, number_size);
  o = append(o, l->text + l->value_at, l->rate_at - l->value_at);
  if (rate_size) o = append(append(o, "|@", 2), rate, rate_size - 2);
  append(o, l->text + l->rate_at, l->size - l->rate_at);
  p->size += (uint32_t)n;
  p->values++;
  k->values++;
  k->totals.values++;
  return true;
}

static void put_event(chalk_statsd_raw *k, sampling *m, const chalk_event *e) {
  if (m->rate < 1 && random_unit(k) >= m->rate) return;
  const char *rate = m->rate < 1 && random_unit(k) < m->fraction ? m->more : m->less;
  const line *l = k->values < k->most ? line_of(k, m, e) : NULL;
  double v = e->value * m->family->factor;
  if (!l || !put_line(k, m, l, rate, isfinite(v) ? v : copysign(0x1.fffffffffffffp1023, v))) k->totals.dropped++;
}

int chalk_statsd_raw_take(chalk_statsd_raw *k, const chalk_tap *tap, uint32_t n) {
  const chalk_event *events = chalk_tap_events(tap);
  if (n > tap_size(tap)) n = tap_size(tap);
  if (k->batch != tap_batch(tap)) k->at = 0; /* the caller may have left the one before unfinished */
  k->batch = tap_batch(tap);
  for (; k->at < n; k->at++) {
    const chalk_event *e = &events[k->at];
    if (e->verb != CHALK_EVENT_RECORD || e->metric >= METRICS) continue;
    sampling *m = sampling_of(k, e->metric);
    if (!m) return (int)e->metric;
    if (m->family) put_event(k, m, e);
  }
  k->at = 0;
  return -1;
}

uint32_t chalk_statsd_raw_packets(const chalk_statsd_raw *k, int partial) {
  return k->packets - (k->last && !k->last->is_whole && !partial);
}

const char *chalk_statsd_raw_packet(chalk_statsd_raw *k, uint32_t *size) {
  if (!k->first) return NULL;
  k->first->is_whole = true;
  *size = k->first->size;
  return k->first->bytes;
}

void chalk_statsd_raw_next(chalk_statsd_raw *k) {
  packet *p = k->first;
  if (!p) return;
  k->first = p->next;
  if (!k->first) k->last = NULL;
  k->values -= p->values;
  k->packets--;
  free(p);
}

void chalk_statsd_raw_count(const chalk_statsd_raw *k, chalk_statsd_raw_totals *totals) { *totals = k->totals; }

int chalk_statsd_raw_long(chalk_statsd_raw *k) {
  for (uint32_t i = 0; i < METRICS; i++) {
    if (!k->metrics[i].has_long) continue;
    k->metrics[i].has_long = false;
    return (int)i;
  }
  return -1;
}
