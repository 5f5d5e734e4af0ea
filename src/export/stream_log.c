#include "export/stream_log.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 65536, FIRST_ENDS = 1024 };
/*
 * An empty log is freed if it has more than KEPT_CAPACITY bytes and more than MUCH_MORE times those it needed lately.
 */
enum { KEPT_CAPACITY = 1 << 20, MUCH_MORE = 16 };

void stream_log_free(stream_log *l) {
  uint64_t most = l->most;
  free(l->bytes);
  free(l->ends);
  *l = (stream_log){.most = most};
}

/* Where a message starts; for `next` where the log ends. */
static uint64_t start_of(const stream_log *l, uint64_t number) {
  return number == l->first ? l->start : l->ends[(number - 1) & (l->ends_capacity - 1)];
}

/* Copies n bytes from byte `at` on, which may wrap around the end of the ring. */
static void copy(const stream_log *l, uint64_t at, size_t n, char *out) {
  uint64_t from = at & (l->capacity - 1), first = l->capacity - from < n ? l->capacity - from : n;
  memcpy(out, l->bytes + from, first);
  memcpy(out + first, l->bytes, n - first);
}

/* Makes the ring large enough for `needed` bytes. */
static bool grow_bytes(stream_log *l, uint64_t needed) {
  uint64_t capacity = l->capacity ? l->capacity : FIRST_CAPACITY;
  while (capacity < needed) capacity *= 2;
  if (capacity == l->capacity) return true;
  char *bytes = malloc(capacity);
  if (!bytes) return false;
  for (uint64_t at = l->start; at < l->end;) {
    uint64_t to = at & (capacity - 1), n = capacity - to < l->end - at ? capacity - to : l->end - at;
    copy(l, at, n, bytes + to);
    at += n;
  }
  free(l->bytes);
  l->bytes = bytes;
  l->capacity = capacity;
  return true;
}

/* Makes `ends` large enough for a further message. */
static bool grow_ends(stream_log *l) {
  if (l->next - l->first < l->ends_capacity) return true;
  uint64_t capacity = l->ends_capacity ? 2 * l->ends_capacity : FIRST_ENDS;
  uint64_t *ends = malloc(capacity * sizeof *ends);
  if (!ends) return false;
  for (uint64_t i = l->first; i < l->next; i++) ends[i & (capacity - 1)] = l->ends[i & (l->ends_capacity - 1)];
  free(l->ends);
  l->ends = ends;
  l->ends_capacity = capacity;
  return true;
}

static void put(stream_log *l, const char *message, size_t n) {
  uint64_t to = l->end & (l->capacity - 1), first = l->capacity - to < n ? l->capacity - to : n;
  memcpy(l->bytes + to, message, first);
  memcpy(l->bytes, message + first, n - first);
}

bool stream_log_add(stream_log *l, const char *message, size_t n) {
  if (!grow_ends(l) || !grow_bytes(l, l->end - l->start + n)) return false;
  put(l, message, n);
  l->end += n;
  if (l->end - l->start > l->peak) l->peak = l->end - l->start;
  l->ends[l->next++ & (l->ends_capacity - 1)] = l->end;
  return true;
}

void stream_log_drop(stream_log *l, uint64_t number) {
  l->start = start_of(l, number);
  l->first = number;
}

void stream_log_trim(stream_log *l) {
  if (l->first != l->next || l->peak == 0) return;
  bool is_much = l->capacity > KEPT_CAPACITY && l->capacity / MUCH_MORE > l->peak;
  l->peak = 0;
  if (!is_much) return;
  free(l->bytes);
  free(l->ends);
  l->bytes = NULL, l->ends = NULL;
  l->capacity = l->ends_capacity = 0;
}

int stream_log_read(const stream_log *l, uint64_t number, size_t most, struct iovec *slices) {
  uint64_t at = start_of(l, number), n = l->end - at < most ? l->end - at : most;
  if (n == 0) return 0;
  uint64_t from = at & (l->capacity - 1), first = l->capacity - from < n ? l->capacity - from : n;
  slices[0] = (struct iovec){l->bytes + from, first};
  slices[1] = (struct iovec){l->bytes, n - first};
  return n > first ? 2 : 1;
}

uint64_t stream_log_after(const stream_log *l, uint64_t number, size_t n, size_t *rest) {
  uint64_t end = start_of(l, number) + n, low = number, high = l->next;
  /* The first message that starts at `end` or after it. */
  while (low < high) {
    uint64_t middle = low + (high - low) / 2;
    if (start_of(l, middle) < end)
      low = middle + 1;
    else
      high = middle;
  }
  *rest = start_of(l, low) - end;
  return low;
}

void stream_log_rest(const stream_log *l, uint64_t next, size_t rest, char *out) {
  copy(l, start_of(l, next) - rest, rest, out);
}
