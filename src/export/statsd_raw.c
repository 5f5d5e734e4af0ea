/*
 * StatsD lines of single values from the event tap: a queue of packets, each ready to be sent.
 *
 *     event --> line of its series --> last packet of the queue
 *
 * All lines of a series differ only in the value and the rate. The line without them is made at the series' first value
 * and kept, so a further value costs two copies and a number. The queue has a limit of values. Values beyond it are
 * dropped and counted, so a receiver that does not answer costs a limited amount of memory.
 *
 * A rate below 1 samples: a value is sent with that probability, and then stands for 1 / rate values. Receivers take
 * whole numbers only, so the value stands for one of the two whole numbers next to 1 / rate, chosen at random so that
 * the mean is 1 / rate.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "series/series_key.h"
#include "export/by_series.h"
#include "export/statsd_lines.h"
#include "export/statsd_text.h"
#include "record/tap.h"
#include "base/text.h"

typedef struct packet {
  struct packet *next;
  uint32_t size, values;
  bool is_closed; /* no value is added to it any more: it is full, or the caller is sending it */
  char bytes[];
} packet;

/* How a metric's values are sent. */
typedef struct sampling {
  const chalk_statsd_family *family; /* NULL: they are not sent */
  uint32_t generation;               /* of the metric's overflow series; another one: the number has another metric */
  bool is_known;                     /* whether the metric was defined */
  bool has_long;   /* whether it had a line that is too long, and chalk_statsd_raw_long has not reported it */
  double rate;     /* the probability with which a value is sent */
  double fraction; /* the share of the sent values that stand for the larger number */
  char less[STATSD_RATE_MOST + 1], more[STATSD_RATE_MOST + 1]; /* the rates of both numbers; "": none */
} sampling;

/* The line of a series without a value. */
typedef struct line {
  uint32_t generation;
  uint32_t size, value_at, rate_at; /* of the text: its size, where the value and the rate belong */
  char *text;
} line;

struct chalk_statsd_raw {
  chalk_segment *segment;
  packet *first, *last;
  uint32_t packets, packet_most; /* how many there are, and the most bytes of each */
  uint64_t values, most;         /* how many are in the queue, and their limit */
  uint64_t batch;                /* of the tap, as tap_batch */
  uint32_t at;                   /* the next event of that batch */
  uint64_t random;
  chalk_statsd_raw_totals totals;
  by_series lines;   /* line */
  statsd_lines made; /* where lines are made */
  sampling metrics[METRICS];
};

chalk_statsd_raw *chalk_statsd_raw_new(chalk_segment *g, uint32_t max_packet, uint64_t most) {
  chalk_statsd_raw *queue = max_packet > 0 ? calloc(1, sizeof *queue) : NULL;
  if (!queue) return NULL;
  queue->segment = g;
  queue->packet_most = max_packet;
  queue->most = most;
  queue->random = (uint64_t)(chalk_wall() * 1e6) ^ ((uint64_t)getpid() << 40);
  if (queue->random == 0) queue->random = 1;
  return queue;
}

void chalk_statsd_raw_free(chalk_statsd_raw *queue) {
  if (!queue) return;
  while (queue->first) chalk_statsd_raw_next(queue);
  line *lines = queue->lines.items;
  for (uint32_t i = 0; i < queue->lines.n; i++) free(lines[i].text);
  free(lines);
  statsd_lines_free(&queue->made);
  free(queue);
}

/* Sampling */

/* A random number in [0, 1). */
static double random_unit(chalk_statsd_raw *queue) {
  uint64_t x = queue->random;
  x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  queue->random = x;
  return (double)(x >> 11) * 0x1p-53;
}

/* Writes the rate of a value that stands for n, with a NUL; nothing if it stands for itself. */
static void put_rate(char *out, uint64_t n) { out[n > 1 ? chalk_statsd_rate(out, n) : 0] = 0; }

int chalk_statsd_raw_define(chalk_statsd_raw *queue, uint32_t metric, const chalk_statsd_family *f, double rate) {
  if (metric >= METRICS || !(rate >= 0 && rate <= 1) || (f && !statsd_family_fits(f))) return CHALK_EINVALID;
  double stands_for = rate > 0 ? 1 / rate : 0;
  if (stands_for >= CHALK_STATSD_WEIGHT + 1.0) return CHALK_EINVALID;
  uint64_t whole = (uint64_t)stands_for;
  sampling *sampling = &queue->metrics[metric];
  *sampling = (struct sampling){.family = f, .is_known = true, .rate = rate, .fraction = stands_for - (double)whole};
  sampling->generation = atomic_load(&queue->segment->series[metric].generation);
  put_rate(sampling->less, whole);
  put_rate(sampling->more, whole + 1);
  return CHALK_OK;
}

/* How a metric's values are sent. NULL: the metric has to be defined. */
static sampling *sampling_of(chalk_statsd_raw *queue, uint32_t number) {
  sampling *sampling = &queue->metrics[number];
  return sampling->is_known && sampling->generation == atomic_load(&queue->segment->series[number].generation)
             ? sampling
             : NULL;
}

/* Lines */

/* Makes a series' line. False: out of memory. */
static bool make_line(chalk_statsd_raw *queue, line *line, const chalk_statsd_family *f, const char *key,
                      uint32_t key_size) {
  statsd_pattern pattern;
  statsd_pattern_make(&pattern, f);
  statsd_frame frame = statsd_frame_of(&pattern, key, key_size);
  statsd_lines *made = &queue->made;
  statsd_lines_clear(made);
  statsd_lines_begin(made, &frame, statsd_no_suffix);
  line->value_at = (uint32_t)made->size;
  line->rate_at = (uint32_t)(made->size + 1 + pattern.type.size);
  statsd_lines_end(made, &frame, pattern.type, NULL, NULL, false);
  line->text = made->failed ? NULL : malloc(made->size);
  if (!line->text) return false;
  memcpy(line->text, made->text, made->size);
  line->size = (uint32_t)made->size;
  return true;
}

/* The line of an event's series. NULL: the series is gone, or out of memory. */
static const line *line_of(chalk_statsd_raw *queue, const sampling *sampling, const chalk_event *event) {
  line *line = by_series_at(&queue->lines, event->series, sizeof *line);
  if (!line) return NULL;
  if (line->text && line->generation == event->generation) return line;
  uint64_t key[SERIES_KEY_WORDS + STATSD_TEXT_PADDING / 8];
  uint32_t n = series_key_read(queue->segment, event->metric, event->series, event->generation, key);
  free(line->text);
  *line = (struct line){.generation = event->generation};
  return n != NONE && make_line(queue, line, sampling->family, (const char *)key, n) ? line : NULL;
}

/* The queue */

/* The last packet if it has space for n bytes, else a new one. NULL: out of memory. */
static packet *packet_for(chalk_statsd_raw *queue, size_t n) {
  if (queue->last && !queue->last->is_closed && queue->last->size + n <= queue->packet_most) return queue->last;
  packet *packet = malloc(sizeof *packet + queue->packet_most);
  if (!packet) return NULL;
  packet->next = NULL;
  packet->size = packet->values = 0;
  packet->is_closed = false;
  if (queue->last) queue->last->is_closed = true;
  *(queue->last ? &queue->last->next : &queue->first) = packet;
  queue->last = packet;
  queue->packets++;
  return packet;
}

static inline char *append(char *o, const char *s, size_t n) {
  memcpy(o, s, n);
  return o + n;
}

/* Puts a value into the queue. A line that no packet can take is counted only. False: out of memory. */
static bool put_line(chalk_statsd_raw *queue, sampling *sampling, const line *line, const char *rate, double v) {
  char number[TEXT_NUMBER_MAX];
  size_t number_size = text_double(number, v), rate_size = rate[0] ? strlen(rate) + 2 : 0;
  size_t n = line->size + number_size + rate_size;
  if (n > queue->packet_most) {
    queue->totals.too_long++;
    sampling->has_long = true;
    return true;
  }
  packet *packet = packet_for(queue, n);
  if (!packet) return false;
  char *o = append(packet->bytes + packet->size, line->text, line->value_at);
  o = append(o, number, number_size);
  o = append(o, line->text + line->value_at, line->rate_at - line->value_at);
  if (rate_size) o = append(append(o, "|@", 2), rate, rate_size - 2);
  append(o, line->text + line->rate_at, line->size - line->rate_at);
  packet->size += (uint32_t)n;
  packet->values++;
  queue->values++;
  queue->totals.values++;
  return true;
}

/* Samples an event's value, and puts it into the queue. An infinite product with the factor is made finite. */
static void put_event(chalk_statsd_raw *queue, sampling *sampling, const chalk_event *event) {
  if (sampling->rate < 1 && random_unit(queue) >= sampling->rate) return;
  const char *rate = sampling->rate < 1 && random_unit(queue) < sampling->fraction ? sampling->more : sampling->less;
  const line *line = queue->values < queue->most ? line_of(queue, sampling, event) : NULL;
  double v = event->value * sampling->family->factor;
  if (!line || !put_line(queue, sampling, line, rate, isfinite(v) ? v : copysign(DBL_MAX, v))) queue->totals.dropped++;
}

int chalk_statsd_raw_take(chalk_statsd_raw *queue, const chalk_tap *tap, uint32_t n) {
  const chalk_event *events = chalk_tap_events(tap);
  if (n > tap_size(tap)) n = tap_size(tap);
  if (queue->batch != tap_batch(tap)) queue->at = 0; /* the caller may have left the batch before unfinished */
  queue->batch = tap_batch(tap);
  for (; queue->at < n; queue->at++) {
    const chalk_event *event = &events[queue->at];
    if (event->verb != CHALK_EVENT_RECORD || event->metric >= METRICS) continue;
    sampling *sampling = sampling_of(queue, event->metric);
    if (!sampling) return (int)event->metric;
    if (sampling->family) put_event(queue, sampling, event);
  }
  queue->at = 0;
  return -1;
}

uint32_t chalk_statsd_raw_packets(const chalk_statsd_raw *queue, int partial) {
  return queue->packets - (queue->last && !queue->last->is_closed && !partial);
}

const char *chalk_statsd_raw_packet(chalk_statsd_raw *queue, uint32_t *size) {
  if (!queue->first) return NULL;
  queue->first->is_closed = true;
  *size = queue->first->size;
  return queue->first->bytes;
}

void chalk_statsd_raw_next(chalk_statsd_raw *queue) {
  packet *packet = queue->first;
  if (!packet) return;
  queue->first = packet->next;
  if (!queue->first) queue->last = NULL;
  queue->values -= packet->values;
  queue->packets--;
  free(packet);
}

void chalk_statsd_raw_count(const chalk_statsd_raw *queue, chalk_statsd_raw_totals *totals) { *totals = queue->totals; }

int chalk_statsd_raw_long(chalk_statsd_raw *queue) {
  for (uint32_t i = 0; i < METRICS; i++) {
    if (!queue->metrics[i].has_long) continue;
    queue->metrics[i].has_long = false;
    return (int)i;
  }
  return -1;
}
