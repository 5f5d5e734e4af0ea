/*
 * The event stream: the tap's events as messages to clients over stream sockets.
 *
 *     tap --> encoder (stream_encoder.h) --> log (stream_log.h) --> socket of each client
 *
 * A message is encoded once, into a log that all clients read. A client is a socket and the number of the message that
 * it gets next. If a full socket takes only the beginning of a message, the rest is copied to the client, so the log
 * can drop the message. The oldest message is dropped when the log is full; a client that has not got it goes on with
 * the oldest message that is left.
 *
 * A metric's metadata must not be dropped, so it is not in the log. Each client has the number of metrics whose
 * metadata it was sent, and gets the metadata of the others before its next message.
 *
 * No function waits.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shm/process.h"
#include "export/stream_encoder.h"
#include "export/stream_log.h"
#include "record/tap.h"

enum { CLIENTS = 64, WRITE_MOST = 1 << 18 }; /* bytes of one write */

typedef struct client {
  int fd;             /* -1: none */
  uint32_t described; /* metrics whose metadata was sent, or is in `rest` */
  uint64_t next;      /* the number of the message that comes next */
  char *rest;         /* bytes that come before it: the end of a message, or metadata; NULL: none */
  size_t rest_at, rest_size;
  bool is_blocked, is_broken; /* the socket is full; the client has to be closed */
} client;

struct chalk_stream {
  chalk_stream *other; /* the next stream of this process; process lock */
  int listener;
  stream_encoder encoder;
  stream_log log;
  uint64_t skipped, lost; /* events that clients, and that all clients, did not get: see chalk_stream_dropped */
  client clients[CLIENTS];
  uint64_t batch; /* of the tap, as tap_batch */
  uint32_t at;    /* the next event of that batch */
};

static chalk_stream *streams;

/* Closes the parent's clients in a forked child. listen.c closes the listener. */
static void in_child(void) {
  for (chalk_stream *stream = streams; stream; stream = stream->other) {
    stream->listener = -1;
    for (uint32_t i = 0; i < CLIENTS; i++) {
      if (stream->clients[i].fd >= 0) close(stream->clients[i].fd);
      stream->clients[i].fd = -1;
    }
  }
}

chalk_stream *chalk_stream_new(chalk_segment *g, uint32_t most, int listener) {
  process_at_fork(in_child);
  chalk_stream *stream = calloc(1, sizeof *stream);
  if (!stream) return NULL;
  stream->encoder.segment = g;
  stream->listener = listener;
  stream->log.most = most ? most : UINT64_MAX;
  for (uint32_t i = 0; i < CLIENTS; i++) stream->clients[i].fd = -1;
  process_lock();
  stream->other = streams;
  streams = stream;
  process_unlock();
  return stream;
}

static void forget(chalk_stream *stream) {
  stream_log_free(&stream->log);
  stream_encoder_clear(&stream->encoder);
}

void chalk_stream_free(chalk_stream *stream) {
  if (!stream) return;
  process_lock();
  for (chalk_stream **p = &streams; *p; p = &(*p)->other) {
    if (*p == stream) {
      *p = stream->other;
      break;
    }
  }
  process_unlock();
  for (uint32_t i = 0; i < CLIENTS; i++) chalk_stream_close(stream, i);
  if (stream->listener >= 0) close(stream->listener);
  forget(stream);
  free(stream);
}

int chalk_stream_define(chalk_stream *stream, uint32_t metric, const chalk_stream_metric *definition) {
  return stream_encoder_define(&stream->encoder, metric, definition);
}

int chalk_stream_knows(const chalk_stream *stream, uint32_t metric) {
  return stream_encoder_metric(&stream->encoder, metric) != NULL;
}

/* Sending */

/* Writes n slices. Returns the bytes that the socket took. 0: it took none, and the client is blocked or broken. */
static size_t put(client *c, struct iovec *slices, int n) {
  struct msghdr m = {.msg_iov = slices, .msg_iovlen = (size_t)n};
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
  struct iovec slice = {c->rest + c->rest_at, c->rest_size - c->rest_at};
  c->rest_at += put(c, &slice, 1);
  if (c->rest_at == c->rest_size) drop_rest(c);
}

/* Puts the metadata that the client lacks into its rest. */
static void describe(chalk_stream *stream, client *c) {
  const stream_encoder *encoder = &stream->encoder;
  size_t size = 0;
  for (uint32_t i = c->described; i < encoder->n_metrics; i++) size += encoder->metrics[i].metadata_size;
  char *o = c->rest = malloc(size + 1);
  c->is_broken = !o;
  if (!o) return;
  for (; c->described < encoder->n_metrics; c->described++) {
    const stream_metric *m = &encoder->metrics[c->described];
    if (m->metadata) memcpy(o, m->metadata, m->metadata_size), o += m->metadata_size;
  }
  c->rest_size = size;
}

/* Skips the messages that the log has dropped. */
static void catch_up(chalk_stream *stream, client *c) {
  if (c->next >= stream->log.first) return;
  stream->skipped += stream->log.first - c->next;
  c->next = stream->log.first;
}

static void send_messages(chalk_stream *stream, client *c) {
  struct iovec slices[2];
  int n = stream_log_read(&stream->log, c->next, WRITE_MOST, slices);
  size_t sent = put(c, slices, n), rest;
  if (sent == 0) return;
  c->next = stream_log_after(&stream->log, c->next, sent, &rest);
  if (rest == 0) return;
  c->rest = malloc(rest);
  c->is_broken = !c->rest;
  if (!c->rest) return;
  stream_log_rest(&stream->log, c->next, rest, c->rest);
  c->rest_size = rest;
}

/* Sends all that the client's socket takes. */
static void serve(chalk_stream *stream, client *c) {
  while (!c->is_blocked && !c->is_broken) {
    catch_up(stream, c);
    if (c->rest) {
      send_rest(c);
    } else if (c->described < stream->encoder.n_metrics) {
      describe(stream, c);
    } else if (c->next < stream->log.next) {
      send_messages(stream, c);
    } else {
      return;
    }
  }
}

/* Serves all clients, and drops the messages that all of them have got. */
static void serve_all(chalk_stream *stream) {
  uint64_t first = stream->log.next;
  for (uint32_t i = 0; i < CLIENTS; i++) {
    client *c = &stream->clients[i];
    if (c->fd < 0) continue;
    serve(stream, c);
    if (!c->is_broken && c->next < first) first = c->next;
  }
  if (first > stream->log.first) stream_log_drop(&stream->log, first);
  stream_log_trim(&stream->log);
}

void chalk_stream_send(chalk_stream *stream) {
  for (uint32_t i = 0; i < CLIENTS; i++) stream->clients[i].is_blocked = false;
  serve_all(stream);
}

/* Makes space for a message. Clients that lack the oldest message are served before it is dropped. */
static void make_space(chalk_stream *stream) {
  stream_log *log = &stream->log;
  bool is_lacking = false;
  for (uint32_t i = 0; i < CLIENTS && !is_lacking; i++) {
    const client *c = &stream->clients[i];
    is_lacking = c->fd >= 0 && !c->is_blocked && !c->is_broken && c->next <= log->first;
  }
  if (is_lacking) serve_all(stream);
  if (stream_log_is_full(log)) stream_log_drop(log, log->first + 1);
}

static void add(chalk_stream *stream, const stream_metric *m, const chalk_event *event) {
  size_t n = stream_encoder_event(&stream->encoder, m, event);
  if (n && stream_log_is_full(&stream->log)) make_space(stream);
  if (!n || !stream_log_add(&stream->log, stream->encoder.message, n)) stream->lost++;
}

int chalk_stream_take(chalk_stream *stream, const chalk_tap *tap, uint32_t n) {
  const chalk_event *events = chalk_tap_events(tap);
  if (n > tap_size(tap)) n = tap_size(tap);
  if (stream->batch != tap_batch(tap)) stream->at = 0; /* the caller may have left the batch before unfinished */
  stream->batch = tap_batch(tap);
  for (; stream->at < n; stream->at++) {
    const chalk_event *event = &events[stream->at];
    const stream_metric *m = stream_encoder_metric(&stream->encoder, event->metric);
    if (!m) return (int)event->metric;
    add(stream, m, event);
  }
  stream->at = 0;
  serve_all(stream);
  return -1;
}

void chalk_stream_pass_over(chalk_stream *stream) { stream->at++, stream->lost++; }

uint64_t chalk_stream_dropped(chalk_stream *stream, int by_clients) {
  uint64_t *n = by_clients ? &stream->skipped : &stream->lost, dropped = *n;
  *n = 0;
  return dropped;
}

/* Clients */

int chalk_stream_accept(chalk_stream *stream) {
  int fd = accept4(stream->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
  if (fd < 0) return -errno;
  for (uint32_t i = 0; i < CLIENTS; i++) {
    if (stream->clients[i].fd >= 0) continue;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    stream->clients[i] = (client){.fd = fd, .next = stream->log.next};
    return (int)i;
  }
  close(fd);
  return -EUSERS;
}

void chalk_stream_close(chalk_stream *stream, uint32_t i) {
  client *c = &stream->clients[i];
  if (i >= CLIENTS || c->fd < 0) return;
  int fd = c->fd;
  drop_rest(c);
  /* A forked child closes the descriptors that it finds in clients; after close the number may be another file's. */
  *c = (client){.fd = -1};
  close(fd);
}

/* Reads and ignores what a client says. True: the client has ended. */
static bool has_ended(client *c) {
  char bytes[4096];
  ssize_t n;
  int reads = 16;
  do n = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
  while ((n > 0 && --reads > 0) || (n < 0 && errno == EINTR));
  return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
}

uint32_t chalk_stream_clients(chalk_stream *stream) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < CLIENTS; i++) {
    client *c = &stream->clients[i];
    if (c->fd >= 0 && (c->is_broken || has_ended(c))) chalk_stream_close(stream, i);
    n += c->fd >= 0;
  }
  if (n == 0 && (stream->encoder.n_metrics || stream->log.bytes)) forget(stream);
  return n;
}
