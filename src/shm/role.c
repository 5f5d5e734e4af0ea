#include "shm/role.h"

#include <unistd.h>

#include "shm/process.h"

/*
 * Milliseconds for which a claim is valid. An older configuration leaves the role to a newer one, but only while a
 * process of the newer one is alive and asks for it, which it does several times in this period.
 */
enum { CLAIM = 500 };

#define STALLED 0.5 /* seconds without a heartbeat after which a stopped holder loses the role */

static uint32_t milliseconds(void) { return (uint32_t)(uint64_t)(chalk_now() * 1e3); }

static bool is_claimed(const header *h, uint32_t generation) {
  uint64_t claim = atomic_load(&h->claim);
  return (uint32_t)(claim >> 32) > generation && milliseconds() - (uint32_t)claim < CLAIM;
}

static bool had_role(const chalk_segment *g) { return atomic_load(&g->sitter) == (uint32_t)getpid(); }

bool role_is_lost(const chalk_segment *g) {
  return had_role(g) && atomic_load(&g->seat) != atomic_load(&g->head->seat);
}

static segment_lock *lock_of(chalk_segment *g, uint32_t seat) { return &g->head->seats[seat % SEATS]; }

/* Takes the seat in force. False: another process has it. */
static bool take_seat(chalk_segment *g, uint32_t seat, bool *orphaned) {
  if (!segment_lock_try(lock_of(g, seat), orphaned)) return false;
  if (atomic_load(&g->head->seat) == seat) return true;
  segment_lock_give(lock_of(g, seat));
  return false;
}

/* Takes the next seat, if the holder is stopped and not in the middle of a change. */
static bool take_next_seat(chalk_segment *g, uint32_t *seat) {
  header *h = g->head;
  bool orphaned, taken = false;
  if (chalk_now() - load_double(&h->heartbeat) < STALLED || !process_is_stopped(&h->flusher)) return false;
  if (!segment_lock_try(&h->acting, &orphaned)) return false;
  uint32_t next = *seat + 1;
  if (atomic_load(&h->seat) == *seat && segment_lock_try(lock_of(g, next), &orphaned)) {
    atomic_store(&h->seat, next);
    *seat = next;
    taken = true;
  }
  segment_lock_give(&h->acting);
  return taken;
}

int chalk_is_claimed(chalk_segment *g, uint32_t generation) {
  return role_is_lost(g) || is_claimed(g->head, generation);
}

static _Thread_local chalk_segment *reserved;

int chalk_hold(chalk_segment *g, uint32_t generation) {
  header *h = g->head;
  bool orphaned = false;
  if (reserved == g) {
    reserved = NULL;
    return 1;
  }
  if (is_claimed(h, generation)) return 0;
  atomic_store(&h->claim, (uint64_t)generation << 32 | milliseconds());
  uint32_t seat = atomic_load(&h->seat);
  if (!take_seat(g, seat, &orphaned) && !take_next_seat(g, &seat)) return 0;
  if (orphaned) atomic_store(&h->recount, 1); /* it may have died after it freed a number and before it counted that */
  atomic_store(&h->leaving, 0);
  atomic_store(&g->seat, seat);
  atomic_store(&g->sitter, (uint32_t)getpid());
  process_own(&h->flusher);
  chalk_heartbeat(g);
  return 1;
}

void chalk_release(chalk_segment *g) {
  if (!role_is_lost(g)) atomic_store(&g->head->flusher.pid, 0);
  atomic_store(&g->sitter, 0); /* before another thread of this process may take the seat */
  segment_lock_give(lock_of(g, atomic_load(&g->seat)));
}

bool role_reserve(chalk_segment *g, uint32_t generation) {
  if (chalk_hold(g, generation) != 1) return false;
  reserved = g;
  return true;
}

void role_unreserve(void) {
  if (reserved) chalk_release(reserved);
  reserved = NULL;
}

void chalk_leave(chalk_segment *g) {
  if (!role_is_lost(g)) atomic_store(&g->head->leaving, 1);
}

bool role_is_left(const chalk_segment *g) { return atomic_load(&g->head->leaving); }

void chalk_heartbeat(chalk_segment *g) {
  if (!role_is_lost(g)) store_double(&g->head->heartbeat, chalk_now());
}

bool role_enter(chalk_segment *g) {
  if (segment_lock_take(&g->head->acting)) atomic_store(&g->head->recount, 1);
  if (!role_is_lost(g)) return true;
  role_leave(g);
  return false;
}

void role_leave(chalk_segment *g) { segment_lock_give(&g->head->acting); }

uint32_t chalk_generation(chalk_segment *g, int raise) {
  return raise ? atomic_fetch_add(&g->head->generation, 1) + 1 : atomic_load(&g->head->generation);
}

void chalk_generation_reach(chalk_segment *g, uint32_t generation) {
  uint32_t now = atomic_load(&g->head->generation);
  while (now < generation && !atomic_compare_exchange_weak(&g->head->generation, &now, generation)) {
  }
}
