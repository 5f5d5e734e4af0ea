#include "export/stream_encoder.h"

#include <stdlib.h>
#include <string.h>

#include "export/wire.h"
#include "series/series.h"
#include "series/series_key.h"
#include "value/kind.h"

enum { LENGTH_MOST = 10 }; /* bytes of the length before a message */

enum { EVENT_METADATA = 1, EVENT_METRIC = 2 };
enum { METADATA_NAME = 1, METADATA_TYPE = 2, METADATA_UNIT = 3, METADATA_DESCRIPTION = 4 };
enum { METRIC_NAME = 1, METRIC_TIMESTAMP = 2, METRIC_LABELS = 3 };
enum { LABEL_KEY = 1, LABEL_VALUE = 2, TIME_SECONDS = 1, TIME_NANOS = 2 };

/* The field of each verb in a Metric. */
static const uint8_t operations[] = {[CHALK_EVENT_INC] = 4,
                                     [CHALK_EVENT_UP] = 6,
                                     [CHALK_EVENT_DOWN] = 7,
                                     [CHALK_EVENT_SET] = 8,
                                     [CHALK_EVENT_RECORD] = 9};

/* The fields of a series that are the same in all its messages. */
typedef struct stream_series {
  uint32_t generation;
  uint32_t name_size, labels_size;
  char *fields; /* the name, then the labels */
} stream_series;

static void free_metric(stream_metric *m) {
  free(m->metadata), free(m->name), free(m->constants), free(m->key_sizes);
  for (uint32_t j = 0; j < m->n_keys; j++) free(m->keys[j]);
  free(m->keys);
}

void stream_encoder_clear(stream_encoder *encoder) {
  stream_series *series = encoder->series.items;
  for (uint32_t i = 0; i < encoder->n_metrics; i++) free_metric(&encoder->metrics[i]);
  for (uint32_t i = 0; i < encoder->series.n; i++) free(series[i].fields);
  free(encoder->metrics), free(series), free(encoder->message);
  *encoder = (stream_encoder){.segment = encoder->segment};
}

/* Metrics */

/* A field with a text, in memory of its own. NULL: out of memory. */
static char *field_of(uint32_t field, const char *text, size_t *size) {
  size_t n = strlen(text);
  *size = wire_bytes_size(n);
  char *o = malloc(*size);
  if (o) wire_bytes(o, field, text, n);
  return o;
}

/* The size of a label, whose key is a field of `key` bytes and whose value has `value` bytes. */
static size_t label_size(size_t key, size_t value) { return wire_bytes_size(key + wire_bytes_size(value)); }

/* Writes a label whose key is encoded already. */
static char *put_label(char *o, const char *key, size_t key_size, const char *value, size_t n) {
  o = wire_length(o, METRIC_LABELS, key_size + wire_bytes_size(n));
  memcpy(o, key, key_size);
  return wire_bytes(o + key_size, LABEL_VALUE, value, n);
}

static bool make_constants(stream_metric *m, const chalk_stream_metric *definition) {
  const char *const *texts = definition->constants; /* names and values by turns */
  m->constants_size = 0;
  for (uint32_t i = 0; i < definition->n_constants; i++) {
    m->constants_size += label_size(wire_bytes_size(strlen(texts[2 * i])), strlen(texts[2 * i + 1]));
  }
  char *o = m->constants = malloc(m->constants_size + 1);
  for (uint32_t i = 0; i < definition->n_constants && o; i++) {
    size_t size;
    char *key = field_of(LABEL_KEY, texts[2 * i], &size);
    o = key ? put_label(o, key, size, texts[2 * i + 1], strlen(texts[2 * i + 1])) : NULL;
    free(key);
  }
  return o != NULL;
}

static bool make_keys(stream_metric *m, const chalk_stream_metric *definition) {
  uint32_t n = definition->n_labels;
  m->keys = calloc(n + 1, sizeof *m->keys);
  m->key_sizes = calloc(n + 1, sizeof *m->key_sizes);
  if (!m->keys || !m->key_sizes) return false;
  for (; m->n_keys < n; m->n_keys++) {
    m->keys[m->n_keys] = field_of(LABEL_KEY, definition->labels[m->n_keys], &m->key_sizes[m->n_keys]);
    if (!m->keys[m->n_keys]) return false;
  }
  return true;
}

static bool make_metadata(stream_metric *m, const chalk_stream_metric *definition) {
  const char *name = definition->name, *unit = definition->unit, *description = definition->description;
  size_t name_size = strlen(name), unit_size = strlen(unit), description_size = strlen(description);
  size_t size = wire_bytes_size(name_size) + 2 + wire_bytes_size(description_size);
  if (unit_size) size += wire_bytes_size(unit_size);
  size_t event = wire_bytes_size(size);
  char *o = m->metadata = malloc(wire_varint_size(event) + event);
  if (!o) return false;
  o = wire_length(wire_varint(o, event), EVENT_METADATA, size);
  o = wire_bytes(o, METADATA_NAME, name, name_size);
  o = wire_number(o, METADATA_TYPE, kind_of(definition->kind)->stream_type);
  if (unit_size) o = wire_bytes(o, METADATA_UNIT, unit, unit_size);
  o = wire_bytes(o, METADATA_DESCRIPTION, description, description_size);
  m->metadata_size = (size_t)(o - m->metadata);
  return true;
}

int stream_encoder_define(stream_encoder *encoder, uint32_t metric, const chalk_stream_metric *definition) {
  if (metric >= METRICS || definition->kind < CHALK_COUNT || definition->kind > CHALK_HISTOGRAM) return CHALK_EINVALID;
  if (encoder->n_metrics == encoder->metrics_capacity) {
    uint32_t capacity = encoder->metrics_capacity ? 2 * encoder->metrics_capacity : 64;
    stream_metric *metrics = realloc(encoder->metrics, capacity * sizeof *metrics);
    if (!metrics) return CHALK_EMEMORY;
    encoder->metrics = metrics;
    encoder->metrics_capacity = capacity;
  }
  stream_metric *m = &encoder->metrics[encoder->n_metrics];
  *m = (stream_metric){.generation = atomic_load(&encoder->segment->series[metric].generation)};
  m->name = field_of(METRIC_NAME, definition->name, &m->name_size);
  if (!m->name || !make_constants(m, definition) || !make_keys(m, definition) || !make_metadata(m, definition)) {
    free_metric(m);
    return CHALK_EMEMORY;
  }
  encoder->index[metric] = ++encoder->n_metrics;
  return CHALK_OK;
}

/* Series */

static bool make_series(stream_series *series, const stream_metric *m, const char *key, uint32_t key_size) {
  size_t capacity = m->name_size + m->constants_size;
  const char *value;
  uint32_t at = 0, n;
  for (uint32_t i = 0; i < m->n_keys && key_next(key, key_size, &at, &value, &n); i++) {
    capacity += label_size(m->key_sizes[i], n);
  }
  char *o = series->fields = malloc(capacity);
  if (!o) return false;
  memcpy(o, m->name, m->name_size), o += m->name_size;
  memcpy(o, m->constants, m->constants_size), o += m->constants_size;
  at = 0;
  for (uint32_t i = 0; i < m->n_keys && key_next(key, key_size, &at, &value, &n); i++) {
    if (n > 0) o = put_label(o, m->keys[i], m->key_sizes[i], value, n);
  }
  series->name_size = (uint32_t)m->name_size;
  series->labels_size = (uint32_t)((size_t)(o - series->fields) - m->name_size);
  return true;
}

/* The fields of an event's series. NULL: the series is gone, or out of memory. */
static const stream_series *series_of(stream_encoder *encoder, const stream_metric *m, const chalk_event *event) {
  if (event->series >= series_top(encoder->segment)) return NULL;
  stream_series *series = by_series_at(&encoder->series, event->series, sizeof *series);
  if (!series) return NULL;
  if (series->fields && series->generation == event->generation) return series;
  uint64_t key[SERIES_KEY_WORDS];
  uint32_t n = series_key_read(encoder->segment, event->metric, event->series, event->generation, key);
  free(series->fields);
  *series = (stream_series){.generation = event->generation};
  return n != NONE && make_series(series, m, (const char *)key, n) ? series : NULL;
}

/* Events */

static size_t operation_size(const chalk_event *event) {
  return event->verb == CHALK_EVENT_INC ? 1 + wire_varint_size((uint64_t)event->value) : 1 + sizeof(double);
}

static char *put_operation(char *o, const chalk_event *event) {
  uint32_t field = operations[event->verb];
  if (event->verb == CHALK_EVENT_INC) return wire_number(o, field, (uint64_t)event->value);
  return wire_double(o, field, event->value);
}

static bool reserve(stream_encoder *encoder, size_t n) {
  if (n <= encoder->message_capacity) return true;
  char *message = realloc(encoder->message, 2 * n);
  if (!message) return false;
  encoder->message = message;
  encoder->message_capacity = 2 * n;
  return true;
}

size_t stream_encoder_event(stream_encoder *encoder, const stream_metric *m, const chalk_event *event) {
  const stream_series *series = series_of(encoder, m, event);
  if (!series) return 0;
  uint64_t seconds = event->time / 1000000000u, nanos = event->time % 1000000000u;
  size_t time_size = 2 + wire_varint_size(seconds) + wire_varint_size(nanos);
  size_t metric_size = series->name_size + series->labels_size + wire_bytes_size(time_size) + operation_size(event);
  size_t event_size = wire_bytes_size(metric_size);
  if (!reserve(encoder, event_size + LENGTH_MOST)) return 0;
  char *o = wire_length(wire_varint(encoder->message, event_size), EVENT_METRIC, metric_size);
  memcpy(o, series->fields, series->name_size), o += series->name_size;
  o = wire_length(o, METRIC_TIMESTAMP, time_size);
  o = wire_number(wire_number(o, TIME_SECONDS, seconds), TIME_NANOS, nanos);
  memcpy(o, series->fields + series->name_size, series->labels_size), o += series->labels_size;
  o = put_operation(o, event);
  return (size_t)(o - encoder->message);
}
