#include "recover.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gauge.h"
#include "heap.h"
#include "histogram.h"
#include "key.h"
#include "process.h"
#include "residue.h"
#include "series.h"
#include "stored.h"
#include "tap.h"
#include "text.h"

typedef struct extent {
  uint64_t offset, size;
} extent;

struct recovery {
  chalk_segment *g;
  extent *at; /* blocks of the heap */
  size_t n, room;
  uint64_t *counts; /* by series, all that is counted in the cells of the writers so far */
};

/* Blocks */

static bool note(recovery *r, extent e) {
  if (r->n == r->room) {
    size_t room = r->room ? r->room * 2 : 256;
    extent *at = realloc(r->at, room * sizeof *at);
    if (!at) return false;
    r->at = at;
    r->room = room;
  }
  r->at[r->n++] = e;
  return true;
}

bool recover_block(recovery *r, uint64_t offset, uint64_t size) {
  const header *h = r->g->head;
  if (offset < h->heap || offset >= h->heap_top || offset % 8 != 0 || size > h->heap_top - offset) return false;
  uint64_t rounded = heap_rounded(size);
  return rounded <= h->heap_top - offset && note(r, (extent){offset, rounded});
}

static int by_offset(const void *a, const void *b) {
  uint64_t x = ((const extent *)a)->offset, y = ((const extent *)b)->offset;
  return (x > y) - (x < y);
}

static bool are_apart(recovery *r) {
  qsort(r->at, r->n, sizeof *r->at, by_offset);
  for (size_t i = 1; i < r->n; i++) {
    if (r->at[i].offset - r->at[i - 1].offset < r->at[i - 1].size) return false;
  }
  return true;
}

/* The header */

static bool header_is_sound(const chalk_segment *g) {
  header *h = g->head;
  double epoch = segment_epoch(g);
  return epoch >= 1 && epoch < 0x1p53 && epoch == floor(epoch) && h->heap_top >= h->heap && h->heap_top % 8 == 0 &&
         h->heap_real >= h->heap_top && h->heap_real <= g->size && h->metric_top <= METRICS &&
         h->metrics_real >= h->metric_top && h->metrics_real <= METRICS && h->ids_top >= METRICS &&
         h->series_real >= h->ids_top && h->series_real <= h->capacity && h->slot_top >= 1 && h->slot_top <= WRITERS &&
         h->guest_top >= WRITERS && h->slots_real >= h->guest_top && h->slots_real <= OWNERS && h->max_buckets >= 8 &&
         h->max_buckets <= 8192 && h->start_scale <= SKETCH_MOST_SCALE && h->max_series >= 1 &&
         h->max_series <= h->capacity / 2;
}

/* Metrics */

static bool bounds_are_sound(const double *le, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    if (!isfinite(le[i]) || (i > 0 && le[i] <= le[i - 1])) return false;
  }
  return true;
}

static bool blob_is_sound(recovery *r, uint64_t blob) {
  const uint64_t *size = segment_block(r->g, blob, 8);
  return size && *size < r->g->size && recover_block(r, blob, 8 + *size);
}

static bool overflow_is_sound(chalk_segment *g, uint32_t number) {
  series *s = &g->series[number];
  s->key = 0;
  s->key_size = 0;
  atomic_store(&s->at_drop, 0);
  return s->metric == number && atomic_load(&s->state) == SERIES_LIVE;
}

/* Of a free struct nothing is kept: what somebody had begun who died is lost. Its overflow series is its own again. */
static bool metric_is_sound(recovery *r, uint32_t number) {
  chalk_segment *g = r->g;
  metric *m = &g->metrics[number];
  uint32_t state = atomic_load(&m->state);
  if (state == METRIC_FREE || number >= atomic_load(&g->head->metric_top)) {
    atomic_store(&m->state, METRIC_FREE);
    m->name = m->shape = m->le = 0;
    atomic_store(&m->blob, 0);
    g->series[number].metric = number;
    return true;
  }
  if (state > METRIC_SUPERSEDED || m->kind < CHALK_COUNT || m->kind > CHALK_HISTOGRAM || m->across > CHALK_MAX ||
      m->tags > CHALK_TAGS || m->les > CHALK_LES || m->name_size == 0) {
    return false;
  }
  return recover_block(r, m->name, m->name_size) && recover_block(r, m->shape, m->shape_size) &&
         recover_block(r, m->le, m->les * sizeof(double)) && blob_is_sound(r, atomic_load(&m->blob)) &&
         text_hash(segment_at(g, m->name), m->name_size) == m->hash && bounds_are_sound(segment_at(g, m->le), m->les) &&
         overflow_is_sound(g, number);
}

static bool metrics_are_sound(recovery *r) {
  for (uint32_t i = 0; i < r->g->head->metrics_real; i++) {
    if (!metric_is_sound(r, i)) return false;
  }
  return true;
}

/* Series */

/* The metric of a series that is there; NULL: the number has no meaning. */
static const metric *metric_of(const chalk_segment *g, uint32_t id) {
  uint32_t top = atomic_load(&g->head->metric_top), number = id;
  if (id >= METRICS) {
    uint32_t state = id < series_top(g) ? atomic_load(&g->series[id].state) : SERIES_FREE;
    if (state != SERIES_LIVE && state != SERIES_DROPPED) return NULL;
    number = g->series[id].metric;
  }
  return number < top && atomic_load(&g->metrics[number].state) != METRIC_FREE ? &g->metrics[number] : NULL;
}

static bool key_is_sound(const chalk_segment *g, const series *s, uint32_t tags) {
  const char *key = segment_at(g, s->key), *value;
  uint32_t at = 0, size;
  for (uint32_t i = 0; i < tags; i++) {
    if (!key_next(key, s->key_size, &at, &value, &size) || size > CHALK_VALUE) return false;
  }
  return at == s->key_size && key_hash(s->metric, key, s->key_size) == s->hash;
}

/*
 * Where a total belongs: of a count it is a number, of a histogram a block. `total` is 0 when there is nothing. What was
 * sent may be a part.
 */
static bool total_is_sound(recovery *r, const metric *m, uint64_t total, bool sent) {
  if (m->kind == CHALK_HISTOGRAM) return !total || stored_is_sound(r->g, total, m->les, sent, r);
  return total <= RECOVER_MOST;
}

static bool series_is_sound(recovery *r, uint32_t id) {
  chalk_segment *g = r->g;
  series *s = &g->series[id];
  uint32_t state = atomic_load(&s->state) & 255;
  if (state == SERIES_FREE) s->key = 0;
  if (s->metric >= METRICS) s->metric = 0; /* of those not in use too: readers look it up before they know the state */
  if (state == SERIES_RESERVED && s->key) return recover_block(r, s->key, s->key_size);
  if (state == SERIES_FREE || state == SERIES_RESERVED) return true;
  const metric *m = metric_of(g, id);
  if (!m || (s->key_size > 0) != (s->key != 0)) return false;
  if (s->key && !recover_block(r, s->key, s->key_size)) return false;
  if (m->kind == CHALK_GAUGE) atomic_store(&s->at_drop, 0);
  uint64_t epoch = (uint64_t)segment_epoch(g), dropped = atomic_load(&s->drop_epoch);
  if (dropped != UINT64_MAX && dropped > epoch) atomic_store(&s->drop_epoch, epoch);
  if (!isfinite(s->seen_time)) s->seen_time = 0;
  s->pass = 0; /* of a reader that has gone */
  return key_is_sound(g, s, m->tags) && total_is_sound(r, m, atomic_load(&s->at_drop), false);
}

static bool all_series_are_sound(recovery *r) {
  for (uint32_t id = METRICS; id < series_top(r->g); id++) {
    if (!series_is_sound(r, id)) return false;
  }
  return true;
}

/* Whether no two in one chain are the same; only when the chains are whole. */
static bool keys_are_unique(const chalk_segment *g) {
  for (uint32_t id = METRICS; id < series_top(g); id++) {
    const series *s = &g->series[id];
    if (atomic_load((shared_u32 *)&s->state) != SERIES_LIVE) continue;
    for (uint32_t other = s->next; other != NONE; other = g->series[other].next) {
      const series *o = &g->series[other];
      if (o->hash == s->hash && o->metric == s->metric && o->key_size == s->key_size &&
          memcmp(segment_at(g, o->key), segment_at(g, s->key), s->key_size) == 0) {
        return false;
      }
    }
  }
  return true;
}

/* Cells and baselines */

static bool cell_is_sound(recovery *r, shared_u64 *cell, uint32_t id) {
  uint64_t bits = atomic_load(cell);
  const metric *m = metric_of(r->g, id);
  if (!m) {
    atomic_store(cell, 0);
    return true;
  }
  if (m->kind == CHALK_HISTOGRAM) return histogram_is_sound(r->g, bits, m->les, r, &r->counts[id]);
  uint32_t row = cell < segment_cell(r->g, 1, 0) ? 0 : 1;
  if (m->kind == CHALK_GAUGE) return m->across == CHALK_LAST || gauge_is_sound(r->g, row, bits, r);
  double n = as_double(bits);
  return n >= 0 && n <= (double)RECOVER_MOST && recover_count(&r->counts[id], (uint64_t)n);
}

static bool baseline_is_sound(recovery *r, shared_u64 *total, uint32_t id) {
  const metric *m = metric_of(r->g, id);
  if (!m || m->kind == CHALK_GAUGE) atomic_store(total, 0);
  return !m || total_is_sound(r, m, atomic_load(total), true);
}

/* The pieces of a row that are real are set bits; the lowest of them is taken out. */
static uint32_t next_piece(uint64_t *bits, uint32_t word) {
  uint32_t chunk = word * 64 + (uint32_t)__builtin_ctzll(*bits);
  *bits &= *bits - 1;
  return chunk;
}

/* All items of a row's pieces that are real and not zero. Pieces beyond the row's end are none. */
static bool row_is_sound(recovery *r, shared_u64 *chunks, void *row, uint32_t width,
                         bool (*is_sound)(recovery *, shared_u64 *item, uint32_t id)) {
  uint32_t items = segment_chunk_items(r->g), n = r->g->head->capacity / items, top = series_top(r->g);
  for (uint32_t word = 0; word < CHUNKS / 64; word++) {
    for (uint64_t bits = atomic_load(&chunks[word]); bits;) {
      uint32_t chunk = next_piece(&bits, word);
      if (chunk >= n) return false;
      for (uint32_t id = chunk * items; id < (chunk + 1) * items && id < top; id++) {
        shared_u64 *item = (shared_u64 *)((char *)row + (uint64_t)id * width);
        if (atomic_load_explicit(item, memory_order_relaxed) != 0 && !is_sound(r, item, id)) return false;
      }
    }
  }
  return true;
}

static bool cells_are_sound(recovery *r) {
  r->counts = calloc(series_top(r->g), sizeof *r->counts);
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
    bool sound = t->size >= 32 && t->size <= 1u << 24 && (t->size & (t->size - 1)) == 0 &&
                 recover_block(r, t->heads, t->size * sizeof(uint32_t));
    if (!sound) return false;
  }
  return true;
}

/* Whether what somebody began to pass on can be ended; it is then looked at again with all else. */
static bool passing_is_sound(recovery *r, const stripe *t) {
  chalk_segment *g = r->g;
  if (!atomic_load((shared_u32 *)&t->passing)) return true;
  uint32_t from = t->pass_from, to = t->pass_to;
  const metric *m = from >= METRICS ? metric_of(g, from) : NULL;
  if (!m || m->kind == CHALK_GAUGE || m != metric_of(g, to) || from == to) return false;
  if (!segment_chunk_real(g, g->slots[0].chunks, to)) return false;
  if (!total_is_sound(r, m, t->pass_at_drop, false)) return false;
  if (!total_is_sound(r, m, atomic_load(&g->series[from].at_drop), false)) return false;
  if (m->kind == CHALK_COUNT) return as_double(t->pass_value) >= 0 && as_double(t->pass_value) <= (double)RECOVER_MOST;
  uint64_t count = 0, cell = atomic_load(segment_cell(g, 0, to));
  return cell != t->pass_value && histogram_is_sound(g, cell, m->les, r, &count) &&
         (count = 0, histogram_is_sound(g, t->pass_value, m->les, r, &count));
}

static bool finish_passing(recovery *r) {
  for (uint32_t i = 0; i < STRIPES; i++) {
    if (!passing_is_sound(r, &r->g->stripes[i])) return false;
    residue_finish(r->g, &r->g->stripes[i]);
  }
  return true;
}

/* All */

static bool is_sound(recovery *r) {
  r->n = 0;
  return header_is_sound(r->g) && metrics_are_sound(r) && all_series_are_sound(r) && cells_are_sound(r) &&
         cursors_are_sound(r) && stripes_are_sound(r) && tap_is_sound(r, r->g) && heap_is_sound(r->g, r) &&
         are_apart(r);
}

bool recover_check(chalk_segment *g) {
  recovery r = {.g = g};
  bool sound = is_sound(&r) && keys_are_unique(g);
  free(r.at);
  return sound;
}

/*
 * Makes all real again that is said to be: a copy of the file may have holes, and a page that cannot be had when it is
 * written to is a SIGBUS. The memory is counted anew.
 */
static int make_real(chalk_segment *g, uint64_t offset, uint64_t size) {
  uint64_t first = offset & ~4095ull, end = (offset + size + 4095) & ~4095ull;
  if (end > g->size) end = g->size;
  if (first == end) return CHALK_OK;
  atomic_fetch_add(&g->head->memory, end - first);
  return segment_allocate(g->fd, first, end - first);
}

static int make_row_real(chalk_segment *g, const shared_u64 *chunks, uint64_t row, uint32_t width) {
  uint64_t size = (uint64_t)segment_chunk_items(g) * width;
  int e = CHALK_OK;
  for (uint32_t word = 0; word < CHUNKS / 64; word++) {
    for (uint64_t bits = atomic_load((shared_u64 *)&chunks[word]); bits && e == CHALK_OK;) {
      uint32_t chunk = next_piece(&bits, word);
      if (chunk < g->head->capacity / segment_chunk_items(g)) e = make_real(g, row + chunk * size, size);
    }
  }
  return e;
}

static int make_all_real(chalk_segment *g) {
  header *h = g->head;
  uint64_t offset_of_cells = h->cells, row = (uint64_t)h->capacity;
  atomic_store(&h->memory, 0);
  int e = make_real(g, 0, h->slots + h->slots_real * sizeof(slot));
  if (e == CHALK_OK) e = make_real(g, h->metrics, h->metrics_real * sizeof(metric));
  if (e == CHALK_OK) e = make_real(g, h->series, h->metrics_real * sizeof(series));
  uint64_t others = h->series + METRICS * sizeof(series);
  if (e == CHALK_OK) e = make_real(g, others, (uint64_t)(h->series_real - METRICS) * sizeof(series));
  for (uint32_t w = 0; w < WRITERS && e == CHALK_OK; w++) {
    e = make_row_real(g, g->slots[w].chunks, offset_of_cells + w * row * 8, 8);
  }
  for (uint32_t c = 0; c < CURSORS && e == CHALK_OK; c++) {
    e = make_row_real(g, g->cursors[c].chunks, h->baselines + c * row * sizeof(baseline), sizeof(baseline));
  }
  return e == CHALK_OK ? make_real(g, h->heap, h->heap_real - h->heap) : e;
}

/* Clearing what is not in use: whoever takes it up expects zeroes. Holes of the file are passed over. */

static void clear(char *from, char *to) {
  static const char zeroes[4096];
  for (size_t n; from < to; from += n) {
    n = (size_t)(to - from) < sizeof zeroes ? (size_t)(to - from) : sizeof zeroes;
    if (memcmp(from, zeroes, n) != 0) memset(from, 0, n);
  }
}

/* The next bytes of a range that are in the file; false: there are none. Where holes are not told, that is all. */
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

/* Rows of `width` bytes a series. In pieces that are not real all is cleared, in the others what is behind the top. */
static void clear_rows(chalk_segment *g, uint64_t rows, uint32_t n, uint32_t width,
                       const shared_u64 *(*chunks_of)(const chalk_segment *, uint32_t)) {
  uint64_t piece = (uint64_t)segment_chunk_items(g) * width, row = (uint64_t)g->head->capacity * width;
  uint64_t end = rows + n * row, top = (uint64_t)series_top(g) * width;
  for (uint64_t from = rows, to; from < end && next_data(g, &from, end, &to);) {
    while (from < to) {
      uint64_t at = (from - rows) % row, next = from - at % piece + piece, keep = 0;
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
  header *h = g->head;
  clear_range(g, h->slots + h->guest_top * sizeof(slot), h->metrics);
  clear_range(g, h->metrics + h->metric_top * sizeof(metric), h->series);
  clear_range(g, h->series + h->metric_top * sizeof(series), h->series + METRICS * sizeof(series));
  clear_range(g, h->series + h->ids_top * sizeof(series), h->cells);
  clear_rows(g, h->cells, WRITERS, 8, chunks_of_writer);
  clear_rows(g, h->baselines, CURSORS, sizeof(baseline), chunks_of_cursor);
  clear_range(g, h->heap_top, g->size);
}

static void forget_owners(chalk_segment *g, bool rebooted) {
  header *h = g->head;
  for (uint32_t i = 1; i < h->guest_top; i++) atomic_store(&g->slots[i].taken, 0);
  atomic_store(&h->strangers, 0);
  atomic_store(&h->flusher.pid, 0);
  tap_recover(g, rebooted);
  atomic_store(&h->heartbeat, 0);
  atomic_store(&h->done, atomic_load(&h->requested));
  if (!rebooted) return;
  atomic_store(&h->flushed, 0);
  for (uint32_t i = 0; i < CURSORS; i++) g->cursors[i].used = 0;
  for (uint32_t id = METRICS; id < atomic_load(&h->ids_top); id++) g->series[id].seen_time = 0;
}

static int refuse(char *message) {
  process_say(message, "the file is a damaged segment of chalk");
  return CHALK_EINVALID;
}

int recover(chalk_segment *g, bool rebooted, char *message) {
  recovery r = {.g = g};
  if (!header_is_sound(g)) return refuse(message);
  if (make_all_real(g) != CHALK_OK) {
    process_say(message, "no memory for all of the segment");
    return CHALK_EMEMORY;
  }
  segment_locks_new(g);
  bool sound = metrics_are_sound(&r) && finish_passing(&r) && is_sound(&r);
  free(r.at);
  if (!sound) return refuse(message);
  clear_unused(g);
  forget_owners(g, rebooted);
  series_rebuild(g);
  series_recount(g);
  return keys_are_unique(g) ? CHALK_OK : refuse(message);
}
