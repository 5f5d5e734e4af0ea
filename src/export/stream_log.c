#include "export/stream_log.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 65536, FIRST_SLOTS = 1024, KEPT_ROOM = 1 << 20, MUCH_MORE = 16 };

void stream_log_free(stream_log *l) {
  uint64_t most = l->most;
  free(l->bytes);
  free(l->ends);
  *l = (stream_log){.most = most};
}

static uint64_t start_of(const stream_log *l, uint64_t number) {
  return number == l->first ? l->start : l->ends[(number - 1) & (l->slots - 1)];
}

static void copy(const stream_log *l, uint64_t at, size_t n, char *out) {
  uint64_t from = at & (l->room - 1), part = l->room - from < n ? l->room - from : n;
  memcpy(out, l->bytes + from, part);
  memcpy(out + part, l->bytes, n - part);
}

static bool grow_bytes(stream_log *l, uint64_t needed) {
  uint64_t room = l->room ? l->room : FIRST_ROOM;
  while (room < needed) room *= 2;
  if (room == l->room) return true;
  char *bytes = malloc(room);
  if (!bytes) return false;
  for (uint64_t at = l->start; at < l->end;) {
    uint64_t to = at & (room - 1), n = room - to < l->end - at ? room - to : l->end - at;
    copy(l, at, n, bytes + to);
    at += n;
  }
  free(l->bytes);
  l->bytes = bytes;
  l->room = room;
  return true;
}

static bool grow_ends(stream_log *l) {
  if (l->next - l->first < l->slots) return true;
  uint64_t slots = l->slots ? 2 * l->slots : FIRST_SLOTS;
  uint64_t *ends = malloc(slots * sizeof *ends);
  if (!ends) return false;
  for (uint64_t i = l->first; i < l->next; i++) ends[i & (slots - 1)] = l->ends[i & (l->slots - 1)];
  free(l->ends);
  l->ends = ends;
  l->slots = slots;
  return true;
}

static void put(stream_log *l, const char *message, size_t n) {
  uint64_t to = l->end & (l->room - 1), part = l->room - to < n ? l->room - to : n;
  memcpy(l->bytes + to, message, part);
  memcpy(l->bytes, message + part, n - part);
}

bool stream_log_add(stream_log *l, const char *message, size_t n) {
  if (!grow_ends(l) || !grow_bytes(l, l->end - l->start + n)) return false;
  put(l, message, n);
  l->end += n;
  if (l->end - l->start > l->peak) l->peak = l->end - l->start;
  l->ends[l->next++ & (l->slots - 1)] = l->end;
  return true;
}

void stream_log_drop(stream_log *l, uint64_t number) {
  l->start = start_of(l, number);
  l->first = number;
}

void stream_log_trim(stream_log *l) {
  if (l->first != l->next || l->peak == 0) return;
  bool is_much = l->room > KEPT_ROOM && l->room / MUCH_MORE > l->peak;
  l->peak = 0;
  if (!is_much) return;
  free(l->bytes);
  free(l->ends);
  l->bytes = NULL, l->ends = NULL;
  l->room = l->slots = 0;
}

int stream_log_read(const stream_log *l, uint64_t number, size_t most, struct iovec *parts) {
  uint64_t at = start_of(l, number), n = l->end - at < most ? l->end - at : most;
  if (n == 0) return 0;
  uint64_t from = at & (l->room - 1), part = l->room - from < n ? l->room - from : n;
  parts[0] = (struct iovec){l->bytes + from, part};
  parts[1] = (struct iovec){l->bytes, n - part};
  return n > part ? 2 : 1;
}

uint64_t stream_log_after(const stream_log *l, uint64_t number, size_t n, size_t *rest) {
  uint64_t end = start_of(l, number) + n, low = number, high = l->next; /* the first that starts at the end or behind */
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
