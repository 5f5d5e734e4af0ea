/*
 * The log of a stream: its last messages, back to back in a ring of bytes.
 *
 * Messages have numbers, which rise from 0 on. A reader is the number of the message that it reads next, so one log
 * serves any number of readers and does not know them. The log has a limit of messages. Its user drops the oldest ones
 * to keep the limit, and a reader that has fallen behind goes on with the oldest message that is left.
 *
 *     bytes    [ ...1 | 2 | 3 |            | 0 | 1... ]     from `start` to `end`, modulo `capacity`
 *     ends     where each message ends, as a number of bytes that were ever added
 *
 * Adding copies the message. Dropping and reading copy nothing; the message at a byte is found by binary search.
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
  uint64_t *ends;         /* by the message's number, modulo `ends_capacity` */
  uint64_t capacity;      /* of `bytes`; a power of two, or 0 */
  uint64_t ends_capacity; /* the same of `ends` */
  uint64_t start, end;    /* how many bytes were ever dropped, and ever added */
  uint64_t first, next;   /* the number of the oldest message, and of the one that is added next */
  uint64_t most;          /* the limit of messages */
  uint64_t peak;          /* the most bytes in the log since it was empty */
} stream_log;

/* Frees the log's memory. Afterwards the log is empty, has the same limit, and its numbers begin at 0 again. */
void stream_log_free(stream_log *l);

/* Adds a message of n bytes, also beyond the limit. False: out of memory. */
bool stream_log_add(stream_log *l, const char *message, size_t n);
/* Whether the log has as many messages as its limit. */
static inline bool stream_log_is_full(const stream_log *l) { return l->next - l->first >= l->most; }
/* Drops all messages before the one of this number. */
void stream_log_drop(stream_log *l, uint64_t number);

/* Frees memory that is much more than was needed lately. It has no effect unless the log is empty. */
void stream_log_trim(stream_log *l);

/* Returns the bytes from the start of a message on, at most `most` of them, as up to two slices, and their number. */
int stream_log_read(const stream_log *l, uint64_t number, size_t most, struct iovec *slices);
/*
 * Finds what comes after n bytes that were read from the start of message `number` on. Returns the number of the next
 * whole message. *rest is how many bytes of the message before it were not read.
 */
uint64_t stream_log_after(const stream_log *l, uint64_t number, size_t n, size_t *rest);
/* Copies the last `rest` bytes of the message before `next` to `out`. */
void stream_log_rest(const stream_log *l, uint64_t next, size_t rest, char *out);

#endif
