#include "series/metric.h"

#include <math.h>
#include <string.h>

#include "base/peek.h"
#include "base/text.h"
#include "series/cells.h"
#include "series/plain.h"
#include "series/series.h"
#include "series/slot.h"
#include "shm/heap.h"
#include "shm/process.h"
#include "value/kind.h"
#include "value/stored.h"

static uint32_t top_of(const chalk_segment *g) { return segment_metrics(g); }
static uint32_t state_of(const chalk_segment *g, uint32_t number) {
  return atomic_load_explicit(&g->metrics[number].state, memory_order_acquire);
}

/* The generation of a metric's overflow series. */
static uint32_t generation_of(const chalk_segment *g, uint32_t number) {
  return atomic_load(&g->series[number].generation);
}

static bool bytes_are(const chalk_segment *g, uint64_t offset, uint64_t size, const void *bytes, size_t n) {
  if (size != n || n == 0) return size == n;
  const void *at = segment_block(g, offset, n);
  return at && memcmp(at, bytes, n) == 0;
}

static bool is_named(const chalk_segment *g, uint32_t number, const chalk_definition *d, uint64_t hash) {
  const metric *m = &g->metrics[number];
  return state_of(g, number) != METRIC_FREE && m->hash == hash &&
         bytes_are(g, m->name, m->name_size, d->name, d->name_size);
}

/* Makes `number` the live definition of its name; the others are superseded before. */
static void make_newest(chalk_segment *g, uint32_t number, const chalk_definition *d, uint64_t hash) {
  for (uint32_t i = 0; i < top_of(g); i++) {
    if (i != number && is_named(g, i, d, hash)) atomic_store(&g->metrics[i].state, METRIC_SUPERSEDED);
  }
  metric *m = &g->metrics[number];
  atomic_store(&m->generation, atomic_load(&g->head->generation));
  atomic_store_explicit(&m->state, METRIC_LIVE, memory_order_release);
}

/* The number of a free struct, which is real. NONE: all are in use, or there is no memory. */
static uint32_t struct_take(chalk_segment *g) {
  enum { BATCH = 32 };
  header *head = g->head;
  uint32_t top = top_of(g);
  for (uint32_t i = 0; i < top; i++) {
    if (state_of(g, i) == METRIC_FREE) return i;
  }
  if (top == METRICS) return NONE;
  if (top >= atomic_load(&head->metrics_real)) {
    uint64_t metrics = segment_offset(g, &g->metrics[top]), overflows = segment_offset(g, &g->series[top]);
    if (segment_make_real(g, metrics, BATCH * sizeof(metric), false) != CHALK_OK ||
        segment_make_real(g, overflows, BATCH * sizeof(series), false) != CHALK_OK) {
      return NONE;
    }
    atomic_store(&head->metrics_real, top + BATCH);
  }
  return top;
}

/* The size that stands before a blob's bytes; UINT64_MAX: there is no blob. */
static uint64_t blob_size(const chalk_segment *g, uint64_t blob) {
  const uint64_t *at = segment_block(g, blob, sizeof *at);
  uint64_t size = at ? peek_u64(at) : 0;
  return at && size <= g->size - sizeof *at && segment_block(g, blob, sizeof *at + size) ? size : UINT64_MAX;
}

static void give_blob(chalk_segment *g, uint64_t blob) {
  uint64_t size = blob_size(g, blob);
  if (size != UINT64_MAX) heap_give(g, blob, 8 + size);
}

/* Frees a field's block. The field becomes 0 first, so a death in between loses the block and frees nothing twice. */
static void give_field(chalk_segment *g, shared_u64 *field, uint64_t size) {
  uint64_t at = *field;
  *field = 0;
  atomic_signal_fence(memory_order_seq_cst);
  heap_give(g, at, size);
}

/* Frees all blocks of a definition. */
static void struct_free(chalk_segment *g, uint32_t number) {
  metric *m = &g->metrics[number];
  give_field(g, &m->name, m->name_size);
  give_field(g, &m->shape, m->shape_size);
  give_field(g, &m->le, m->les * sizeof(double));
  give_blob(g, atomic_exchange(&m->blob, 0));
}

static uint64_t copy_bytes(chalk_segment *g, const void *bytes, size_t size) {
  uint64_t at = heap_take(g, size);
  if (at && size) memcpy(segment_at(g, at), bytes, size);
  return at;
}

/* Copies the text of a definition to the heap, or writes the text of a plain one. Returns its offset; 0: no memory. */
static uint64_t copy_blob(chalk_segment *g, const chalk_definition *d) {
  size_t size = d->blob ? d->blob_size : plain_write(d, NULL);
  uint64_t at = heap_take(g, 8 + size);
  if (!at) return 0;
  *(uint64_t *)segment_at(g, at) = size;
  if (d->blob) {
    memcpy(segment_at(g, at + 8), d->blob, size);
  } else {
    plain_write(d, segment_at(g, at + 8));
  }
  return at;
}

static bool is_same(const chalk_segment *g, uint32_t number, const chalk_definition *d, uint64_t hash) {
  const metric *m = &g->metrics[number];
  return is_named(g, number, d, hash) && m->kind == d->kind && m->across == d->across && m->tags == d->tags &&
         m->les == d->les && bytes_are(g, m->shape, m->shape_size, d->shape, d->shape_size) &&
         (d->les == 0 || bytes_are(g, m->le, d->les * sizeof(double), d->le, d->les * sizeof(double)));
}

/*
 * Takes over what may differ in a definition that is the same otherwise: the limit of series and the text. The old text
 * stays if there is no memory for the new one, or if the new definition is a plain one.
 */
static void refresh(chalk_segment *g, uint32_t number, const chalk_definition *d) {
  metric *m = &g->metrics[number];
  if (!d->blob) return;
  bool more = m->max_series && (d->max_series == 0 || d->max_series > m->max_series);
  m->max_series = d->max_series;
  if (more) segment_epoch_move(g); /* handles that were folded look for their series again */
  uint64_t old = atomic_load(&m->blob);
  if (bytes_are(g, old + 8, blob_size(g, old), d->blob, d->blob_size)) return;
  uint64_t new = copy_blob(g, d);
  /* The old text is not freed, because a reader may be in it. One text is lost for each reload that changes it. */
  if (new) atomic_store(&m->blob, new);
}

/* Writes a definition and its overflow series into a free struct. CHALK_EMEMORY: the struct stays free. */
static int fill(chalk_segment *g, uint32_t number, const chalk_definition *d, uint64_t hash) {
  metric *m = &g->metrics[number];
  struct_free(g, number); /* a process may have died while it filled or freed the struct */
  m->kind = d->kind;
  m->across = d->across;
  m->tags = d->tags;
  m->les = d->les;
  m->max_series = d->max_series;
  m->hash = hash;
  m->name_size = d->name_size, m->shape_size = d->shape_size;
  atomic_store_explicit(&m->folded_reported, 0, memory_order_relaxed);
  atomic_store_explicit(&m->folded, 0, memory_order_relaxed);
  atomic_store(&m->series, 0);
  m->name = copy_bytes(g, d->name, d->name_size);
  m->shape = copy_bytes(g, d->shape, d->shape_size);
  atomic_store(&m->blob, copy_blob(g, d));
  m->le = copy_bytes(g, d->le, d->les * sizeof(double));
  series *overflow = &g->series[number];
  overflow->metric = number;
  overflow->key = 0;
  overflow->key_size = 0;
  store_double(&overflow->gauge, GAUGE_FRESH);
  store_double(&overflow->mark, GAUGE_UNSET);
  atomic_fetch_add(&overflow->generation, 1);
  atomic_store(&overflow->state, SERIES_LIVE);
  if (m->name && m->shape && atomic_load(&m->blob) && m->le) return CHALK_OK;
  struct_free(g, number);
  return CHALK_EMEMORY;
}

static int check(const chalk_definition *d, char *message) {
  bool ok = kind_is_known(d->kind) && d->across <= CHALK_MAX && d->tags <= CHALK_TAGS && d->les <= CHALK_LES &&
            d->name_size > 0;
  for (uint32_t i = 0; i < d->les; i++) ok = ok && isfinite(d->le[i]) && (i == 0 || d->le[i - 1] < d->le[i]);
  if (!ok) {
    process_say(message, "not a valid definition: %.*s: expected a kind, a name, at most %d tags, %d increasing bounds",
                (int)d->name_size, d->name, CHALK_TAGS, CHALK_LES);
  }
  if (ok && !d->blob) return plain_check(d, message);
  return ok ? CHALK_OK : CHALK_EINVALID;
}

/* The live definition of a name; NONE: there is none. */
static uint32_t find_live(const chalk_segment *g, const chalk_definition *d, uint64_t hash) {
  for (uint32_t i = 0; i < top_of(g); i++) {
    if (state_of(g, i) == METRIC_LIVE && is_named(g, i, d, hash)) return i;
  }
  return NONE;
}

static bool is_used(const chalk_segment *g, uint32_t number, lives *alive);

static bool is_used_now(const chalk_segment *g, uint32_t number) {
  lives alive;
  lives_begin(&alive, g);
  return is_used(g, number, &alive);
}

/* Whether a plain definition would supersede one with a text that a live VM uses. */
static bool is_taken(const chalk_segment *g, const chalk_definition *d, uint64_t hash) {
  uint32_t number = d->blob ? NONE : find_live(g, d, hash);
  if (number == NONE || !is_used_now(g, number)) return false;
  uint64_t blob = atomic_load(&g->metrics[number].blob), size = blob_size(g, blob);
  return size > 0 && size != UINT64_MAX && *(const char *)segment_at(g, blob + sizeof size) != '=';
}

static void note_use(const chalk_segment *g, uint32_t number, shared_u64 *uses, uint32_t *generation) {
  *generation = generation_of(g, number);
  if (uses) atomic_fetch_or(&uses[number / 64], 1ull << (number % 64));
}

int metric_find(chalk_segment *g, const char *name, shared_u64 *uses, uint32_t *generation, uint32_t *tags) {
  chalk_definition d = {.name = name, .name_size = strlen(name)};
  if (!segment_lock_reach_any(&g->head->registry)) return CHALK_EGONE;
  uint32_t number = find_live(g, &d, text_hash(d.name, d.name_size));
  *tags = number == NONE ? 0 : g->metrics[number].tags;
  if (*tags > CHALK_TAGS) number = NONE;
  if (number != NONE) note_use(g, number, uses, generation);
  segment_lock_give(&g->head->registry);
  return number == NONE ? CHALK_EGONE : (int)number;
}

/* The definition that differs from this one in its text and its limit of series at most; NONE: there is none. */
static uint32_t same_as(const chalk_segment *g, const chalk_definition *d, uint64_t hash) {
  for (uint32_t i = 0; i < top_of(g); i++) {
    if (is_same(g, i, d, hash)) return i;
  }
  return NONE;
}

/* Writes a definition into a free struct, whose number is *number. */
static int make(chalk_segment *g, const chalk_definition *d, uint64_t hash, uint32_t *number, char *message) {
  if (is_taken(g, d, hash)) {
    process_say(message, "%.*s: another host has defined it differently: record into that one, found by chalk_find",
                (int)d->name_size, d->name);
    return CHALK_EINVALID;
  }
  *number = struct_take(g);
  if (*number == NONE || fill(g, *number, d, hash) != CHALK_OK) {
    process_say(message, "no room for the definition of %.*s", (int)d->name_size, d->name);
    return CHALK_EMEMORY;
  }
  if (*number == top_of(g)) atomic_store_explicit(&g->head->metric_top, *number + 1, memory_order_release);
  return CHALK_OK;
}

int metric_define(chalk_segment *g, const chalk_definition *d, shared_u64 *uses, uint32_t *generation, bool *made,
                  char *message) {
  int rc = check(d, message);
  if (rc != CHALK_OK) return rc;
  if (!segment_lock_reach_any(&g->head->registry)) {
    process_say(message, "cannot define %.*s: another process holds the definitions' lock and does not release it",
                (int)d->name_size, d->name);
    return CHALK_EMEMORY;
  }
  uint64_t hash = text_hash(d->name, d->name_size);
  uint32_t number = same_as(g, d, hash);
  *made = number == NONE;
  if (*made) {
    rc = make(g, d, hash, &number, message);
  } else {
    refresh(g, number, d);
  }
  if (rc == CHALK_OK) {
    make_newest(g, number, d, hash);
    note_use(g, number, uses, generation);
  }
  segment_lock_give(&g->head->registry);
  return rc == CHALK_OK ? (int)number : rc;
}

static bool names_same(const chalk_segment *g, const metric *m, const metric *other) {
  uint64_t size = m->name_size;
  const void *name = segment_block(g, m->name, size);
  return name && other->hash == m->hash && bytes_are(g, other->name, other->name_size, name, size);
}

/*
 * Whether a metric has the kind that the metrics of its name are shown with. That is the kind of the live definition. A
 * process that died while it made one leaves none until the name is defined again; then the first superseded definition
 * decides.
 */
static bool is_of_familys_kind(const chalk_segment *g, uint32_t number) {
  const metric *m = &g->metrics[number], *first = NULL;
  if (state_of(g, number) == METRIC_FREE) return false;
  for (uint32_t i = 0; i < top_of(g); i++) {
    const metric *other = &g->metrics[i];
    uint32_t state = state_of(g, i);
    if (state == METRIC_FREE || !names_same(g, m, other)) continue;
    if (state == METRIC_LIVE) return other->kind == m->kind;
    if (!first) first = other;
  }
  return !first || first->kind == m->kind;
}

/* It takes the registry lock, because a metric that leaves takes the name that is compared with it. */
bool metric_is_shown(const chalk_segment *g, uint32_t number) {
  uint32_t state = state_of(g, number);
  if (state != METRIC_SUPERSEDED) return state == METRIC_LIVE;
  if (!segment_lock_reach_any(&g->head->registry)) return false;
  bool shown = is_of_familys_kind(g, number);
  segment_lock_give(&g->head->registry);
  return shown;
}

size_t chalk_metric_blob(chalk_segment *g, uint32_t number, char *out, size_t size) {
  if (number >= top_of(g)) return 0;
  uint32_t generation = generation_of(g, number);
  if (state_of(g, number) == METRIC_FREE) return 0;
  uint64_t blob = atomic_load(&g->metrics[number].blob), n = blob_size(g, blob);
  if (n == UINT64_MAX || n > g->size - 16 || !segment_block(g, blob, 8 + (n + 7) / 8 * 8)) return 0;
  if (n <= size) {
    const uint64_t *at = segment_at(g, blob);
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
  if (number >= top_of(g)) return 0;
  metric *m = &g->metrics[number];
  uint64_t now = atomic_load_explicit(&m->folded, memory_order_relaxed);
  return now - atomic_exchange_explicit(&m->folded_reported, now, memory_order_relaxed);
}

/* Leaving */

/*
 * Whether a live VM uses the metric. VMs that share slot 0 have guest slots, which say what they use. A VM without one
 * is a stranger, whose metrics are not known. So once there was one, every metric counts as used.
 */
static bool is_used(const chalk_segment *g, uint32_t number, lives *alive) {
  if (atomic_load(&g->head->strangers)) return true;
  for (uint32_t i = slot_after(g, 0); i != NONE; i = slot_after(g, i)) {
    bool uses = atomic_load(&g->slots[i].uses[number / 64]) >> (number % 64) & 1;
    if (uses && lives_on(alive, i)) return true;
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
  atomic_fetch_add(&g->series[number].generation, 1);
  cells_free(g, number);
  stored_forget_baselines(g, number, g->metrics[number].kind);
}

/*
 * Frees a metric that no VM uses, in two sweeps or more: the first drops its series, and one after they were reclaimed
 * frees the metric.
 */
static void leave(chalk_segment *g, uint32_t number, lives *alive) {
  if (is_used(g, number, alive)) return;
  series_drop_metric(g, number);
  if (has_series(g, number)) return;
  /*
   * The overflow series before the state, so that the next metric of the number finds empty cells, also after a death.
   */
  free_overflow(g, number);
  atomic_store(&g->metrics[number].state, METRIC_FREE);
  struct_free(g, number);
}

/*
 * A metric to which nothing was bound is in no snapshot and has no cells, so any process may free it, and its number
 * can be used at once. Any other metric gets a generation below all others, so that it is left behind and the holder
 * frees it.
 */
void metric_take_back(chalk_segment *g, uint32_t number) {
  if (!segment_lock_reach_any(&g->head->registry)) return;
  metric *m = &g->metrics[number];
  if (state_of(g, number) == METRIC_FREE || is_used_now(g, number)) {
    segment_lock_give(&g->head->registry);
    return;
  }
  if (cells_bound(g, number) || has_series(g, number)) {
    atomic_store(&m->generation, 0);
  } else {
    atomic_fetch_add(&g->series[number].generation, 1);
    atomic_store(&m->state, METRIC_FREE);
    struct_free(g, number);
  }
  segment_lock_give(&g->head->registry);
}

/* Whether a metric is left behind: superseded, or not defined by the present configuration. */
static bool is_left_behind(const chalk_segment *g, uint32_t number) {
  uint32_t state = state_of(g, number);
  return state == METRIC_SUPERSEDED ||
         (state == METRIC_LIVE && atomic_load(&g->metrics[number].generation) < atomic_load(&g->head->generation));
}

/*
 * Makes a superseded definition that is in use live again, if no VM uses the one that superseded it. That happens when
 * a configuration was refused after it had defined its metrics.
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
