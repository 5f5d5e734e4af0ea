/*
 * Arrays of private items, one for each series, indexed by the series' number.
 *
 * Numbers of series are reused and so stay small, so an array is the cheapest table from a series to what is kept of
 * it. An array grows when a larger number comes. New items are all zero. An item outlives its series: it has the
 * generation that it belongs to, which its user compares.
 */
#ifndef BY_SERIES_H
#define BY_SERIES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* All zero is an empty array. The owner frees `items`. */
typedef struct by_series {
  void *items;
  uint32_t n; /* how many items there are */
} by_series;

static bool by_series_grow(by_series *array, uint32_t id, size_t size) {
  uint32_t n = 2 * id + 512;
  char *items = realloc(array->items, n * size);
  if (!items) return false;
  memset(items + array->n * size, 0, (n - array->n) * size);
  array->items = items;
  array->n = n;
  return true;
}

/* The item of a series, of `size` bytes, the same in all calls. It may move with the next call. NULL: out of memory. */
static inline void *by_series_at(by_series *array, uint32_t id, size_t size) {
  if (id >= array->n && !by_series_grow(array, id, size)) return NULL;
  return (char *)array->items + id * size;
}

#endif
