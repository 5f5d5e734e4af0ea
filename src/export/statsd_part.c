#include "export/statsd_part.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "read/cursor.h"

bool statsd_items_add(statsd_items *items, statsd_item item) {
  if (items->n == items->capacity) {
    uint32_t capacity = items->capacity ? 2 * items->capacity : 64;
    statsd_item *more = realloc(items->at, capacity * sizeof *more);
    if (!more) return false;
    items->at = more;
    items->capacity = capacity;
  }
  items->at[items->n++] = item;
  return true;
}

static double clamped(double v) { return v > DBL_MAX ? DBL_MAX : v < -DBL_MAX ? -DBL_MAX : v; }

static int by_weight(const void *a, const void *b) {
  const statsd_item *x = a, *y = b;
  return x->weight != y->weight ? (x->weight < y->weight ? -1 : 1) : (x->value > y->value) - (x->value < y->value);
}

bool statsd_items_of(statsd_items *items, const chalk_sketch *delta, double factor, uint64_t most) {
  chalk_bucket bucket;
  for (uint32_t i = 0; chalk_sketch_bucket(delta, i, &bucket); i++) {
    double v = clamped(sketch_representative(&bucket) * factor);
    uint64_t whole = bucket.count < most ? 0 : bucket.count / most, rest = bucket.count - whole * most;
    if (whole && !statsd_items_add(items, (statsd_item){v, most, whole, i})) return false;
    if (rest && !statsd_items_add(items, (statsd_item){v, rest, 1, i})) return false;
  }
  if (items->n > 1) qsort(items->at, items->n, sizeof *items->at, by_weight);
  return true;
}

/* Gives a side the buckets of another one, with counts of 0. False: out of memory. */
static bool copy_empty(sketch_side *side, const sketch_side *from) {
  side->n = 0;
  if (sketch_side_reserve(side, from->n) != CHALK_OK) return false;
  for (uint32_t i = 0; i < from->n; i++) side->at[i] = (sketch_bucket){from->at[i].index, 0};
  side->n = from->n;
  return true;
}

/* Removes the buckets that have a count of 0. */
static void remove_empty(sketch_side *side) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < side->n; i++) {
    if (side->at[i].count > 0) side->at[n++] = side->at[i];
  }
  side->n = n;
}

/* Adds to bucket `index` of `delta`. The lowest bucket is the first: negative ones, then zero, then positive ones. */
static void add(chalk_sketch *k, const chalk_sketch *delta, uint32_t index, uint64_t count) {
  chalk_bucket bucket;
  if (!chalk_sketch_bucket(delta, index, &bucket)) return;
  k->sum += sketch_representative(&bucket) * (double)count;
  k->count += count;
  if (index < k->negative.n) {
    k->negative.at[k->negative.n - 1 - index].count += count;
  } else if (bucket.upper == 0 && bucket.lower == 0) {
    k->zero += count;
  } else {
    k->positive.at[index - k->negative.n - (delta->zero > 0)].count += count;
  }
}

void statsd_part_note(statsd_part *part, uint32_t entry, const statsd_items *items, uint64_t skip, uint64_t n,
                      const chalk_sketch *delta) {
  chalk_sketch *k = &part->sketch;
  sketch_clear(k);
  memset(part->les, 0, sizeof part->les);
  part->bounds = !delta;
  part->entry = entry;
  part->any = !delta || (copy_empty(&k->positive, &delta->positive) && copy_empty(&k->negative, &delta->negative));
  if (!part->any) return;
  if (delta) k->scale = delta->scale;
  for (const statsd_item *item = items->at; n > 0; item++) {
    uint64_t left = item->times > skip ? item->times - skip : 0, taken = left < n ? left : n;
    skip -= item->times - left;
    n -= taken;
    if (taken == 0) continue;
    if (delta) {
      add(k, delta, item->index, taken * item->weight);
    } else {
      part->les[item->index] += item->weight;
    }
  }
  remove_empty(&k->positive);
  remove_empty(&k->negative);
}

int statsd_part_commit(statsd_part *part, chalk_cursor *c, chalk_snapshot *s, double now) {
  if (!part->any) return CHALK_OK;
  part->any = false;
  return cursor_commit_part(c, s, part->entry, &part->sketch, part->bounds ? part->les : NULL, now);
}
