#include "series/slot.h"

#include <time.h>

#include "series/cells.h"
#include "series/number.h"
#include "shm/life.h"
#include "shm/process.h"
#include "value/kind.h"

enum { LOOK_INTERVAL = 1000 }; /* milliseconds between two searches for dead owners */

/* Taking */

/* Resets the gauges in a slot's row, because the values are the last owner's and not the new one's. */
static void forget_gauges(chalk_segment *g, uint32_t number) {
  bool any = false;
  for (uint32_t m = 0; m < segment_metrics(g); m++) any = any || g->metrics[m].across != CHALK_LAST;
  if (!any) return;
  for (uint32_t id = 0; id < series_top(g); id++) {
    if (id == segment_metrics(g)) id = METRICS;
    if (id >= series_top(g)) break;
    const metric *m = segment_metric_of(g, id);
    if (!kind_is_split(m)) continue;
    if (!segment_chunk_real(g, g->slots[number].chunks, id)) continue;
    shared_u64 *block = segment_block(g, atomic_load(segment_cell(g, number, id)), 2 * sizeof *block);
    if (!block) continue;
    store_double(&block[1], GAUGE_UNSET);
    store_double(&block[0], GAUGE_FRESH);
  }
}

/* A slot from `first` on that was given back; with `thorough` also one whose owner is dead. 0: there is none. */
static uint32_t find_used(chalk_segment *g, uint32_t first, uint32_t top, bool thorough) {
  for (uint32_t i = first; i < top; i++) {
    if (!atomic_load(&g->slots[i].taken)) return i;
  }
  for (uint32_t i = first; i < top && thorough; i++) {
    if (life_is_over(g, &g->slots[i].owner)) return i;
  }
  return 0;
}

/*
 * Makes this process the owner of a slot. The slot is free until all is stored. Otherwise there would be a moment with
 * the new owner in the turn of the old one, in which the old one's gauges would count again.
 */
static void occupy(chalk_segment *g, uint32_t number, const uint64_t *uses, uint64_t seen) {
  slot *slot = &g->slots[number];
  atomic_store(&slot->taken, 0);
  atomic_store(&slot->seen, seen);
  for (uint32_t i = 0; i < METRICS / 64; i++) atomic_store(&slot->uses[i], uses[i]);
  process_own(&slot->owner);
  atomic_store(&slot->owner.life, life_take(g));
  atomic_fetch_add(&slot->turn, 1);
  atomic_store_explicit(&slot->taken, 1, memory_order_release);
}

uint32_t slot_take(chalk_segment *g, const uint64_t *uses, bool thorough) {
  uint32_t top = segment_slots(g), number = find_used(g, 1, top, thorough);
  if (!number && top < WRITERS) number = top;
  if (!number || !cells_make(g, number, 0)) return 0;
  forget_gauges(g, number);
  occupy(g, number, uses, (uint64_t)segment_epoch(g));
  if (number == top) atomic_store(&g->head->slot_top, number + 1);
  return number;
}

/* Makes the struct of a guest slot real. */
static bool make_guest_real(chalk_segment *g, uint32_t number) {
  enum { BATCH = 32 }; /* whole pages */
  header *head = g->head;
  if (number < atomic_load(&head->slots_real)) return true;
  if (segment_make_real(g, segment_offset(g, &g->slots[number]), BATCH * sizeof(slot), true) != CHALK_OK) return false;
  atomic_store(&head->slots_real, number + BATCH);
  return true;
}

uint32_t slot_take_guest(chalk_segment *g, const uint64_t *uses) {
  header *head = g->head;
  cells_make(g, 0, 0);
  uint32_t top = segment_guests(g), number = find_used(g, WRITERS, top, false);
  if (!number && top < OWNERS && make_guest_real(g, top)) number = top;
  if (!number) number = find_used(g, WRITERS, top, true);
  if (!number) {
    atomic_store(&head->strangers, 1);
    return 0;
  }
  occupy(g, number, uses, SLOT_SEES_ALL);
  if (number == top) atomic_store(&head->guest_top, number + 1);
  return number;
}

/* Giving back */

void slot_give(chalk_segment *g, uint32_t number) {
  slot *slot = &g->slots[number];
  for (uint32_t i = 0; i < METRICS / 64; i++) atomic_store(&slot->uses[i], 0);
  atomic_store_explicit(&slot->taken, 0, memory_order_release);
  if (number < WRITERS) atomic_fetch_add(&g->head->vacancies, 1);
}

static bool is_orphaned(const chalk_segment *g, uint32_t number) {
  return atomic_load(&g->slots[number].taken) && life_is_over(g, &g->slots[number].owner);
}

/* The kernel, which takes its time, is asked without the lock first, and again under the lock if the owner is dead. */
static void free_if_dead(chalk_segment *g, uint32_t number) {
  if (!is_orphaned(g, number)) return;
  if (!segment_lock_reach_any(&g->head->registry)) return;
  if (is_orphaned(g, number)) slot_give(g, number);
  segment_lock_give(&g->head->registry);
}

/*
 * Whether a slot with a row is free. It is asked because a process that died right after it gave a slot back did not
 * move `vacancies`.
 */
static bool has_vacancy(chalk_segment *g) {
  uint32_t top = segment_slots(g);
  return top < WRITERS || find_used(g, 1, top, false) != 0;
}

/* Frees the slots of dead owners, and moves `vacancies` if a slot with a row is free. */
static void free_all_dead(chalk_segment *g) {
  for (uint32_t i = slot_after(g, 0); i != NONE; i = slot_after(g, i)) free_if_dead(g, i);
  if (has_vacancy(g)) atomic_fetch_add(&g->head->vacancies, 1);
}

/*
 * Whether the last search was long enough ago. Then it counts as this caller's search, which no other caller repeats.
 */
static bool is_due(header *head) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
  uint32_t now = (uint32_t)((uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000),
           then = atomic_load(&head->looked);
  return now - then >= LOOK_INTERVAL && atomic_compare_exchange_strong(&head->looked, &then, now);
}

bool slot_may_be_free(chalk_segment *g, uint32_t *vacancies) {
  header *head = g->head;
  if (is_due(head)) free_all_dead(g);
  uint32_t now = atomic_load(&head->vacancies), then = *vacancies;
  *vacancies = now;
  return now != then;
}
