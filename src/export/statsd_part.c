#include "export/statsd_part.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "read/cursor.h"

bool statsd_items_add(statsd_items *items, statsd_item item) {
  if (items->n == items->room) {
    uint32_t room = items->room ? 2 * items->room : 64;
    statsd_item *more = realloc(items->at, room * sizeof *more);
    if (!more) return false;
    items->at = more;
    items->room = room;
  }
  items->at[items->n++] = item;
  return true;
}

static double clamped(double v) { return v > DBL_MAX ? DBL_MAX : v < -DBL_MAX ? -DBL_MAX : v; }

static int by_weight(const void *a, const void *b) {
  const statsd_item *x = a, *y = b;
  return x->weight != y->weight ? (x->weight < y->weight ? -1 : 1) : (x->value > y->value) - (x->value < y->value);
}

bool statsd_items_of(statsd_items *items, const chalk_sketch *d, double factor, uint64_t most) {
  chalk_bucket b;
  for (uint32_t i = 0; chalk_sketch_bucket(d, i, &b); i++) {
    double v = clamped(sketch_representative(&b) * factor);
    uint64_t whole = b.count < most ? 0 : b.count / most, rest = b.count - whole * most;
    if (whole && !statsd_items_add(items, (statsd_item){v, most, whole, i})) return false;
    if (rest && !statsd_items_add(items, (statsd_item){v, rest, 1, i})) return false;
  }
  if (items->n > 1) qsort(items->at, items->n, sizeof *items->at, by_weight);
  return true;
}

/* Buckets like these, with nothing in them. */
static bool side_like(sketch_side *side, const sketch_side *from) {
  side->n = 0;
  if (sketch_side_reserve(side, from->n) != CHALK_OK) return false;
  for (uint32_t i = 0; i < from->n; i++) side->at[i] = (sketch_bucket){from->at[i].index, 0};
  side->n = from->n;
  return true;
}

static void side_compact(sketch_side *side) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < side->n; i++) {
    if (side->at[i].count > 0) side->at[n++] = side->at[i];
  }
  side->n = n;
}

static void add(chalk_sketch *k, const chalk_sketch *delta, uint32_t place, uint64_t count) {
  chalk_bucket b;
  if (!chalk_sketch_bucket(delta, place, &b)) return;
  k->sum += sketch_representative(&b) * (double)count;
  k->count += count;
  if (place < k->negative.n) {
    k->negative.at[k->negative.n - 1 - place].count += count;
  } else if (b.upper == 0 && b.lower == 0) {
    k->zero += count;
  } else {
    k->positive.at[place - k->negative.n - (delta->zero > 0)].count += count;
  }
}

void statsd_part_note(statsd_part *p, uint32_t entry, const statsd_items *items, uint64_t skip, uint64_t n,
                      const chalk_sketch *delta) {
  chalk_sketch *k = &p->sketch;
  sketch_clear(k);
  memset(p->les, 0, sizeof p->les);
  p->bounds = !delta;
  p->entry = entry;
  p->any = !delta || (side_like(&k->positive, &delta->positive) && side_like(&k->negative, &delta->negative));
  if (!p->any) return;
  if (delta) k->scale = delta->scale;
  for (const statsd_item *item = items->at; n > 0; item++) {
    uint64_t left = item->times > skip ? item->times - skip : 0, taken = left < n ? left : n;
    skip -= item->times - left;
    n -= taken;
    if (taken == 0) continue;
    if (delta) {
      add(k, delta, item->place, taken * item->weight);
    } else {
      p->les[item->place] += item->weight;
    }
  }
  side_compact(&k->positive);
  side_compact(&k->negative);
}

int statsd_part_commit(statsd_part *p, chalk_cursor *c, chalk_snapshot *s, double now) {
  if (!p->any) return CHALK_OK;
  p->any = false;
  return cursor_commit_part(c, s, p->entry, &p->sketch, p->bounds ? p->les : NULL, now);
}
