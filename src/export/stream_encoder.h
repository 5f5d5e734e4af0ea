/*
 * The messages of the event stream: an event, or a metric's metadata, in protobuf, with the length before each.
 *
 *     message    varint length, Event
 *     Event      1 metadata, 2 metric
 *     Metadata   1 name, 2 type (0 counter, 1 gauge, 2 histogram), 3 unit, 4 description
 *     Metric     1 name, 2 timestamp (1 seconds, 2 nanos), 3 labels (1 key, 2 value), and an operation:
 *                4 increment counter, 6 increment gauge, 7 decrement gauge, 8 set gauge, 9 record histogram
 *
 * The fields are those of event.proto of metrics-exporter-tcp. What is the same in all messages of a series, its name
 * and labels, is encoded at the series' first event and kept, so a further event costs two copies, a time and a number.
 */
#ifndef STREAM_ENCODER_H
#define STREAM_ENCODER_H

#include "export/by_series.h"
#include "shm/segment.h"

/* A metric as it was defined, with its fields encoded. */
typedef struct stream_metric {
  uint32_t generation; /* of the metric's overflow series; another one: the number has gone to another metric */
  char *metadata;      /* a whole message */
  size_t metadata_size;
  char *name; /* the field of a Metric */
  size_t name_size;
  char *constants; /* the labels of all its series, as fields of a Metric */
  size_t constants_size;
  char **keys; /* of its tags, as fields of a label */
  size_t *key_sizes;
  uint32_t n_keys;
} stream_metric;

/* All zero but `segment` knows no metrics. */
typedef struct stream_encoder {
  chalk_segment *segment;
  stream_metric *metrics; /* in the order in which they were defined; a metric that is defined again is added */
  uint32_t n_metrics, metrics_capacity;
  uint32_t index[METRICS]; /* by metric: the index of its last definition in `metrics`, plus 1; 0: none */
  by_series series;        /* stream_series */
  char *message;           /* the message that was encoded last */
  size_t message_capacity;
} stream_encoder;

/* Frees all memory and forgets all metrics. */
void stream_encoder_clear(stream_encoder *encoder);

/* As chalk_stream_define. */
int stream_encoder_define(stream_encoder *encoder, uint32_t metric, const chalk_stream_metric *definition);
/* The definition of the metric that has the number now. NULL: it has to be defined. */
static inline const stream_metric *stream_encoder_metric(const stream_encoder *encoder, uint32_t metric) {
  uint32_t index = metric < METRICS ? encoder->index[metric] : 0;
  const stream_metric *m = index ? &encoder->metrics[index - 1] : NULL;
  return m && m->generation == atomic_load(&encoder->segment->series[metric].generation) ? m : NULL;
}
/* Encodes an event of this metric to `message`. Returns the size. 0: the event's series is gone, or out of memory. */
size_t stream_encoder_event(stream_encoder *encoder, const stream_metric *m, const chalk_event *event);

#endif
