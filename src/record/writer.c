#include "record/writer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "series/cells.h"
#include "series/gauge.h"
#include "series/key.h"
#include "series/metric.h"
#include "series/slot.h"
#include "shm/process.h"

enum { RETIRED = 256 }; /* closed writers of named segments that are kept; of more, the oldest is used again */

enum { FORKED = -1 }; /* as a writer's pid: it has to take a slot, even if the last owner had this process's id */

/* All are lists of this process, under the process lock. */
static chalk_writer *writers;                            /* open */
static chalk_writer *kept;                               /* closed, of private segments */
static chalk_writer *retired, **retired_last = &retired; /* closed, of named segments, the oldest first */
static int n_retired;

/* Slots */

static void in_child(void) {
  for (chalk_writer *w = writers; w; w = w->next) w->own = NAN, w->pid = FORKED, w->slot = w->guest = 0;
}

/*
 * `own` becomes a multiple of 2^33, which is beyond any epoch. So the sum of both is another one after each call, and
 * stays a whole number below 2^53.
 */
void writer_unbind(chalk_writer *w) {
  w->unbinds = (w->unbinds + 1) % (1u << 20);
  w->own = (double)w->unbinds * 8589934592.0;
}

void writers_unbind(void) {
  process_lock();
  for (chalk_writer *w = writers; w; w = w->next) {
    if (w->pid == (uint32_t)getpid()) writer_unbind(w);
  }
  process_unlock();
}

static bool has_process(const chalk_writer *w) { return w->pid != 0 && w->pid != (uint32_t)FORKED; }

/*
 * Takes a slot with a row. A VM that shared slot 0 until then keeps its guest slot, because its gauges stay in the row
 * of slot 0. The new slot says which metrics it uses.
 */
static uint32_t take_row(chalk_writer *w, bool thorough) {
  chalk_segment *g = w->segment;
  uint32_t number = slot_take(g, w->uses, thorough);
  if (!number || !w->guest) return number;
  slot *guest = &g->slots[w->guest];
  atomic_store(&guest->seen, (uint64_t)segment_epoch(g));
  for (uint32_t i = 0; i < METRICS / 64; i++) atomic_store(&guest->uses[i], 0);
  return number;
}

void writer_take_slot(chalk_writer *w) {
  chalk_segment *g = w->segment;
  bool is_new = !has_process(w);
  if (!is_new && (w->slot != 0 || !slot_may_be_free(g, &w->vacancies))) return;
  if (is_new) w->slot = w->guest = 0;
  uint32_t number = 0;
  if (segment_lock_reach_any(&g->head->registry)) {
    number = take_row(w, is_new);
    if (is_new) w->vacancies = atomic_load(&g->head->vacancies);
    if (is_new && !number) w->guest = slot_take_guest(g, w->uses);
    segment_lock_give(&g->head->registry);
  } else if (is_new) {
    atomic_store(&g->head->strangers, 1);
  }
  if (!is_new && !number) return;
  w->slot = number;
  w->whose = w->guest ? gauge_owner(g, w->guest) : GAUGE_STRANGER;
  w->ring = NULL;
  w->pid = (uint32_t)getpid();
  writer_unbind(w);
}

/* The slot that says which metrics the VM uses; NULL: none does. */
static slot *slot_of(const chalk_writer *w) {
  uint32_t number = w->slot ? w->slot : w->guest;
  return number ? &w->segment->slots[number] : NULL;
}

/*
 * Closes a writer's struct. A series handle may outlive its writer, because finalizers that run while a VM closes still
 * record. So the struct stays and says that it is closed. One of a named segment is used again after RETIRED others
 * were closed.
 */
static void retire(chalk_writer *w) {
  w->own = NAN;
  w->pid = 0;
  free(w->scratch);
  free(w->uses);
  free(w->made);
  free(w->generations);
  free(w->tags);
  for (uint32_t m = 0; m < METRICS; m++) {
    if (w->plans[m]) free(w->plans[m]); /* most are NULL, and a VM may live for one request */
  }
  free(w->plans);
  w->plans = NULL;
  w->scratch = NULL;
  w->uses = w->made = NULL;
  w->generations = NULL;
  w->tags = NULL;
  process_lock();
  if (w->segment->name) {
    w->next = NULL;
    *retired_last = w;
    retired_last = &w->next;
    n_retired++;
  } else {
    w->next = kept;
    kept = w;
  }
  process_unlock();
}

/* A struct for a new writer: a closed one, or else a new one. */
static chalk_writer *unretire(void) {
  process_lock();
  chalk_writer *w = n_retired > RETIRED ? retired : NULL;
  if (w) retired = w->next, n_retired--;
  process_unlock();
  return w ? w : calloc(1, sizeof *w);
}

chalk_writer *chalk_writer_open(chalk_segment *g, char *message) {
  process_at_fork(in_child);
  chalk_writer *w = unretire();
  if (w) {
    w->scratch = malloc(offsetof(chalk_series, key) + KEY_MOST);
    w->uses = calloc(METRICS / 64, sizeof *w->uses);
    w->made = calloc(METRICS / 64, sizeof *w->made);
    w->generations = calloc(METRICS, sizeof *w->generations);
    w->tags = calloc(METRICS, sizeof *w->tags);
    w->plans = calloc(METRICS, sizeof *w->plans);
  }
  if (!w || !w->scratch || !w->uses || !w->made || !w->generations || !w->tags || !w->plans) {
    process_say(message, "out of memory");
    return NULL;
  }
  w->segment = g;
  w->forks = process_forks();
  writer_take_slot(w);
  process_lock();
  w->next = writers;
  writers = w;
  process_unlock();
  return w;
}

static bool has_made(const chalk_writer *w, uint32_t number) { return w->made[number / 64] >> (number % 64) & 1; }

/*
 * Takes back what a refused configuration has defined, which would otherwise fill the table of metrics. A configuration
 * was refused if a server's first process closes the VM that read it before it has forked any child.
 */
static void take_back_refused(chalk_writer *w) {
  if (!process_hands_on || w->forks != process_forks()) return;
  for (uint32_t m = 0; m < METRICS; m++) {
    if (has_made(w, m)) metric_take_back(w->segment, m);
  }
}

void chalk_writer_close(chalk_writer *w) {
  process_lock();
  for (chalk_writer **p = &writers; *p; p = &(*p)->next) {
    if (*p == w) {
      *p = w->next;
      break;
    }
  }
  process_unlock();
  chalk_segment *g = w->segment;
  if (w->pid == (uint32_t)getpid() && segment_lock_reach_any(&g->head->registry)) {
    if (w->slot) slot_give(g, w->slot);
    if (w->guest) slot_give(g, w->guest);
    segment_lock_give(&g->head->registry);
    take_back_refused(w);
  }
  retire(w);
}

void chalk_writer_tick(chalk_writer *w) {
  if (w->pid != (uint32_t)getpid()) return;
  writer_take_slot(w);
  writer_note_seen(w, (uint64_t)segment_epoch(w->segment));
}

uint32_t chalk_writer_slot(const chalk_writer *w) { return w->slot; }
chalk_series *chalk_scratch(chalk_writer *w) { return w->scratch; }

/* Notes that the writer uses a metric. */
static int take_up(chalk_writer *w, int number, uint32_t generation, uint32_t tags) {
  w->uses[number / 64] |= 1ull << (number % 64);
  w->generations[number] = generation;
  w->tags[number] = (uint8_t)tags;
  /*
   * Makes the cells of the overflow series real now, so that records are folded when there is no memory: those of this
   * slot, and those of VMs that share slot 0.
   */
  cells_make(w->segment, w->slot, (uint32_t)number);
  cells_make(w->segment, 0, (uint32_t)number);
  return number;
}

/* The bits of the writer's slot that say which metrics it uses; NULL: it has no slot. */
static shared_u64 *uses_of(chalk_writer *w) {
  slot *slot = slot_of(w);
  return slot ? slot->uses : NULL;
}

static int closing(char *message) {
  process_say(message, "the VM is closing");
  return CHALK_ECLOSED;
}

int chalk_define(chalk_writer *w, const chalk_definition *d, char *message) {
  if (w->pid == 0) return closing(message);
  writer_take_slot(w);
  uint32_t generation;
  bool made;
  int number = metric_define(w->segment, d, uses_of(w), &generation, &made, message);
  if (number < 0) return number;
  if (made) w->made[number / 64] |= 1ull << (number % 64);
  return take_up(w, number, generation, d->tags);
}

int chalk_find(chalk_writer *w, const char *name, char *message) {
  if (w->pid == 0) return closing(message);
  writer_take_slot(w);
  uint32_t generation, tags;
  int number = metric_find(w->segment, name, uses_of(w), &generation, &tags);
  if (number >= 0) return take_up(w, number, generation, tags);
  process_say(message, "no metric is named %s", name);
  return number;
}

void chalk_undefine(chalk_writer *w, uint32_t number) {
  if (number >= METRICS || w->pid == 0) return;
  w->uses[number / 64] &= ~(1ull << (number % 64));
  writer_unbind(w); /* a bound handle would still use the plan */
  free(w->plans[number]);
  w->plans[number] = NULL;
  slot *slot = slot_of(w);
  if (slot) atomic_fetch_and(&slot->uses[number / 64], ~(1ull << (number % 64)));
}

void chalk_take_back(chalk_writer *w, uint32_t number) {
  chalk_undefine(w, number);
  if (number >= METRICS || w->pid == 0 || !has_made(w, number)) return;
  w->made[number / 64] &= ~(1ull << (number % 64));
  metric_take_back(w->segment, number);
}
