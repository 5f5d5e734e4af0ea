/*
 * The log of a stream: its last messages, back to back in a ring of bytes, each known by its number. Numbers rise
 * from 0 on. One log serves all readers, each of which reads from a place of its own. The log has a limit
 * of messages; a reader that has fallen behind goes on with the oldest message that is left.
 */
#ifndef STREAM_LOG_H
#define STREAM_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* All zero but `most` is an empty log. */
typedef struct stream_log {
  char *bytes;
  uint64_t *ends;       /* of each message, by its number */
  uint64_t room, slots; /* of both; powers of two, or 0 */
  uint64_t start, end;  /* bytes ever dropped, and ever added */
  uint64_t first, next; /* the number of the oldest message, and of the one to come */
  uint64_t most;        /* the limit of messages, which the caller keeps to */
  uint64_t peak;        /* most bytes in it since it was empty last */
} stream_log;

/* Frees the log's memory. The log is empty then, keeps its limit, and its numbers begin at 0 again. */
void stream_log_free(stream_log *l);

/* Adds a message of n bytes, however many there are. False: out of memory. */
bool stream_log_add(stream_log *l, const char *message, size_t n);
/* Whether the log has as many messages as its limit. */
static inline bool stream_log_is_full(const stream_log *l) { return l->next - l->first >= l->most; }
/* Drops all messages before the one of this number. */
void stream_log_drop(stream_log *l, uint64_t number);

/* Gives room back that is much more than was needed lately. Without effect unless the log is empty. */
void stream_log_trim(stream_log *l);

/* The bytes from a message that is in the log on, at most `most`, in up to two parts. Returns how many parts. */
int stream_log_read(const stream_log *l, uint64_t number, size_t most, struct iovec *parts);
/*
 * Where n bytes from the start of message `number` on end: returns the number of the next whole message, and *rest is
 * how many bytes are left of the one before it.
 */
uint64_t stream_log_after(const stream_log *l, uint64_t number, size_t n, size_t *rest);
/* Copies the last `rest` bytes of the message before `next` to `out`. */
void stream_log_rest(const stream_log *l, uint64_t next, size_t rest, char *out);

#endif
