/* A client of the event stream for the tests of the core: its socket, and a parser for its bytes. */
#ifndef TEST_STREAM_READER_H
#define TEST_STREAM_READER_H

#define bind socket_bind /* common.h has a function of this name */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#undef bind

#include <errno.h>
#include <fcntl.h>

#include "common.h"

/* A client, with the bytes that it has received. */
typedef struct reader {
  int fd;
  uint8_t *bytes;
  size_t size, at, capacity;
  uint32_t metadata, metrics;
  bool ended;
} reader;

/* Connects to a port of the loopback interface. `buffer`: the size of the kernel's receive buffer; 0: the default. */
static inline reader open_reader(uint16_t port, int buffer) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  reader r = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .capacity = 1 << 20};
  if (buffer) setsockopt(r.fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
  assert_int_equal(connect(r.fd, (struct sockaddr *)&a, sizeof a), 0);
  fcntl(r.fd, F_SETFL, O_NONBLOCK);
  r.bytes = malloc(r.capacity);
  return r;
}

static inline void close_reader(reader *r) {
  if (r->fd >= 0) close(r->fd);
  free(r->bytes);
}

/* Reads at most `most` bytes of those that have arrived. Returns the number of bytes read. */
static inline size_t receive(reader *r, size_t most) {
  memmove(r->bytes, r->bytes + r->at, r->size - r->at);
  r->size -= r->at, r->at = 0;
  if (most > r->capacity - r->size) most = r->capacity - r->size;
  ssize_t n = recv(r->fd, r->bytes + r->size, most, 0);
  r->ended = n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
  r->size += n > 0 ? (size_t)n : 0;
  return n > 0 ? (size_t)n : 0;
}

static inline uint64_t varint(const uint8_t **p, const uint8_t *end) {
  uint64_t v = 0;
  for (int shift = 0;; shift += 7) {
    assert_true(*p < end && shift < 70);
    v |= (uint64_t)(**p & 127) << shift;
    if (*(*p)++ < 128) return v;
  }
}

/* Reads a field of bytes. NULL: the next field has another tag. */
static inline const uint8_t *bytes_of(const uint8_t **p, const uint8_t *end, uint8_t tag, size_t *n) {
  if (*p >= end || **p != tag) return NULL;
  ++*p;
  *n = varint(p, end);
  assert_true(*n <= (size_t)(end - *p));
  *p += *n;
  return *p - *n;
}

typedef struct event {
  bool is_metadata;
  char name[16], unit[16], description[16], value[64];
  uint64_t type, seconds, nanos;
  uint8_t operation;
  double number;
} event;

/* Copies a field of text. False: the next field has another tag. */
static inline bool text_of(const uint8_t **p, const uint8_t *end, uint8_t tag, char *to, size_t capacity) {
  size_t n;
  const uint8_t *from = bytes_of(p, end, tag, &n);
  if (!from) return false;
  assert_true(n < capacity);
  memcpy(to, from, n);
  to[n] = 0;
  return true;
}

static inline void read_metadata(event *event, const uint8_t *p, const uint8_t *end) {
  assert_true(text_of(&p, end, 0x0a, event->name, sizeof event->name));
  assert_int_equal(*p++, 0x10);
  event->type = varint(&p, end);
  text_of(&p, end, 0x1a, event->unit, sizeof event->unit);
  assert_true(text_of(&p, end, 0x22, event->description, sizeof event->description));
  assert_ptr_equal(p, end);
}

static inline void read_metric(event *event, const uint8_t *p, const uint8_t *end) {
  size_t n;
  char key[8];
  assert_true(text_of(&p, end, 0x0a, event->name, sizeof event->name));
  const uint8_t *time = bytes_of(&p, end, 0x12, &n), *time_end = p, *label;
  assert_non_null(time);
  assert_int_equal(*time++, 0x08);
  event->seconds = varint(&time, time_end);
  assert_int_equal(*time++, 0x10);
  event->nanos = varint(&time, time_end);
  assert_ptr_equal(time, time_end);
  for (int i = 0; (label = bytes_of(&p, end, 0x1a, &n)); i++) {
    const uint8_t *label_end = p, *at = label;
    assert_true(text_of(&at, label_end, 0x0a, key, sizeof key));
    assert_string_equal(key, i == 0 ? "env" : "a");
    assert_true(text_of(&at, label_end, 0x12, event->value, sizeof event->value));
    assert_ptr_equal(at, label_end);
    assert_true(i < 2 && (i == 1 || strcmp(event->value, "test") == 0));
  }
  event->operation = *p++;
  if (event->operation == 0x20) {
    event->number = (double)varint(&p, end);
  } else {
    assert_int_equal(end - p, 8);
    memcpy(&event->number, p, 8), p += 8;
  }
  assert_ptr_equal(p, end);
}

/* Reads the next event. False: it has not arrived completely. */
static inline bool next_event(reader *r, event *event) {
  const uint8_t *p = r->bytes + r->at, *end = r->bytes + r->size;
  const uint8_t *last = p;
  while (last != end && *last > 127) last++;
  if (last == end) return false;
  uint64_t n = varint(&p, end);
  if (n > (uint64_t)(end - p)) return false;
  *event = (struct event){.is_metadata = *p == 0x0a};
  r->at = (size_t)(p - r->bytes) + n;
  end = p + n;
  size_t size;
  const uint8_t *body = bytes_of(&p, end, event->is_metadata ? 0x0a : 0x12, &size);
  assert_non_null(body);
  assert_ptr_equal(p, end);
  event->is_metadata ? read_metadata(event, body, p) : read_metric(event, body, p);
  event->is_metadata ? r->metadata++ : r->metrics++;
  return true;
}

#endif
