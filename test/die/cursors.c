#include "cursors.h"

#include <stdio.h>
#include <string.h>

#include "read/cursor.h"
#include "value/sketch.h"

void cursors_record_some(bed *b) {
  chalk_add(bed_bind(b, b->count, "sent"), 3);
  for (int i = 0; i < 5; i++) chalk_record(bed_bind(b, b->latency, "sent"), i * i);
  b->counts += 3, b->latencies += 5;
}

void cursors_send_first(bed *b) { bed_send(b, "sender", true); }

void cursors_record_and_send(bed *b) {
  cursors_record_some(b);
  cursors_send_first(b);
  cursors_record_some(b);
}

/* Commits only the first bucket of each histogram, or its zeros, as when a receiver goes away in the middle. */
void cursors_send_parts(bed *b) {
  sending t = bed_begin_sending(b, "sender", true);
  for (uint32_t i = 0; i < t.n; i++) {
    if (t.entries[i].metric != (uint32_t)b->latency) continue;
    chalk_sketch *k = chalk_cursor_delta_sketch(t.cursor, t.snapshot, i), part = {.count = 0};
    EXPECT(k);
    sketch_clear(&part);
    part.scale = k->scale;
    if (k->positive.n > 0) part.positive = (sketch_side){k->positive.at, 1, 1};
    part.zero = k->positive.n > 0 ? 0 : k->zero;
    part.count = k->positive.n > 0 ? k->positive.at[0].count : k->zero;
    if (part.count > atomic_load(&b->notes->batch)) atomic_store(&b->notes->batch, part.count);
    atomic_fetch_add(&b->notes->sent[1], part.count);
    EXPECT(cursor_commit_part(t.cursor, t.snapshot, i, &part, NULL, b->now) == CHALK_OK);
    chalk_sketch_free(k);
  }
  bed_end_sending(b, &t);
}

static void record_several(bed *b) {
  for (int i = 0; i < 4; i++) {
    char tag[16];
    snprintf(tag, sizeof tag, "m%d", i);
    for (int k = 0; k < 4; k++) chalk_record(bed_bind(b, b->latency, tag), 7 + k % 2 * 70);
    b->latencies += 4;
  }
}

void cursors_record_several_and_send(bed *b) {
  record_several(b);
  cursors_send_first(b);
  record_several(b);
}

/* Commits all entries in one call, which writes each histogram into the block that the one before has left. */
void cursors_send_at_once(bed *b) {
  sending t = bed_begin_sending(b, "sender", true);
  uint64_t sent[2] = {0, 0};
  for (uint32_t i = 0; i < t.n; i++) {
    bool histogram = t.entries[i].metric == (uint32_t)b->latency;
    if (!histogram && t.entries[i].metric != (uint32_t)b->count) continue;
    chalk_sketch *k = histogram ? chalk_cursor_delta_sketch(t.cursor, t.snapshot, i) : NULL;
    sent[histogram] += k ? chalk_sketch_count(k) : (uint64_t)chalk_cursor_delta(t.cursor, t.snapshot, i);
    chalk_sketch_free(k);
  }
  if (sent[0] + sent[1] > atomic_load(&b->notes->batch)) atomic_store(&b->notes->batch, sent[0] + sent[1]);
  for (int i = 0; i < 2; i++) atomic_fetch_add(&b->notes->sent[i], sent[i]);
  EXPECT(chalk_cursor_commit(t.cursor, t.snapshot, 0, t.n, b->now) == CHALK_OK);
  bed_end_sending(b, &t);
}

void cursors_open_late(bed *b) {
  chalk_cursor *c = chalk_cursor_open(b->segment, "late", 0, b->now, NULL);
  EXPECT(c);
  chalk_cursor_close(c);
}

/* A cursor of another name, which the next sweep frees because it was not used for a day. */
void cursors_age_cursor(bed *b) {
  cursors_record_some(b);
  bed_send(b, "sender", true);
  bed_send(b, "aged", true);
  atomic_store(&b->notes->sent[0], 0), atomic_store(&b->notes->sent[1], 0);
  b->now += 100000;
}

void cursors_sent_all_anew(bed *b) {
  int64_t counts = bed_total(b, b->count), latencies = bed_total(b, b->latency);
  atomic_store(&b->notes->sent[0], 0), atomic_store(&b->notes->sent[1], 0);
  bed_send(b, "another", true);
  EXPECT((int64_t)atomic_load(&b->notes->sent[0]) == counts);
  EXPECT((int64_t)atomic_load(&b->notes->sent[1]) == latencies);
}

static void drop_sent(bed *b, int metric) {
  const char *value = "sent";
  size_t size = strlen(value);
  chalk_remove(b->writer, (uint32_t)metric, &value, &size);
}

void cursors_drop_unsent(bed *b) {
  cursors_record_some(b);
  cursors_send_first(b);
  cursors_record_some(b);
  int64_t counts = 6, latencies = 10;
  drop_sent(b, b->count), drop_sent(b, b->latency);
  b->counts -= counts, b->latencies -= latencies;
  bed_tick(b);
}

/* Sends the dropped series, so that they are reclaimed. */
void cursors_send_and_sweep(bed *b) {
  cursors_send_first(b);
  bed_sweep(b, 0);
}

/* The totals of the dropped series were sent, too. */
void cursors_sent_what_was_dropped(bed *b) {
  cursors_send_first(b);
  notes *n = b->notes;
  int64_t each = (int64_t)atomic_load(&n->counted), more = 6 + 10;
  int64_t sent = (int64_t)(atomic_load(&n->sent[0]) + atomic_load(&n->sent[1]));
  EXPECT(sent >= 2 * each + more);
  EXPECT(sent <= 2 * each + more + (int64_t)atomic_load(&n->batch));
}
