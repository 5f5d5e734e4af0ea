/*
 * The part of protobuf's wire format that chalk writes: fields with a varint, with a double, or with bytes after their
 * length. The fields' numbers are below 16, so a tag is one byte.
 *
 * A function that writes returns the end of what it wrote; its caller has made sure that there is space. A length
 * precedes its bytes, so the caller computes all sizes before it writes. Doubles are copied as they are, because only
 * little-endian machines are supported.
 */
#ifndef WIRE_H
#define WIRE_H

#include <stdint.h>
#include <string.h>

enum { WIRE_VARINT = 0, WIRE_DOUBLE = 1, WIRE_BYTES = 2 };

/* The tag of a field. */
static inline uint8_t wire_tag(uint32_t field, uint32_t type) { return (uint8_t)(field << 3 | type); }

/* The size of a varint, 1 to 10 bytes. */
static inline uint32_t wire_varint_size(uint64_t v) { return (70 - (uint32_t)__builtin_clzll(v | 1)) / 7; }

/* Writes a varint without a tag. */
static inline char *wire_varint(char *o, uint64_t v) {
  for (; v >= 0x80; v >>= 7) *o++ = (char)(v | 0x80);
  *o++ = (char)v;
  return o;
}

/* Writes a field with a varint. */
static inline char *wire_number(char *o, uint32_t field, uint64_t v) {
  *o++ = (char)wire_tag(field, WIRE_VARINT);
  return wire_varint(o, v);
}

/* Writes a field with a double. */
static inline char *wire_double(char *o, uint32_t field, double v) {
  *o++ = (char)wire_tag(field, WIRE_DOUBLE);
  memcpy(o, &v, 8);
  return o + 8;
}

/* Writes a tag and the length n. The caller writes the n bytes. */
static inline char *wire_length(char *o, uint32_t field, uint64_t n) {
  *o++ = (char)wire_tag(field, WIRE_BYTES);
  return wire_varint(o, n);
}

/* Writes a field with n bytes. */
static inline char *wire_bytes(char *o, uint32_t field, const void *bytes, size_t n) {
  o = wire_length(o, field, n);
  memcpy(o, bytes, n);
  return o + n;
}

/* The size of a field with n bytes. */
static inline size_t wire_bytes_size(size_t n) { return 1 + wire_varint_size(n) + n; }

#endif
