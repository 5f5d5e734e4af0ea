/*
 * Protobuf's wire format, as far as it is written here: fields of varints, of doubles, and of bytes after their length.
 * A function that writes takes room for granted and returns the end of what it wrote. Sizes are worked out beforehand,
 * because a length stands before its bytes. Doubles are copied as they are: only little-endian machines are supported.
 */
#ifndef WIRE_H
#define WIRE_H

#include <stdint.h>
#include <string.h>

enum { WIRE_VARINT = 0, WIRE_DOUBLE = 1, WIRE_BYTES = 2 };

/* The tag of a field below 16: one byte. */
static inline uint8_t wire_tag(uint32_t field, uint32_t type) { return (uint8_t)(field << 3 | type); }

/* How many bytes a varint has, 1 to 10. */
static inline uint32_t wire_varint_size(uint64_t v) { return (70 - (uint32_t)__builtin_clzll(v | 1)) / 7; }

/* A varint without a tag. */
static inline char *wire_varint(char *o, uint64_t v) {
  for (; v >= 0x80; v >>= 7) *o++ = (char)(v | 0x80);
  *o++ = (char)v;
  return o;
}

/* A field of a varint. */
static inline char *wire_number(char *o, uint32_t field, uint64_t v) {
  *o++ = (char)wire_tag(field, WIRE_VARINT);
  return wire_varint(o, v);
}

/* A field of a double. */
static inline char *wire_double(char *o, uint32_t field, double v) {
  *o++ = (char)wire_tag(field, WIRE_DOUBLE);
  memcpy(o, &v, 8);
  return o + 8;
}

/* A tag and a length; the caller writes n bytes behind them. */
static inline char *wire_length(char *o, uint32_t field, uint64_t n) {
  *o++ = (char)wire_tag(field, WIRE_BYTES);
  return wire_varint(o, n);
}

/* A field of n bytes. */
static inline char *wire_bytes(char *o, uint32_t field, const void *bytes, size_t n) {
  o = wire_length(o, field, n);
  memcpy(o, bytes, n);
  return o + n;
}

/* How many bytes a field of n bytes takes. */
static inline size_t wire_bytes_size(size_t n) { return 1 + wire_varint_size(n) + n; }

#endif
