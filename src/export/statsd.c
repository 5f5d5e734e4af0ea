/*
 * The StatsD packer: a snapshot's entries as lines, and the lines in packets.
 *
 *     entry --> lines (statsd_lines.h) --> packet
 *
 * The lines of one entry are made as a text first. If the whole text fits into a packet, it goes into one packet, so a
 * packet that is lost or refused is a set of whole entries. The lines of a large histogram are spread over several
 * packets, and what each of these packets has is committed with it (statsd_part.h).
 *
 * In the mode CHALK_STATSD_VALUES a histogram is sent as the representative values of its sketch's buckets. Each value has a sample rate of 1 / n, so
 * it stands for n recorded values: a receiver gets back the bucket's count at the cost of one value.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "read/cursor.h"
#include "series/series_key.h"
#include "value/kind.h"
#include "value/sketch.h"
#include "read/snapshot.h"
#include "export/by_series.h"
#include "export/statsd_lines.h"
#include "export/statsd_part.h"
#include "export/statsd_text.h"

/* What was sent last of a gauge's series. */
typedef struct sent_gauge {
  double value;
  uint32_t generation;
  bool sent;
} sent_gauge;

struct chalk_statsd {
  char *packet;
  uint32_t packet_size, packet_most;
  by_series gauges; /* sent_gauge */
  chalk_statsd_totals totals;
  /* The entry under way: its lines are made, and not all of them are packed. */
  statsd_lines lines;
  uint32_t packed; /* lines in packets, or too long for any */
  /* If it is a histogram: */
  uint32_t entry;
  bool bounds;           /* its lines are counts of bounds, not values of the delta's buckets */
  chalk_sketch delta;    /* what is to be sent; it keeps its memory */
  statsd_items items;    /* what the values in its lines stand for */
  uint64_t values_begun; /* values in lines that are in the packets before this one */
  statsd_part sent;      /* what the packet before this one has of it */
};

chalk_statsd *chalk_statsd_new(uint32_t max_packet) {
  if (max_packet == 0) return NULL;
  chalk_statsd *packer = calloc(1, sizeof *packer);
  if (packer) packer->packet = malloc(max_packet);
  if (!packer || !packer->packet) {
    free(packer);
    return NULL;
  }
  packer->packet_most = max_packet;
  return packer;
}

void chalk_statsd_free(chalk_statsd *packer) {
  if (!packer) return;
  free(packer->packet);
  free(packer->gauges.items);
  free(packer->items.at);
  statsd_lines_free(&packer->lines);
  sketch_free_sides(&packer->delta);
  sketch_free_sides(&packer->sent.sketch);
  free(packer);
}

/* Ends the entry under way. */
static void end_entry(chalk_statsd *packer) {
  statsd_lines_clear(&packer->lines);
  packer->packed = packer->items.n = 0;
  packer->values_begun = 0;
}

void chalk_statsd_forget(chalk_statsd *packer) {
  if (packer->gauges.items) memset(packer->gauges.items, 0, packer->gauges.n * sizeof(sent_gauge));
  end_entry(packer);
  packer->sent.any = false;
  packer->packet_size = 0;
}

/* Counts and gauges */

static void put_count(statsd_lines *lines, statsd_frame *frame, measured suffix, const char *le, int64_t n) {
  statsd_lines_begin(lines, frame, suffix);
  statsd_lines_whole(lines, n);
  statsd_lines_end(lines, frame, statsd_count, NULL, le, true);
}

/*
 * A gauge that is not finite is left out. Some receivers take a gauge with a sign for a change of its value: for them a
 * line that sets the gauge to zero precedes a negative value, in the same packet.
 */
static void put_gauge(statsd_lines *lines, statsd_frame *frame, measured suffix, double v) {
  if (!isfinite(v)) return;
  if (v < 0 && frame->family->relative) {
    statsd_lines_begin(lines, frame, suffix);
    statsd_lines_whole(lines, 0);
    statsd_lines_end(lines, frame, statsd_gauge, NULL, NULL, true);
    if (lines->failed) return;
    statsd_lines_join(lines);
  }
  statsd_lines_begin(lines, frame, suffix);
  statsd_lines_number(lines, v);
  statsd_lines_end(lines, frame, statsd_gauge, NULL, NULL, true);
}

/* Whether this value of a gauge was the last one sent. Notes it as sent. */
static bool is_sent(chalk_statsd *packer, const chalk_entry *entry) {
  sent_gauge *sent = by_series_at(&packer->gauges, entry->series, sizeof *sent);
  if (!sent) return false;
  bool same = sent->sent && sent->generation == entry->generation && sent->value == entry->value;
  *sent = (sent_gauge){entry->value, entry->generation, true};
  return same;
}

/* Histograms */

/*
 * Makes lines of the values that have the same weight, from item i on. If lines may have several values, each has as
 * many as fit into a packet. Returns the index of the next item.
 */
static uint32_t put_values(chalk_statsd *packer, statsd_frame *frame, uint32_t i) {
  char text[STATSD_RATE_MOST + 1];
  statsd_lines *lines = &packer->lines;
  const statsd_item *items = packer->items.at;
  uint64_t weight = items[i].weight, times = 0;
  uint32_t n = packer->items.n;
  measured type = frame->pattern->type;
  bool pack = frame->family->pack;
  text[chalk_statsd_rate(text, weight)] = 0;
  const char *rate = weight > 1 ? text : NULL;
  size_t begun = lines->size, end = n > 1 && pack ? statsd_lines_end_size(lines, frame, type, rate) : 0;
  statsd_lines_begin(lines, frame, statsd_no_suffix);
  for (bool first = true; i < n && items[i].weight == weight && !lines->failed; first = false) {
    double v = items[i].value;
    if (!first && pack && lines->size - begun + TEXT_NUMBER_MAX + end <= packer->packet_most) {
      statsd_lines_further(lines, frame, v);
    } else {
      if (!first) {
        statsd_lines_end(lines, frame, type, rate, NULL, false);
        begun = lines->size;
        statsd_lines_begin(lines, frame, statsd_no_suffix);
      }
      statsd_lines_number(lines, v);
    }
    if (++times == items[i].times) i++, times = 0;
  }
  statsd_lines_end(lines, frame, type, rate, NULL, false);
  return i;
}

static void put_buckets(chalk_statsd *packer, statsd_frame *frame) {
  const chalk_statsd_family *f = frame->family;
  packer->lines.failed = !statsd_items_of(&packer->items, &packer->delta, f->factor, f->max_weight);
  for (uint32_t i = 0; i < packer->items.n && !packer->lines.failed;) i = put_values(packer, frame, i);
}

static double gauge_of(const chalk_sketch *delta, const chalk_statsd_gauge *gauge, double factor) {
  switch (gauge->what) {
    case CHALK_STATSD_COUNT:
      return (double)delta->count;
    case CHALK_STATSD_SUM:
      return delta->sum * factor;
    case CHALK_STATSD_AVG:
      return delta->sum * factor / (double)delta->count;
    case CHALK_STATSD_MIN:
      return chalk_sketch_min(delta) * factor;
    case CHALK_STATSD_MAX:
      return chalk_sketch_max(delta) * factor;
    default:
      return chalk_sketch_quantile(delta, gauge->quantile) * factor;
  }
}

static void put_percentiles(chalk_statsd *packer, statsd_frame *frame) {
  const chalk_statsd_family *f = frame->family;
  for (uint32_t i = 0; i < f->n_gauges; i++) {
    const chalk_statsd_gauge *gauge = &f->gauges[i];
    double v = gauge_of(&packer->delta, gauge, f->factor);
    put_gauge(&packer->lines, frame, (measured){gauge->suffix, gauge->size}, v);
  }
}

static void put_bounds(chalk_statsd *packer, statsd_frame *frame, const uint64_t *counts, uint32_t n_counts) {
  const chalk_statsd_family *f = frame->family;
  for (uint32_t i = 0; i < f->n_le; i++) {
    uint32_t index = f->le_index[i];
    uint64_t n = index < n_counts ? counts[index] : 0;
    if (n == 0) continue;
    packer->lines.failed = !statsd_items_add(&packer->items, (statsd_item){.weight = n, .times = 1, .index = index});
    if (packer->lines.failed) return;
    measured suffix = f->tags_in_name ? measure(f->le_suffixes[i]) : statsd_no_suffix;
    put_count(&packer->lines, frame, suffix, f->le_tags[i], (int64_t)n);
  }
}

static void put_histogram(chalk_statsd *packer, statsd_frame *frame, chalk_cursor *c, chalk_snapshot *s, uint32_t i) {
  uint32_t mode = frame->family->mode;
  packer->entry = i;
  packer->bounds = mode == CHALK_STATSD_BUCKETS;
  if (packer->bounds) {
    uint64_t counts[CHALK_LES + 1];
    put_bounds(packer, frame, counts, chalk_cursor_delta_les(c, s, i, counts));
    return;
  }
  if (cursor_subtract(c, s, i, &packer->delta) != CHALK_OK) {
    packer->lines.failed = true;
  } else if (mode == CHALK_STATSD_PERCENTILES) {
    sketch_clip(&packer->delta, chalk_snapshot_sketch(s, i));
    put_percentiles(packer, frame);
  } else {
    put_buckets(packer, frame);
  }
}

/* Entries and packets */

/*
 * Makes the lines of entry i. There are none for a count or histogram that was not recorded since the last commit, nor
 * for a gauge that did not change if the family says `changed_only`.
 */
static void put_entry(chalk_statsd *packer, const statsd_pattern *p, chalk_cursor *c, chalk_snapshot *s, uint32_t i) {
  const chalk_statsd_family *f = p->family;
  const chalk_entry *entry = &s->entries[i];
  uint32_t kind = s->segment->metrics[entry->metric].kind;
  bool has_value = kind_has_value(kind), has_histogram = kind_has_histogram(kind);
  if (has_histogram && f->mode == CHALK_STATSD_RAW) return; /* see statsd_raw.c */
  int64_t delta = has_value ? 1 : chalk_cursor_delta(c, s, i);
  if (delta == 0 || (has_value && f->changed_only && is_sent(packer, entry))) return;
  uint64_t key[SERIES_KEY_WORDS + STATSD_TEXT_PADDING / 8];
  uint32_t key_size = snapshot_key(s, entry, key);
  if (key_size == NONE) return;
  statsd_frame frame = statsd_frame_of(p, key, key_size);
  if (kind_has_total(kind)) put_count(&packer->lines, &frame, statsd_no_suffix, NULL, delta);
  if (has_value) put_gauge(&packer->lines, &frame, statsd_no_suffix, entry->value);
  if (has_histogram) put_histogram(packer, &frame, c, s, i);
}

/* Where the packed lines end. */
static statsd_end packed_end(const chalk_statsd *packer) {
  return packer->packed ? packer->lines.ends[packer->packed - 1] : (statsd_end){0, 0};
}

/*
 * Packs the lines from the first unpacked one up to and without line `last`, all or none of them. Lines that no packet
 * can take are left out. False: the packet is full.
 */
static bool pack_lines(chalk_statsd *packer, uint32_t last) {
  const statsd_lines *lines = &packer->lines;
  size_t at = packed_end(packer).at, n = lines->ends[last - 1].at - at;
  if (n > packer->packet_most) {
    packer->totals.too_long += last - packer->packed;
  } else if (n + packer->packet_size > packer->packet_most) {
    return false;
  } else {
    memcpy(packer->packet + packer->packet_size, lines->text + at, n);
    packer->packet_size += (uint32_t)n;
    packer->totals.lines += last - packer->packed;
  }
  packer->packed = last;
  return true;
}

/* Packs the lines of the entry under way: together if one packet can take them, else one by one. False: it is full. */
static bool pack(chalk_statsd *packer) {
  const statsd_lines *lines = &packer->lines;
  size_t left = lines->size - packed_end(packer).at;
  if (left <= packer->packet_most && !pack_lines(packer, lines->n)) return false;
  while (packer->packed < lines->n) {
    if (!pack_lines(packer, packer->packed + 1)) return false;
  }
  end_entry(packer);
  return true;
}

int chalk_statsd_fill(chalk_statsd *packer, const chalk_statsd_family *family, chalk_cursor *c, chalk_snapshot *s,
                      uint32_t *next, uint32_t last) {
  statsd_pattern pattern;
  if (!statsd_family_fits(family)) return CHALK_EINVALID;
  if (last > s->n) last = s->n;
  statsd_pattern_make(&pattern, family);
  for (; *next < last; (*next)++) {
    if (packer->lines.size == 0) {
      put_entry(packer, &pattern, c, s, *next);
      if (packer->lines.failed) {
        end_entry(packer);
        return CHALK_EMEMORY;
      }
      if (packer->lines.size == 0) continue; /* and there are no items */
      packer->totals.metrics++;
    }
    if (!pack(packer)) return 1;
  }
  return CHALK_OK;
}

const char *chalk_statsd_packet(chalk_statsd *packer, uint32_t *size) {
  *size = packer->packet_size;
  return packer->packet;
}

void chalk_statsd_begin(chalk_statsd *packer) {
  uint64_t begun = packer->values_begun, values = packer->items.n ? packed_end(packer).values - begun : 0;
  packer->sent.any = false;
  if (values) {
    const chalk_sketch *delta = packer->bounds ? NULL : &packer->delta;
    statsd_part_note(&packer->sent, packer->entry, &packer->items, begun, values, delta);
  }
  packer->values_begun += values;
  packer->packet_size = 0;
}

int chalk_statsd_commit(chalk_statsd *packer, chalk_cursor *c, chalk_snapshot *s, double now) {
  return statsd_part_commit(&packer->sent, c, s, now);
}

void chalk_statsd_count(const chalk_statsd *packer, chalk_statsd_totals *totals) { *totals = packer->totals; }
