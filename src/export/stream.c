/*
 * The event stream: events of the tap as protobuf messages, the length before each, to clients over stream sockets.
 *
 *   tap --> encode --> log --> socket of each client
 *
 * A message is encoded once. What is the same in all messages of a series, its name and labels, is encoded when the
 * first of them comes, and kept. A client is a socket and a number in the log: what it is to get next; what is left of a
 * message that a full socket took a part of is copied to the client, so that the log can go on without it. Metadata is
 * not in the log, where it could be dropped: each client knows how much of it it has been told.
 *
 * Everything here returns at once. The messages' fields are those of metrics-exporter-tcp's event.proto:
 *
 *   Event     1 metadata, 2 metric
 *   Metadata  1 name, 2 type (0 counter, 1 gauge, 2 histogram), 3 unit, 4 description
 *   Metric    1 name, 2 timestamp (1 seconds, 2 nanos), 3 labels (1 key, 2 value), and an operation:
 *             4 increment counter, 6 increment gauge, 7 decrement gauge, 8 set gauge, 9 record histogram
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shm/process.h"
#include "shm/segment.h"
#include "series/series.h"
#include "series/series_key.h"
#include "export/by_series.h"
#include "export/stream_log.h"
#include "record/tap.h"
#include "export/wire.h"
#include "value/kind.h"

enum { CLIENTS = 64, WRITE = 1 << 18, OPERATION = 16, TIME = 32, FRAME = 32 };

enum { EVENT_METADATA = 1, EVENT_METRIC = 2 };
enum { METADATA_NAME = 1, METADATA_TYPE = 2, METADATA_UNIT = 3, METADATA_DESCRIPTION = 4 };
enum { METRIC_NAME = 1, METRIC_TIMESTAMP = 2, METRIC_LABELS = 3 };
enum { LABEL_KEY = 1, LABEL_VALUE = 2, TIME_SECONDS = 1, TIME_NANOS = 2 };

/* The field of each verb. */
static const uint8_t operations[] = {[CHALK_EVENT_INC] = 4,
                                     [CHALK_EVENT_UP] = 6,
                                     [CHALK_EVENT_DOWN] = 7,
                                     [CHALK_EVENT_SET] = 8,
                                     [CHALK_EVENT_RECORD] = 9};

/* A metric as it is told. */
typedef struct told_metric {
  uint32_t metric, generation; /* of its overflow series: the number may go to another metric */
  char *frame;                 /* its metadata as a whole message */
  size_t frame_size;
  char *name; /* the field of a Metric */
  size_t name_size;
  char *constants; /* labels that all its series have, as fields */
  size_t constants_size;
  char **keys; /* of the labels, as fields of one */
  size_t *key_sizes;
  uint32_t n_keys;
} told_metric;

/* The fields of a series that are the same in all its messages. */
typedef struct told_series {
  uint32_t generation;
  uint32_t name_size, labels_size;
  char *fields; /* the name's, then those of the labels */
} told_series;

typedef struct client {
  int fd;        /* -1: none */
  uint32_t told; /* how many metrics */
  uint64_t next; /* message */
  char *rest;    /* of what was sent in part */
  size_t rest_at, rest_size;
  bool is_blocked, is_broken;
} client;

struct chalk_stream {
  chalk_stream *other; /* of this process; process lock */
  chalk_segment *segment;
  int listener;
  stream_log log;
  uint64_t skipped, unknown;
  told_metric *metrics; /* in the order they were told in */
  uint32_t n_metrics, metrics_room;
  uint32_t places[METRICS]; /* among those, and 1 */
  by_series series;         /* told_series */
  client clients[CLIENTS];
  uint32_t at; /* of the tap's batch: what is to be taken next */
  uint64_t batch;
  char *message;
  size_t message_room;
};

static chalk_stream *streams;

/* The parent's clients are none of a forked child's. Its listener is listen.c's to close. */
static void in_child(void) {
  for (chalk_stream *k = streams; k; k = k->other) {
    k->listener = -1;
    for (uint32_t i = 0; i < CLIENTS; i++) {
      if (k->clients[i].fd >= 0) close(k->clients[i].fd);
      k->clients[i].fd = -1;
    }
  }
}

chalk_stream *chalk_stream_new(chalk_segment *g, uint32_t most, int listener) {
  process_at_fork(in_child);
  chalk_stream *k = calloc(1, sizeof *k);
  if (!k) return NULL;
  k->segment = g;
  k->listener = listener;
  k->log.most = most ? most : UINT64_MAX;
  for (uint32_t i = 0; i < CLIENTS; i++) k->clients[i].fd = -1;
  process_lock();
  k->other = streams;
  streams = k;
  process_unlock();
  return k;
}

static void free_metric(told_metric *m) {
  free(m->frame), free(m->name), free(m->constants), free(m->key_sizes);
  for (uint32_t j = 0; j < m->n_keys; j++) free(m->keys[j]);
  free(m->keys);
}

/* What is known is forgotten: nobody listens. */
static void forget(chalk_stream *k) {
  stream_log_free(&k->log);
  for (uint32_t i = 0; i < k->n_metrics; i++) free_metric(&k->metrics[i]);
  told_series *series = k->series.items;
  for (uint32_t i = 0; i < k->series.n; i++) free(series[i].fields);
  free(k->metrics), free(series), free(k->message);
  k->metrics = NULL, k->message = NULL;
  k->series = (by_series){0};
  k->n_metrics = k->metrics_room = 0;
  k->message_room = 0;
  memset(k->places, 0, sizeof k->places);
}

void chalk_stream_free(chalk_stream *k) {
  if (!k) return;
  process_lock();
  for (chalk_stream **p = &streams; *p; p = &(*p)->other) {
    if (*p == k) {
      *p = k->other;
      break;
    }
  }
  process_unlock();
  for (uint32_t i = 0; i < CLIENTS; i++) chalk_stream_close(k, i);
  if (k->listener >= 0) close(k->listener);
  forget(k);
  free(k);
}

/* Metrics */

/* A field of text, as memory of its own. */
static char *field_of(uint32_t field, const char *text, size_t *size) {
  size_t n = strlen(text);
  *size = wire_bytes_size(n);
  char *o = malloc(*size);
  if (o) wire_bytes(o, field, text, n);
  return o;
}

static size_t label_size(size_t key, size_t value) { return wire_bytes_size(key + wire_bytes_size(value)); }

/* A label whose key is a field already. */
static char *put_label(char *o, const char *key, size_t key_size, const char *value, size_t n) {
  o = wire_length(o, METRIC_LABELS, key_size + wire_bytes_size(n));
  memcpy(o, key, key_size);
  return wire_bytes(o + key_size, LABEL_VALUE, value, n);
}

static bool make_constants(told_metric *m, const chalk_stream_metric *d) {
  m->constants_size = 0;
  for (uint32_t i = 0; i < d->n_constants; i++) {
    size_t key = wire_bytes_size(strlen(d->constants[2 * i]));
    m->constants_size += label_size(key, strlen(d->constants[2 * i + 1]));
  }
  char *o = m->constants = malloc(m->constants_size + 1);
  for (uint32_t i = 0; i < d->n_constants && o; i++) {
    size_t size;
    char *key = field_of(LABEL_KEY, d->constants[2 * i], &size);
    o = key ? put_label(o, key, size, d->constants[2 * i + 1], strlen(d->constants[2 * i + 1])) : NULL;
    free(key);
  }
  return o != NULL;
}

static bool make_keys(told_metric *m, const chalk_stream_metric *d) {
  m->keys = calloc(d->n_labels + 1, sizeof *m->keys);
  m->key_sizes = calloc(d->n_labels + 1, sizeof *m->key_sizes);
  if (!m->keys || !m->key_sizes) return false;
  for (; m->n_keys < d->n_labels; m->n_keys++) {
    m->keys[m->n_keys] = field_of(LABEL_KEY, d->labels[m->n_keys], &m->key_sizes[m->n_keys]);
    if (!m->keys[m->n_keys]) return false;
  }
  return true;
}

static bool make_metadata(told_metric *m, const chalk_stream_metric *d) {
  size_t name = strlen(d->name), unit = strlen(d->unit), description = strlen(d->description);
  size_t size = wire_bytes_size(name) + 2 + (unit ? wire_bytes_size(unit) : 0) + wire_bytes_size(description);
  size_t event = wire_bytes_size(size);
  char *o = m->frame = malloc(wire_varint_size(event) + event);
  if (!o) return false;
  o = wire_length(wire_varint(o, event), EVENT_METADATA, size);
  o = wire_bytes(o, METADATA_NAME, d->name, name);
  o = wire_number(o, METADATA_TYPE, kind_of(d->kind)->stream_type);
  if (unit) o = wire_bytes(o, METADATA_UNIT, d->unit, unit);
  o = wire_bytes(o, METADATA_DESCRIPTION, d->description, description);
  m->frame_size = (size_t)(o - m->frame);
  return true;
}

static uint32_t generation_of(const chalk_segment *g, uint32_t id) { return atomic_load(&g->series[id].generation); }

int chalk_stream_define(chalk_stream *k, uint32_t metric, const chalk_stream_metric *d) {
  if (metric >= METRICS || d->kind < CHALK_COUNT || d->kind > CHALK_HISTOGRAM) return CHALK_EINVALID;
  if (k->n_metrics == k->metrics_room) {
    uint32_t room = k->metrics_room ? 2 * k->metrics_room : 64;
    told_metric *more = realloc(k->metrics, room * sizeof *more);
    if (!more) return CHALK_EMEMORY;
    k->metrics = more;
    k->metrics_room = room;
  }
  told_metric *m = &k->metrics[k->n_metrics];
  *m = (told_metric){.metric = metric, .generation = generation_of(k->segment, metric)};
  m->name = field_of(METRIC_NAME, d->name, &m->name_size);
  if (!m->name || !make_constants(m, d) || !make_keys(m, d) || !make_metadata(m, d)) {
    free_metric(m);
    return CHALK_EMEMORY;
  }
  k->places[metric] = ++k->n_metrics;
  return CHALK_OK;
}

/* The metric of an event; NULL: it has not been told of, or its number was another's. */
static const told_metric *metric_of(const chalk_stream *k, uint32_t number) {
  uint32_t place = number < METRICS ? k->places[number] : 0;
  const told_metric *m = place ? &k->metrics[place - 1] : NULL;
  return m && m->generation == generation_of(k->segment, number) ? m : NULL;
}

int chalk_stream_knows(const chalk_stream *k, uint32_t metric) { return metric_of(k, metric) != NULL; }

/* Series */

static bool make_series(told_series *s, const told_metric *m, const char *key, uint32_t key_size) {
  size_t room = m->name_size + m->constants_size;
  const char *value;
  uint32_t at = 0, n;
  for (uint32_t i = 0; i < m->n_keys && key_next(key, key_size, &at, &value, &n); i++)
    room += label_size(m->key_sizes[i], n);
  char *o = s->fields = malloc(room);
  if (!o) return false;
  memcpy(o, m->name, m->name_size), o += m->name_size;
  memcpy(o, m->constants, m->constants_size), o += m->constants_size;
  at = 0;
  for (uint32_t i = 0; i < m->n_keys && key_next(key, key_size, &at, &value, &n); i++) {
    if (n > 0) o = put_label(o, m->keys[i], m->key_sizes[i], value, n);
  }
  s->name_size = (uint32_t)m->name_size;
  s->labels_size = (uint32_t)((size_t)(o - s->fields) - m->name_size);
  return true;
}

/* The fields of the event's series; NULL: that has gone. */
static const told_series *series_of(chalk_stream *k, const told_metric *m, const chalk_event *e) {
  if (e->series >= series_top(k->segment)) return NULL;
  told_series *s = by_series_at(&k->series, e->series, sizeof *s);
  if (!s) return NULL;
  if (s->fields && s->generation == e->generation) return s;
  uint64_t key[SERIES_KEY_WORDS];
  uint32_t n = series_key_read(k->segment, e->metric, e->series, e->generation, key);
  free(s->fields);
  *s = (told_series){.generation = e->generation};
  return n != NONE && make_series(s, m, (const char *)key, n) ? s : NULL;
}

/* Messages */

static char *put_time(char *o, uint64_t nanoseconds) {
  o = wire_number(o, TIME_SECONDS, nanoseconds / 1000000000u);
  return wire_number(o, TIME_NANOS, nanoseconds % 1000000000u);
}

static char *put_operation(char *o, const chalk_event *e) {
  if (e->verb == CHALK_EVENT_INC) return wire_number(o, operations[e->verb], (uint64_t)e->value);
  return wire_double(o, operations[e->verb], e->value);
}

/* A whole message; its size, 0 without memory. */
static size_t encode(chalk_stream *k, const told_series *s, const chalk_event *e) {
  char time[TIME], operation[OPERATION];
  size_t time_size = (size_t)(put_time(time, e->time) - time);
  size_t operation_size = (size_t)(put_operation(operation, e) - operation);
  size_t metric = s->name_size + s->labels_size + wire_bytes_size(time_size) + operation_size;
  size_t event = wire_bytes_size(metric);
  if (event + FRAME > k->message_room) {
    char *more = realloc(k->message, 2 * (event + FRAME));
    if (!more) return 0;
    k->message = more;
    k->message_room = 2 * (event + FRAME);
  }
  char *o = wire_length(wire_varint(k->message, event), EVENT_METRIC, metric);
  memcpy(o, s->fields, s->name_size), o += s->name_size;
  o = wire_bytes(o, METRIC_TIMESTAMP, time, time_size);
  memcpy(o, s->fields + s->name_size, s->labels_size), o += s->labels_size;
  memcpy(o, operation, operation_size), o += operation_size;
  return (size_t)(o - k->message);
}

/* Sending */

/* Writes; how much, 0 where the socket is full, or what went wrong stands in the client. */
static size_t put(client *c, struct iovec *parts, int n) {
  struct msghdr m = {.msg_iov = parts, .msg_iovlen = (size_t)n};
  ssize_t sent;
  do sent = sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent >= 0) return (size_t)sent;
  c->is_blocked = errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ENOMEM;
  c->is_broken = !c->is_blocked;
  return 0;
}

static void drop_rest(client *c) {
  free(c->rest);
  c->rest = NULL;
  c->rest_at = c->rest_size = 0;
}

static void send_rest(client *c) {
  struct iovec part = {c->rest + c->rest_at, c->rest_size - c->rest_at};
  c->rest_at += put(c, &part, 1);
  if (c->rest_at == c->rest_size) drop_rest(c);
}

/* The metadata that it lacks, as a rest to be sent. */
static void tell(chalk_stream *k, client *c) {
  size_t size = 0;
  for (uint32_t i = c->told; i < k->n_metrics; i++) size += k->metrics[i].frame_size;
  char *o = c->rest = malloc(size + 1);
  c->is_broken = !o;
  if (!o) return;
  for (; c->told < k->n_metrics; c->told++) {
    const told_metric *m = &k->metrics[c->told];
    if (m->frame) memcpy(o, m->frame, m->frame_size), o += m->frame_size;
  }
  c->rest_size = size;
}

static void catch_up(chalk_stream *k, client *c) {
  if (c->next >= k->log.first) return;
  k->skipped += k->log.first - c->next;
  c->next = k->log.first;
}

static void send_messages(chalk_stream *k, client *c) {
  struct iovec parts[2];
  int n = stream_log_read(&k->log, c->next, WRITE, parts);
  size_t sent = put(c, parts, n), rest;
  if (sent == 0) return;
  c->next = stream_log_after(&k->log, c->next, sent, &rest);
  if (rest == 0) return;
  c->rest = malloc(rest);
  c->is_broken = !c->rest;
  if (!c->rest) return;
  stream_log_rest(&k->log, c->next, rest, c->rest);
  c->rest_size = rest;
}

/* All that the client's socket takes. */
static void serve(chalk_stream *k, client *c) {
  while (!c->is_blocked && !c->is_broken) {
    catch_up(k, c);
    if (c->rest) {
      send_rest(c);
    } else if (c->told < k->n_metrics) {
      tell(k, c);
    } else if (c->next < k->log.next) {
      send_messages(k, c);
    } else {
      return;
    }
  }
}

static void serve_all(chalk_stream *k) {
  uint64_t first = k->log.next;
  for (uint32_t i = 0; i < CLIENTS; i++) {
    client *c = &k->clients[i];
    if (c->fd < 0) continue;
    serve(k, c);
    if (!c->is_broken && c->next < first) first = c->next;
  }
  if (first > k->log.first) stream_log_drop(&k->log, first);
  stream_log_trim(&k->log);
}

void chalk_stream_send(chalk_stream *k) {
  for (uint32_t i = 0; i < CLIENTS; i++) k->clients[i].is_blocked = false;
  serve_all(k);
}

/* Makes room: those whose sockets take more get what they have not, before the oldest message goes. */
static void make_room(chalk_stream *k) {
  bool is_due = false;
  for (uint32_t i = 0; i < CLIENTS && !is_due; i++) {
    const client *c = &k->clients[i];
    is_due = c->fd >= 0 && !c->is_blocked && !c->is_broken && c->next <= k->log.first;
  }
  if (is_due) serve_all(k);
  if (stream_log_is_full(&k->log)) stream_log_drop(&k->log, k->log.first + 1);
}

static void add(chalk_stream *k, const told_metric *m, const chalk_event *e) {
  const told_series *s = series_of(k, m, e);
  size_t n = s ? encode(k, s, e) : 0;
  if (n && stream_log_is_full(&k->log)) make_room(k);
  if (!n || !stream_log_add(&k->log, k->message, n)) k->unknown++;
}

int chalk_stream_take(chalk_stream *k, const chalk_tap *tap, uint32_t n) {
  const chalk_event *events = chalk_tap_events(tap);
  if (n > tap_size(tap)) n = tap_size(tap);
  if (k->batch != tap_batch(tap)) k->at = 0; /* the caller may have left the one before unfinished */
  k->batch = tap_batch(tap);
  for (; k->at < n; k->at++) {
    const chalk_event *e = &events[k->at];
    const told_metric *m = metric_of(k, e->metric);
    if (!m) return (int)e->metric;
    add(k, m, e);
  }
  k->at = 0;
  serve_all(k);
  return -1;
}

void chalk_stream_pass_over(chalk_stream *k) { k->at++, k->unknown++; }

uint64_t chalk_stream_dropped(chalk_stream *k, int by_clients) {
  uint64_t *n = by_clients ? &k->skipped : &k->unknown, dropped = *n;
  *n = 0;
  return dropped;
}

/* Clients */

int chalk_stream_accept(chalk_stream *k) {
  int fd = accept4(k->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
  if (fd < 0) return -errno;
  for (uint32_t i = 0; i < CLIENTS; i++) {
    if (k->clients[i].fd >= 0) continue;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    k->clients[i] = (client){.fd = fd, .next = k->log.next};
    return (int)i;
  }
  close(fd);
  return -EUSERS;
}

void chalk_stream_close(chalk_stream *k, uint32_t i) {
  client *c = &k->clients[i];
  if (i >= CLIENTS || c->fd < 0) return;
  int fd = c->fd;
  drop_rest(c);
  *c = (client){.fd = -1}; /* before the number is another file's: a fork of another thread closes what stands here */
  close(fd);
}

/* Nothing that a client may say has a meaning; it may end, though. */
static bool has_ended(client *c) {
  char bytes[4096];
  ssize_t n;
  int reads = 16;
  do n = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
  while ((n > 0 && --reads > 0) || (n < 0 && errno == EINTR));
  return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
}

uint32_t chalk_stream_clients(chalk_stream *k) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < CLIENTS; i++) {
    client *c = &k->clients[i];
    if (c->fd >= 0 && (c->is_broken || has_ended(c))) chalk_stream_close(k, i);
    n += c->fd >= 0;
  }
  if (n == 0 && (k->n_metrics || k->log.bytes)) forget(k);
  return n;
}
