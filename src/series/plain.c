#include "series/plain.h"

#include <string.h>

#include "shm/process.h"
#include "value/kind.h"

enum { NAME_MOST = 128, DEPTH_MOST = 32 }; /* bytes of a name; namespaces around a metric */

static const char *const combinations[] = {"last", "sum", "min", "max"};

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

static bool is_name(const char *s, size_t n) {
  bool ok = n > 0 && n <= NAME_MOST && is_letter(s[0]);
  for (size_t i = 1; i < n && ok; i++) ok = is_letter(s[i]) || (s[i] >= '0' && s[i] <= '9');
  return ok;
}

static bool is_tag(const char *s, size_t n) {
  bool reserved = (n == 2 && memcmp(s, "le", 2) == 0) || (n == 8 && memcmp(s, "quantile", 8) == 0);
  return is_name(s, n) && !reserved && !(n > 1 && s[0] == '_' && s[1] == '_');
}

/* The length of the name that `s` begins with, which ends before `end` or with the text. */
static size_t name_length(const char *s, size_t left, char end) {
  const char *at = memchr(s, end, left);
  return at ? (size_t)(at - s) : left;
}

/* How many names a text has, with the character `between` between them. UINT32_MAX: one of them is not valid. */
static uint32_t count_names(const char *s, size_t size, char between, bool (*is_one)(const char *, size_t)) {
  uint32_t n = 0;
  for (size_t at = 0; at <= size; n++) {
    size_t length = name_length(s + at, size - at, between);
    if (!is_one(s + at, length)) return UINT32_MAX;
    at += length + 1;
  }
  return n;
}

/* Whether two of the names, with a NUL between them, are the same. */
static bool repeats(const char *s, size_t size) {
  for (size_t a = 0; a < size; a += name_length(s + a, size - a, 0) + 1) {
    size_t n = name_length(s + a, size - a, 0);
    for (size_t b = a + n + 1; b < size; b += name_length(s + b, size - b, 0) + 1) {
      if (name_length(s + b, size - b, 0) == n && memcmp(s + a, s + b, n) == 0) return true;
    }
  }
  return false;
}

int plain_check(const chalk_definition *d, char *message) {
  if (count_names(d->name, d->name_size, '.', is_name) - 1 > DEPTH_MOST) {
    process_say(message, "bad metric name \"%.*s\": expected letters, digits and _, after namespaces with a dot each",
                (int)d->name_size, d->name);
    return CHALK_EINVALID;
  }
  if (d->across != CHALK_LAST && !kind_has_value(d->kind)) {
    process_say(message, "%.*s: bad across: only a gauge has one", (int)d->name_size, d->name);
    return CHALK_EINVALID;
  }
  uint32_t tags = d->shape_size ? count_names(d->shape, d->shape_size, 0, is_tag) : 0;
  if (tags == d->tags && !repeats(d->shape, d->shape_size)) return CHALK_OK;
  process_say(message, "%.*s: bad shape: expected the names of its %u tags, with a NUL between them", (int)d->name_size,
              d->name, d->tags);
  return CHALK_EINVALID;
}

static size_t put(char *out, size_t at, const char *bytes, size_t size) {
  if (out) memcpy(out + at, bytes, size);
  return at + size;
}

size_t plain_write(const chalk_definition *d, char *out) {
  const char *kind = kind_of(d->kind)->name;
  size_t at = put(out, 0, "=", 1);
  at = put(out, at, kind, strlen(kind) + 1);
  at = put(out, at, combinations[d->across], strlen(combinations[d->across]) + 1);
  at = put(out, at, d->name, d->name_size);
  if (d->tags == 0) return at;
  at = put(out, at, "", 1);
  return put(out, at, d->shape, d->shape_size);
}
