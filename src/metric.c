#include "metric.h"

#include <math.h>
#include <string.h>

#include "gauge.h"
#include "heap.h"
#include "histogram.h"
#include "peek.h"
#include "process.h"
#include "series.h"
#include "slot.h"
#include "stored.h"
#include "text.h"

static uint32_t top_of(const chalk_segment *g) { return atomic_load(&g->head->metric_top); }
static uint32_t state_of(const chalk_segment *g, uint32_t number) {
  return atomic_load_explicit(&g->metrics[number].state, memory_order_acquire);
}

/* The generation of its overflow series moves when a metric leaves. */
static uint32_t generation_of(const chalk_segment *g, uint32_t number) {
  return atomic_load(&g->series[number].generation);
}

static bool bytes_are(const chalk_segment *g, uint64_t at, uint64_t size, const char *bytes, size_t n) {
  return size == n && memcmp(segment_at(g, at), bytes, n) == 0;
}

static bool is_named(const chalk_segment *g, uint32_t number, const chalk_definition *d, uint64_t hash) {
  const metric *m = &g->metrics[number];
  return state_of(g, number) != METRIC_FREE && m->hash == hash &&
         bytes_are(g, m->name, m->name_size, d->name, d->name_size);
}

/* Publishes `number` as the definition of its name; NONE only hides the others. */
static void make_newest(chalk_segment *g, uint32_t number, const chalk_definition *d, uint64_t hash) {
  for (uint32_t i = 0; i < top_of(g); i++) {
    if (i != number && is_named(g, i, d, hash)) atomic_store(&g->metrics[i].state, METRIC_SUPERSEDED);
  }
  metric *m = &g->metrics[number];
  atomic_store(&m->generation, atomic_load(&g->head->generation));
  atomic_store_explicit(&m->state, METRIC_LIVE, memory_order_release);
}

/* A free struct, made real; NONE when there is none. */
static uint32_t struct_take(chalk_segment *g) {
  enum { BATCH = 32 };
  header *h = g->head;
  uint32_t top = top_of(g);
  for (uint32_t i = 0; i < top; i++) {
    if (state_of(g, i) == METRIC_FREE) return i;
  }
  if (top == METRICS) return NONE;
  if (top >= atomic_load(&h->metrics_real)) {
    if (segment_make_real(g, h->metrics + top * sizeof(metric), BATCH * sizeof(metric), false) != CHALK_OK ||
        segment_make_real(g, h->series + top * sizeof(series), BATCH * sizeof(series), false) != CHALK_OK) {
      return NONE;
    }
    atomic_store(&h->metrics_real, top + BATCH);
  }
  return top;
}

static void give_blob(chalk_segment *g, uint64_t blob) {
  if (blob) heap_give(g, blob, 8 + *(uint64_t *)segment_at(g, blob));
}

/* Gives a field's block back; a death in between loses that one. */
static void give_field(chalk_segment *g, shared_u64 *field, uint64_t size) {
  uint64_t at = *field;
  *field = 0;
  atomic_signal_fence(memory_order_seq_cst);
  heap_give(g, at, size);
}

static void struct_free(chalk_segment *g, uint32_t number) {
  metric *m = &g->metrics[number];
  give_field(g, &m->name, m->name_size);
  give_field(g, &m->shape, m->shape_size);
  give_field(g, &m->le, m->les * sizeof(double));
  give_blob(g, atomic_exchange(&m->blob, 0));
}

static uint64_t copy(chalk_segment *g, const void *bytes, size_t size) {
  uint64_t at = heap_take(g, size);
  if (at && size) memcpy(segment_at(g, at), bytes, size);
  return at;
}

static uint64_t copy_blob(chalk_segment *g, const chalk_definition *d) {
  uint64_t at = heap_take(g, 8 + d->blob_size);
  if (!at) return 0;
  *(uint64_t *)segment_at(g, at) = d->blob_size;
  memcpy(segment_at(g, at + 8), d->blob, d->blob_size);
  return at;
}

static bool is_same(const chalk_segment *g, uint32_t number, const chalk_definition *d, uint64_t hash) {
  const metric *m = &g->metrics[number];
  return is_named(g, number, d, hash) && m->kind == d->kind && m->across == d->across && m->tags == d->tags &&
         m->les == d->les && bytes_are(g, m->shape, m->shape_size, d->shape, d->shape_size) &&
         (d->les == 0 || memcmp(segment_at(g, m->le), d->le, d->les * sizeof(double)) == 0);
}

/* Takes over what may change in a metric that stays. Without memory the old text stays. */
static void refresh(chalk_segment *g, uint32_t number, const chalk_definition *d) {
  metric *m = &g->metrics[number];
  bool more = m->max_series && (d->max_series == 0 || d->max_series > m->max_series);
  m->max_series = d->max_series;
  if (more) segment_epoch_move(g); /* handles that were folded look for their series again */
  const uint64_t *old = segment_at(g, atomic_load(&m->blob));
  if (*old == d->blob_size && memcmp(old + 1, d->blob, d->blob_size) == 0) return;
  uint64_t new = copy_blob(g, d);
  /* The old text is not reused: somebody may be reading it, and this happens once a changed reload. */
  if (new) atomic_store(&m->blob, new);
}

static int fill(chalk_segment *g, uint32_t number, const chalk_definition *d, uint64_t hash) {
  metric *m = &g->metrics[number];
  struct_free(g, number); /* somebody may have died at filling or freeing it */
  m->kind = d->kind;
  m->across = d->across;
  m->tags = d->tags;
  m->les = d->les;
  m->max_series = d->max_series;
  m->hash = hash;
  m->name_size = d->name_size, m->shape_size = d->shape_size;
  m->folded_told = 0;
  atomic_store(&m->folded, 0);
  atomic_store(&m->series, 0);
  m->name = copy(g, d->name, d->name_size);
  m->shape = copy(g, d->shape, d->shape_size);
  atomic_store(&m->blob, copy_blob(g, d));
  m->le = copy(g, d->le, d->les * sizeof(double));
  series *overflow = &g->series[number];
  overflow->metric = number;
  overflow->key = 0;
  overflow->key_size = 0;
  store_double(&overflow->gauge, 0);
  store_double(&overflow->mark, GAUGE_UNSET);
  atomic_fetch_add(&overflow->generation, 1);
  atomic_store(&overflow->state, SERIES_LIVE);
  if (m->name && m->shape && atomic_load(&m->blob) && m->le) return CHALK_OK;
  struct_free(g, number);
  return CHALK_EMEMORY;
}

static int check(const chalk_definition *d, char *message) {
  bool ok = d->kind >= CHALK_COUNT && d->kind <= CHALK_HISTOGRAM && d->across <= CHALK_MAX && d->tags <= CHALK_TAGS &&
            d->les <= CHALK_LES && d->name_size > 0;
  for (uint32_t i = 0; i < d->les; i++) ok = ok && isfinite(d->le[i]) && (i == 0 || d->le[i - 1] < d->le[i]);
  if (!ok) process_say(message, "not a valid definition: %.*s", (int)d->name_size, d->name);
  return ok ? CHALK_OK : CHALK_EINVALID;
}

int metric_define(chalk_segment *g, const chalk_definition *d, shared_u64 *uses, uint32_t *generation, char *message) {
  int e = check(d, message);
  if (e != CHALK_OK) return e;
  uint64_t hash = text_hash(d->name, d->name_size);
  segment_lock_take(&g->head->registry);
  uint32_t number = NONE;
  for (uint32_t i = 0; i < top_of(g) && number == NONE; i++) {
    if (is_same(g, i, d, hash)) number = i;
  }
  if (number != NONE) refresh(g, number, d);
  if (number == NONE) {
    number = struct_take(g);
    if (number == NONE || fill(g, number, d, hash) != CHALK_OK) {
      process_say(message, "no room for the definition of %.*s", (int)d->name_size, d->name);
      e = CHALK_EMEMORY;
    } else if (number == top_of(g)) {
      atomic_store_explicit(&g->head->metric_top, number + 1, memory_order_release);
    }
  }
  if (e == CHALK_OK) {
    make_newest(g, number, d, hash);
    *generation = generation_of(g, number);
    if (uses) atomic_fetch_or(&uses[number / 64], 1ull << (number % 64));
  }
  segment_lock_give(&g->head->registry);
  return e == CHALK_OK ? (int)number : e;
}

static bool names_same(const chalk_segment *g, const metric *m, const metric *n) {
  return n->hash == m->hash && bytes_are(g, n->name, n->name_size, segment_at(g, m->name), m->name_size);
}

/*
 * A superseded definition has a live one, but for a moment in which that is made. Who dies in that moment leaves none
 * until the name is defined again; then the first of them says of which kind the family is.
 */
static bool is_of_familys_kind(const chalk_segment *g, uint32_t number) {
  const metric *m = &g->metrics[number], *first = NULL;
  if (state_of(g, number) == METRIC_FREE) return false;
  for (uint32_t i = 0; i < top_of(g); i++) {
    const metric *n = &g->metrics[i];
    uint32_t state = state_of(g, i);
    if (state == METRIC_FREE || !names_same(g, m, n)) continue;
    if (state == METRIC_LIVE) return n->kind == m->kind;
    if (!first) first = n;
  }
  return !first || first->kind == m->kind;
}

/* The registry lock, because the names that are compared may go with their metrics. */
bool metric_is_shown(const chalk_segment *g, uint32_t number) {
  uint32_t state = state_of(g, number);
  if (state != METRIC_SUPERSEDED) return state == METRIC_LIVE;
  segment_lock_take(&g->head->registry);
  bool shown = is_of_familys_kind(g, number);
  segment_lock_give(&g->head->registry);
  return shown;
}

size_t chalk_metric_blob(chalk_segment *g, uint32_t number, char *out, size_t size) {
  if (number >= top_of(g)) return 0;
  uint32_t generation = generation_of(g, number);
  if (state_of(g, number) == METRIC_FREE) return 0;
  const uint64_t *at = segment_block(g, atomic_load(&g->metrics[number].blob), 2 * sizeof *at);
  uint64_t n = at ? peek_u64(at) : 0;
  if (n <= size && segment_block(g, (uint64_t)((const char *)at - g->base), 8 + n)) {
    for (uint64_t i = 0; i < n; i += 8) {
      uint64_t word = peek_u64(at + 1 + i / 8);
      memcpy(out + i, &word, n - i < 8 ? n - i : 8);
    }
  }
  return generation_of(g, number) == generation && state_of(g, number) != METRIC_FREE ? n : 0;
}

uint32_t chalk_metric_les(chalk_segment *g, uint32_t number, double *bounds) {
  if (number >= top_of(g)) return 0;
  uint32_t generation = generation_of(g, number);
  const metric *m = &g->metrics[number];
  uint32_t n = m->les;
  const double *le = segment_block(g, m->le, n * sizeof *le);
  if (state_of(g, number) == METRIC_FREE || n > CHALK_LES || !le) return 0;
  peek_bytes(bounds, le, n * sizeof *le);
  return generation_of(g, number) == generation ? n : 0;
}

uint32_t chalk_metric_top(chalk_segment *g) { return top_of(g); }
int chalk_metric_shown(chalk_segment *g, uint32_t number) { return number < top_of(g) && metric_is_shown(g, number); }

uint64_t chalk_metric_folded(chalk_segment *g, uint32_t number) {
  metric *m = &g->metrics[number];
  uint64_t now = atomic_load(&m->folded), told = m->folded_told;
  m->folded_told = now;
  return now - told;
}

/* Leaving */

/* Who shares slot 0 has a slot that says what it uses. Only of strangers nothing is known: where one was nothing leaves. */
static bool is_used(const chalk_segment *g, uint32_t number, lives *alive) {
  if (atomic_load(&g->head->strangers)) return true;
  for (uint32_t w = slot_after(g, 0); w != NONE; w = slot_after(g, w)) {
    bool uses = atomic_load(&g->slots[w].uses[number / 64]) >> (number % 64) & 1;
    if (uses && lives_on(alive, w)) return true;
  }
  return false;
}

static bool has_series(const chalk_segment *g, uint32_t number) {
  for (uint32_t id = METRICS; id < series_top(g); id++) {
    uint32_t state = atomic_load(&g->series[id].state);
    if ((state == SERIES_LIVE || state == SERIES_DROPPED) && g->series[id].metric == number) return true;
  }
  return false;
}

static void free_overflow(chalk_segment *g, uint32_t number) {
  const metric *m = &g->metrics[number];
  atomic_fetch_add(&g->series[number].generation, 1);
  for (uint32_t w = 0; w < atomic_load(&g->head->slot_top); w++) {
    if (!segment_chunk_real(g, g->slots[w].chunks, number)) continue;
    uint64_t bits = atomic_load(segment_cell(g, w, number));
    if (m->kind == CHALK_GAUGE && m->across != CHALK_LAST) gauge_free(g, w, number);
    if (bits && m->kind == CHALK_HISTOGRAM) histogram_empty(g, bits);
    atomic_store(segment_cell(g, w, number), 0);
    if (bits && m->kind == CHALK_HISTOGRAM) histogram_free_block(g, bits);
  }
  stored_forget_baselines(g, number, m->kind);
}

/* A metric leaves in two sweeps or more: first its series, then, once they are reclaimed, itself. */
static void leave(chalk_segment *g, uint32_t number, lives *alive) {
  if (is_used(g, number, alive)) return;
  series_drop_metric(g, number);
  if (has_series(g, number)) return;
  free_overflow(g, number); /* first: who takes the number must find nothing in the cells, whoever dies here */
  atomic_store(&g->metrics[number].state, METRIC_FREE);
  struct_free(g, number);
}

/* Left behind: superseded, or not taken up by the configuration that is in force now. */
static bool is_left_behind(const chalk_segment *g, uint32_t number) {
  uint32_t state = state_of(g, number);
  return state == METRIC_SUPERSEDED ||
         (state == METRIC_LIVE && atomic_load(&g->metrics[number].generation) < atomic_load(&g->head->generation));
}

/*
 * A newer definition that nobody has, such as that of a configuration that was refused, hides an older one that is in
 * use: that one is in force again.
 */
static void step_back(chalk_segment *g, uint32_t number, lives *alive) {
  if (state_of(g, number) != METRIC_SUPERSEDED || !is_used(g, number, alive)) return;
  for (uint32_t i = 0; i < top_of(g); i++) {
    metric *m = &g->metrics[i];
    if (state_of(g, i) != METRIC_LIVE || !names_same(g, m, &g->metrics[number])) continue;
    if (is_used(g, i, alive)) return;
    atomic_store(&m->state, METRIC_SUPERSEDED);
  }
  atomic_store(&g->metrics[number].generation, atomic_load(&g->head->generation));
  atomic_store_explicit(&g->metrics[number].state, METRIC_LIVE, memory_order_release);
}

void metric_sweep(chalk_segment *g, lives *alive) {
  for (uint32_t i = top_of(g); i-- > 0;) {
    if (!is_left_behind(g, i)) continue;
    segment_lock_take(&g->head->registry);
    step_back(g, i, alive);
    if (is_left_behind(g, i)) leave(g, i, alive);
    segment_lock_give(&g->head->registry);
  }
}
