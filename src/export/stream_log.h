/*
 * The last messages of a stream, back to back in a ring of bytes, each known by its number. One log serves all who read
 * it, each from a place of its own: it keeps at most so many messages, and who has fallen behind those goes on with the
 * oldest that is left.
 */
#ifndef STREAM_LOG_H
#define STREAM_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct stream_log {
  char *bytes;
  uint64_t *ends;       /* of each message, by its number */
  uint64_t room, slots; /* of both; powers of two, or 0 */
  uint64_t start, end;  /* bytes ever dropped, and ever added */
  uint64_t first, next; /* the number of the oldest message, and of the one to come */
  uint64_t most;        /* messages */
  uint64_t peak;        /* of the bytes in it, since it was empty last */
} stream_log;

void stream_log_free(stream_log *l);

/* Adds a message, however many there are; false: out of memory. */
bool stream_log_add(stream_log *l, const char *message, size_t n);
static inline bool stream_log_is_full(const stream_log *l) { return l->next - l->first >= l->most; }
/* Drops all messages before this one. */
void stream_log_drop(stream_log *l, uint64_t number);

/* When it is empty: gives back room that was needed once, and is much more than what is needed now. */
void stream_log_trim(stream_log *l);

/* The bytes from a message on, at most `most`, in up to two parts; how many parts. */
int stream_log_read(const stream_log *l, uint64_t number, size_t most, struct iovec *parts);
/*
 * Where n bytes from the start of a message on end: the number of the next whole message, and how many bytes are left of
 * the one before it, which stream_log_rest copies.
 */
uint64_t stream_log_after(const stream_log *l, uint64_t number, size_t n, size_t *rest);
void stream_log_rest(const stream_log *l, uint64_t next, size_t rest, char *out);

#endif
