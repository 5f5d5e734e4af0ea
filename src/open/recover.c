#include "open/recover.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "series/gauge.h"
#include "shm/heap.h"
#include "value/histogram.h"
#include "series/key.h"
#include "base/peek.h"
#include "base/tally.h"
#include "shm/process.h"
#include "series/handover.h"
#include "series/series.h"
#include "value/kind.h"
#include "value/stored.h"
#include "record/tap.h"
#include "base/text.h"

/* A check in progress. Each part of the segment notes its own blocks. */
typedef struct recovery {
  chalk_segment *g;
  heap_ledger blocks;
  uint32_t top;     /* the number after the highest series to check */
  uint64_t *counts; /* by series: the sum of all counts in the cells of the writers so far */
} recovery;

/* The header */

bool recover_is_plausible(const chalk_segment *g) {
  header *h = g->head;
  double epoch = segment_epoch(g);
  uint64_t heap_top = peek_u64(&h->heap_top);
  uint32_t ids_top = h->ids_top, slot_top = h->slot_top, guest_top = h->guest_top;
  uint32_t buckets = h->max_buckets, most = h->max_series;
  return epoch >= 1 && epoch < 0x1p53 && epoch == (double)(uint64_t)epoch && segment_block(g, heap_top, 0) &&
         h->metric_top <= METRICS && ids_top >= METRICS && ids_top <= g->capacity && slot_top >= 1 &&
         slot_top <= WRITERS && guest_top >= WRITERS && guest_top <= OWNERS && buckets >= 8 && buckets <= 8192 &&
         h->start_scale <= SKETCH_MOST_SCALE && most >= 1 && most <= g->capacity / 2;
}

static bool header_is_sound(const chalk_segment *g) {
  header *h = g->head;
  return recover_is_plausible(g) && h->heap_real >= h->heap_top && h->heap_real <= g->size &&
         h->metrics_real >= h->metric_top && h->metrics_real <= METRICS && h->series_real >= h->ids_top &&
         h->series_real <= g->capacity && h->slots_real >= h->guest_top && h->slots_real <= OWNERS;
}

/* Metrics */

static bool bounds_are_sound(const double *le, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    if (!isfinite(le[i]) || (i > 0 && le[i] <= le[i - 1])) return false;
  }
  return true;
}

static bool blob_is_sound(recovery *r, uint64_t blob) {
  const uint64_t *at = segment_block(r->g, blob, 8);
  uint64_t size = at ? peek_u64(at) : 0;
  return at && size < r->g->size && heap_note(&r->blocks, blob, 8 + size);
}

static bool overflow_is_sound(chalk_segment *g, uint32_t number) {
  series *s = &g->series[number];
  s->key = 0;
  s->key_size = 0;
  atomic_store(&s->at_drop, 0);
  return s->metric == number && atomic_load(&s->state) == SERIES_LIVE;
}

static bool contents_are_sound(recovery *r, const metric *m) {
  const chalk_segment *g = r->g;
  return heap_note(&r->blocks, m->name, m->name_size) && heap_note(&r->blocks, m->shape, m->shape_size) &&
         heap_note(&r->blocks, m->le, m->les * sizeof(double)) && blob_is_sound(r, m->blob) &&
         text_hash(segment_at(g, m->name), m->name_size) == m->hash && bounds_are_sound(segment_at(g, m->le), m->les);
}

/*
 * A free struct keeps nothing: a definition that a process had begun before it died is lost. The overflow series of the
 * number points to its own metric again.
 */
static bool metric_is_sound(recovery *r, uint32_t number) {
  chalk_segment *g = r->g;
  metric *m = &g->metrics[number];
  uint32_t state = atomic_load(&m->state);
  if (state == METRIC_FREE || number >= segment_metrics(g)) {
    atomic_store(&m->state, METRIC_FREE);
    m->name = m->shape = m->le = 0;
    atomic_store(&m->blob, 0);
    g->series[number].metric = number;
    return true;
  }
  metric seen;
  memcpy(&seen, m, sizeof seen); /* a copy, so that the checked values are the ones that are used */
  bool fits = state <= METRIC_SUPERSEDED && kind_is_known(seen.kind) && seen.across <= CHALK_MAX &&
              seen.tags <= CHALK_TAGS && seen.les <= CHALK_LES && seen.name_size > 0;
  return fits && contents_are_sound(r, &seen) && overflow_is_sound(g, number);
}

static bool metrics_are_sound(recovery *r) {
  for (uint32_t i = 0, real = segment_top(&r->g->head->metrics_real, METRICS); i < real; i++) {
    if (!metric_is_sound(r, i)) return false;
  }
  return true;
}

/* Series */

/* The metric of a series that exists. NULL: there is no series with this number. */
static const metric *metric_of(const chalk_segment *g, uint32_t id) {
  uint32_t top = segment_metrics(g), number = id;
  if (id >= METRICS) {
    uint32_t state = id < series_top(g) ? atomic_load(&g->series[id].state) : SERIES_FREE;
    if (state != SERIES_LIVE && state != SERIES_DROPPED) return NULL;
    number = g->series[id].metric;
  }
  return number < top && atomic_load(&g->metrics[number].state) != METRIC_FREE ? &g->metrics[number] : NULL;
}

static bool key_is_sound(const chalk_segment *g, const series *s, uint64_t offset, uint32_t key_size, uint32_t tags) {
  const char *key = key_size > 0 ? segment_block(g, offset, key_size) : "", *value;
  uint32_t at = 0, size;
  for (uint32_t i = 0; i < tags; i++) {
    if (!key || !key_next(key, key_size, &at, &value, &size) || size > CHALK_VALUE) return false;
  }
  return at == key_size && key_hash(s->metric, key, key_size) == s->hash;
}

/*
 * Whether a total is sound: a number for a count, a stored histogram for a histogram. 0 stands for nothing. `sent`: the
 * total is a baseline, whose counts need not rise from bound to bound.
 */
static bool total_is_sound(recovery *r, const metric *m, uint64_t total, bool sent) {
  if (kind_has_histogram(m->kind)) return !total || stored_is_sound(r->g, total, m->les, sent, &r->blocks);
  return total <= TALLY_MOST;
}

static bool series_is_sound(recovery *r, uint32_t id) {
  chalk_segment *g = r->g;
  series *s = &g->series[id];
  uint32_t state = atomic_load(&s->state) & 255;
  if (state == SERIES_FREE) s->key = 0;
  /* Also for free series: readers look up the metric before they know the state. */
  if (s->metric >= METRICS) s->metric = 0;
  if (state == SERIES_RESERVED && s->key) return heap_note(&r->blocks, s->key, s->key_size);
  if (state == SERIES_FREE || state == SERIES_RESERVED) return true;
  const metric *m = metric_of(g, id);
  uint64_t key = s->key;
  uint32_t key_size = s->key_size;
  if (!m || (key_size > 0) != (key != 0)) return false;
  if (key && !heap_note(&r->blocks, key, key_size)) return false;
  if (kind_has_value(m->kind)) atomic_store(&s->at_drop, atomic_load(&s->at_drop) == 1);
  uint64_t epoch = (uint64_t)segment_epoch(g), dropped = atomic_load(&s->drop_epoch);
  if (dropped != SERIES_UNSETTLED && dropped > epoch) atomic_store(&s->drop_epoch, epoch);
  if (!isfinite(s->seen_time)) s->seen_time = 0;
  s->pass = 0; /* it refers to a reader of the tap that is gone */
  return key_is_sound(g, s, key, key_size, m->tags) && total_is_sound(r, m, atomic_load(&s->at_drop), false);
}

static bool all_series_are_sound(recovery *r) {
  for (uint32_t id = METRICS; id < r->top; id++) {
    if (!series_is_sound(r, id)) return false;
  }
  return true;
}

static bool is_same(const chalk_segment *g, const series *a, const series *b) {
  uint32_t size = a->key_size;
  const void *x = segment_block(g, a->key, size), *y = segment_block(g, b->key, size);
  bool alike = a->hash == b->hash && a->metric == b->metric && b->key_size == size;
  return alike && (size == 0 || (x && y && memcmp(x, y, size) == 0));
}

/*
 * Whether no two series in a chain have the same key. The chains have been rebuilt. False also if they are extremely
 * long.
 */
static bool keys_are_unique(const chalk_segment *g) {
  enum { LONG = 1000 };
  uint32_t top = series_top(g);
  uint64_t left = (uint64_t)top * LONG;
  for (uint32_t id = METRICS; id < top; id++) {
    const series *s = &g->series[id];
    if (atomic_load((shared_u32 *)&s->state) != SERIES_LIVE) continue;
    for (uint32_t other = peek_u32(&s->next); other < g->capacity; other = peek_u32(&g->series[other].next)) {
      if (left-- == 0 || is_same(g, s, &g->series[other])) return false;
    }
  }
  return true;
}

/* Cells and baselines */

/* Clears the cell if no series has its number. */
static bool cell_is_sound(recovery *r, shared_u64 *cell, uint32_t id) {
  uint64_t bits = atomic_load(cell);
  const metric *m = metric_of(r->g, id);
  if (!m) {
    atomic_store(cell, 0);
    return true;
  }
  if (kind_has_histogram(m->kind)) return histogram_is_sound(r->g, bits, m->les, &r->blocks, &r->counts[id]);
  uint32_t row = cell < segment_cell(r->g, 1, 0) ? 0 : 1; /* a gauge's cell in row 0 leads to a list */
  if (kind_has_value(m->kind)) return !kind_is_split(m) || gauge_is_sound(r->g, row, bits, &r->blocks);
  double n = as_double(bits);
  return n >= 0 && n <= (double)TALLY_MOST && tally_add(&r->counts[id], (uint64_t)n);
}

/* Clears the baseline if no series has its number, or the series is a gauge. */
static bool baseline_is_sound(recovery *r, shared_u64 *total, uint32_t id) {
  const metric *m = metric_of(r->g, id);
  if (!m || kind_has_value(m->kind)) atomic_store(total, 0);
  return !m || total_is_sound(r, m, atomic_load(total), true);
}

/* Clears the lowest bit that is set in a word of bits, and returns the number of its chunk. */
static uint32_t next_chunk(uint64_t *bits, uint32_t word) {
  uint32_t chunk = word * 64 + (uint32_t)__builtin_ctzll(*bits);
  *bits &= *bits - 1;
  return chunk;
}

/*
 * Checks all items that are not zero in the real chunks of a row. A bit for a chunk beyond the end of the row is
 * damage.
 */
static bool row_is_sound(recovery *r, shared_u64 *chunks, void *row, uint32_t width,
                         bool (*is_sound)(recovery *, shared_u64 *item, uint32_t id)) {
  uint32_t items = segment_chunk_items(r->g), n = r->g->capacity / items;
  for (uint32_t word = 0; word < CHUNKS / 64; word++) {
    for (uint64_t bits = atomic_load(&chunks[word]); bits;) {
      uint32_t chunk = next_chunk(&bits, word);
      if (chunk >= n) return false;
      for (uint32_t id = chunk * items; id < (chunk + 1) * items && id < r->top; id++) {
        shared_u64 *item = (shared_u64 *)((char *)row + (uint64_t)id * width);
        if (atomic_load_explicit(item, memory_order_relaxed) != 0 && !is_sound(r, item, id)) return false;
      }
    }
  }
  return true;
}

static bool cells_are_sound(recovery *r) {
  r->counts = calloc(r->top, sizeof *r->counts);
  bool sound = r->counts != NULL;
  for (uint32_t w = 0; w < WRITERS && sound; w++) {
    sound = row_is_sound(r, r->g->slots[w].chunks, segment_cell(r->g, w, 0), 8, cell_is_sound);
  }
  free(r->counts);
  r->counts = NULL;
  return sound;
}

static bool cursors_are_sound(recovery *r) {
  for (uint32_t c = 0; c < CURSORS; c++) {
    cursor_head *h = &r->g->cursors[c];
    if (atomic_load(&h->state) > 1 || h->name_size >= sizeof h->name) return false;
    if (!isfinite(h->used)) h->used = 0;
    baseline *row = segment_baseline(r->g, c, 0);
    if (!row_is_sound(r, h->chunks, row, sizeof *row, baseline_is_sound)) return false;
  }
  return true;
}

/* Stripes */

static bool stripes_are_sound(recovery *r) {
  for (uint32_t i = 0; i < STRIPES; i++) {
    const stripe *t = &r->g->stripes[i];
    uint32_t size = peek_u32(&t->size);
    bool sound = size >= STRIPE_LEAST && size <= 1u << 24 && (size & (size - 1)) == 0 &&
                 heap_note(&r->blocks, t->heads, size * sizeof(uint32_t));
    if (!sound) return false;
  }
  return true;
}

/* Whether a handover that a process began can be finished. The check of the whole segment follows after that. */
static bool handover_is_sound(recovery *r, const stripe *t) {
  chalk_segment *g = r->g;
  if (!atomic_load((shared_u32 *)&t->handing_over)) return true;
  uint32_t from = peek_u32(&t->handover_from), to = peek_u32(&t->handover_to);
  const metric *m = from >= METRICS ? metric_of(g, from) : NULL;
  if (!m || kind_has_value(m->kind) || m != metric_of(g, to) || from == to) return false;
  if (!segment_chunk_real(g, g->slots[0].chunks, to)) return false;
  if (!total_is_sound(r, m, t->handover_at_drop, false)) return false;
  if (!total_is_sound(r, m, atomic_load(&g->series[from].at_drop), false)) return false;
  double value = as_double(t->handover_value);
  if (kind_has_total(m->kind)) return value >= 0 && value <= (double)TALLY_MOST;
  uint64_t count = 0, cell = atomic_load(segment_cell(g, 0, to));
  return cell != t->handover_value && histogram_is_sound(g, cell, m->les, &r->blocks, &count) &&
         (count = 0, histogram_is_sound(g, t->handover_value, m->les, &r->blocks, &count));
}

static bool finish_handovers(recovery *r) {
  for (uint32_t i = 0; i < STRIPES; i++) {
    if (!handover_is_sound(r, &r->g->stripes[i])) return false;
    handover_finish(r->g, &r->g->stripes[i]);
  }
  return true;
}

/* The whole segment */

static bool is_sound(recovery *r) {
  r->blocks.n = 0;
  r->top = series_top(r->g);
  return header_is_sound(r->g) && metrics_are_sound(r) && all_series_are_sound(r) && cells_are_sound(r) &&
         cursors_are_sound(r) && stripes_are_sound(r) && tap_is_sound(&r->blocks, r->g) && heap_note_free(&r->blocks) &&
         heap_are_apart(&r->blocks);
}

bool recover_check(chalk_segment *g) {
  recovery r = {.g = g, .blocks.g = g};
  bool sound = is_sound(&r) && keys_are_unique(g);
  free(r.blocks.at);
  return sound;
}

/*
 * Makes every range real again that the segment says is real: a copy of the file may have holes, and a store into a
 * hole of a full disk is a SIGBUS. Counts the memory again.
 */
static int make_real(chalk_segment *g, uint64_t offset, uint64_t size) {
  size = segment_pages(g, &offset, size);
  if (size == 0) return CHALK_OK;
  atomic_fetch_add(&g->head->memory, size);
  return segment_allocate(g->fd, offset, size);
}

static int make_row_real(chalk_segment *g, const shared_u64 *chunks, uint64_t row, uint32_t width) {
  uint64_t size = (uint64_t)segment_chunk_items(g) * width;
  int rc = CHALK_OK;
  for (uint32_t word = 0; word < CHUNKS / 64; word++) {
    for (uint64_t bits = atomic_load((shared_u64 *)&chunks[word]); bits && rc == CHALK_OK;) {
      uint32_t chunk = next_chunk(&bits, word);
      if (chunk < g->capacity / segment_chunk_items(g)) rc = make_real(g, row + chunk * size, size);
    }
  }
  return rc;
}

static int make_all_real(chalk_segment *g) {
  header *h = g->head;
  uint64_t slots = segment_offset(g, g->slots), n_slots = segment_top(&h->slots_real, OWNERS);
  uint64_t metrics = segment_offset(g, g->metrics), first = segment_offset(g, g->series);
  uint64_t n_metrics = segment_top(&h->metrics_real, METRICS), heap = peek_u64(&h->heap_real);
  uint64_t n_series = segment_top(&h->series_real, g->capacity);
  atomic_store(&h->memory, 0);
  int rc = make_real(g, 0, slots + n_slots * sizeof(slot));
  if (rc == CHALK_OK) rc = make_real(g, metrics, n_metrics * sizeof(metric));
  if (rc == CHALK_OK) rc = make_real(g, first, n_metrics * sizeof(series));
  uint64_t others = n_series > METRICS ? n_series - METRICS : 0;
  if (rc == CHALK_OK) rc = make_real(g, first + METRICS * sizeof(series), others * sizeof(series));
  for (uint32_t w = 0; w < WRITERS && rc == CHALK_OK; w++) {
    rc = make_row_real(g, g->slots[w].chunks, segment_row(g, w), 8);
  }
  for (uint32_t c = 0; c < CURSORS && rc == CHALK_OK; c++) {
    rc = make_row_real(g, g->cursors[c].chunks, segment_offset(g, segment_baseline(g, c, 0)), sizeof(baseline));
  }
  return rc == CHALK_OK && heap > g->heap && heap <= g->size ? make_real(g, g->heap, heap - g->heap) : rc;
}

/* Clearing unused memory, which its next user expects to be zero. Holes of the file are skipped. */

static void clear(char *from, char *to) {
  static const char zeroes[4096];
  for (size_t n; from < to; from += n) {
    n = (size_t)(to - from) < sizeof zeroes ? (size_t)(to - from) : sizeof zeroes;
    if (memcmp(from, zeroes, n) != 0) memset(from, 0, n);
  }
}

/*
 * Finds the next bytes of a range that are in the file. False: there are none. If the file system does not report
 * holes, this is the whole range.
 */
static bool next_data(const chalk_segment *g, uint64_t *from, uint64_t end, uint64_t *to) {
  *to = end;
  off_t data = lseek(g->fd, (off_t)*from, SEEK_DATA);
  if (data < 0) return errno != ENXIO;
  if ((uint64_t)data >= end) return false;
  *from = (uint64_t)data;
  off_t hole = lseek(g->fd, data, SEEK_HOLE);
  if (hole >= 0 && (uint64_t)hole < end) *to = (uint64_t)hole;
  return true;
}

static void clear_range(chalk_segment *g, uint64_t from, uint64_t end) {
  for (uint64_t to; from < end && next_data(g, &from, end, &to); from = to) clear(g->base + from, g->base + to);
}

/*
 * Clears rows of `width` bytes per series. Chunks that are not real are cleared as a whole, the others behind the
 * highest series.
 */
static void clear_rows(chalk_segment *g, uint64_t rows, uint32_t n, uint32_t width,
                       const shared_u64 *(*chunks_of)(const chalk_segment *, uint32_t)) {
  uint64_t chunk = (uint64_t)segment_chunk_items(g) * width, row = (uint64_t)g->capacity * width;
  uint64_t end = rows + n * row, top = (uint64_t)series_top(g) * width;
  for (uint64_t from = rows, to; from < end && next_data(g, &from, end, &to);) {
    while (from < to) {
      uint64_t at = (from - rows) % row, next = from - at % chunk + chunk, keep = 0;
      const shared_u64 *chunks = chunks_of(g, (uint32_t)((from - rows) / row));
      if (next > to) next = to;
      if (top > at && segment_chunk_real(g, chunks, (uint32_t)(at / width))) keep = top - at;
      if (keep < next - from) clear(g->base + from + keep, g->base + next);
      from = next;
    }
  }
}

static const shared_u64 *chunks_of_writer(const chalk_segment *g, uint32_t w) { return g->slots[w].chunks; }
static const shared_u64 *chunks_of_cursor(const chalk_segment *g, uint32_t c) { return g->cursors[c].chunks; }

static void clear_unused(chalk_segment *g) {
  uint64_t metrics = segment_metrics(g), heap = peek_u64(&g->head->heap_top);
  uint64_t first = segment_offset(g, g->series), others = segment_offset(g, &g->series[METRICS]);
  clear_range(g, segment_offset(g, &g->slots[segment_guests(g)]), segment_offset(g, g->metrics));
  clear_range(g, segment_offset(g, &g->metrics[metrics]), first);
  clear_range(g, first + metrics * sizeof(series), others);
  clear_range(g, first + series_top(g) * sizeof(series), g->cells);
  clear_rows(g, g->cells, WRITERS, 8, chunks_of_writer);
  clear_rows(g, g->baselines, CURSORS, sizeof(baseline), chunks_of_cursor);
  clear_range(g, heap > g->heap ? heap : g->heap, g->size);
}

static void forget_owners(chalk_segment *g, bool rebooted) {
  header *h = g->head;
  for (uint32_t i = 1, top = segment_guests(g); i < top; i++) atomic_store(&g->slots[i].taken, 0);
  atomic_store(&h->strangers, 0);
  atomic_store(&h->flusher.pid, 0);
  tap_recover(g, rebooted);
  atomic_store(&h->heartbeat, 0);
  atomic_store(&h->done, atomic_load(&h->requested));
  if (!rebooted) return;
  atomic_store(&h->flushed, 0);
  for (uint32_t i = 0; i < CURSORS; i++) g->cursors[i].used = 0;
  for (uint32_t id = METRICS, top = series_top(g); id < top; id++) g->series[id].seen_time = 0;
}

static int refuse(char *message) {
  process_say(message, "the file is a damaged segment of chalk");
  return CHALK_EINVALID;
}

int recover(chalk_segment *g, bool rebooted, char *message) {
  recovery r = {.g = g, .blocks.g = g};
  if (!header_is_sound(g)) return refuse(message);
  if (make_all_real(g) != CHALK_OK) {
    process_say(message, "no memory for all of the segment");
    return CHALK_EMEMORY;
  }
  segment_locks_new(g);
  bool sound = metrics_are_sound(&r) && finish_handovers(&r) && is_sound(&r);
  free(r.blocks.at);
  if (!sound) return refuse(message);
  clear_unused(g);
  forget_owners(g, rebooted);
  series_rebuild(g);
  series_recount(g);
  return keys_are_unique(g) ? CHALK_OK : refuse(message);
}
