/*
 * The segment's locks: robust mutexes of the C library, but not in the master of a server.
 *
 * Such a mutex holds pointers, to what else its owner has locked, and the library follows them. In shared memory they
 * are for anybody to overwrite who can write there; so a master, whose workers have less privilege than it has, takes
 * the same locks by hand. The word of the lock is the kernel's: the owner's thread, and whether others wait or the owner
 * died. So that the master's death is noticed too, its locks are in the list that the C library has told the kernel
 * of; what this list was before is kept in memory of the master's own, and only the kernel reads the links that stand
 * in the locks: it looks where they lead.
 *
 * Whatever stands in the word, the master waits for some seconds only.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shm/process.h"
#include "shm/segment.h"

enum { LOOK = 50000000 }; /* ns */

static void lock_new(segment_lock *lock) {
  pthread_mutexattr_t a;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&lock->mutex, &a);
  pthread_mutexattr_destroy(&a);
}

void segment_locks_new(chalk_segment *g) {
  header *h = g->head;
  lock_new(&h->registry), lock_new(&h->ids_lock), lock_new(&h->heap_lock), lock_new(&h->acting), lock_new(&h->tap_lock);
  for (uint32_t i = 0; i < SEATS; i++) lock_new(&h->seats[i]);
  for (uint32_t i = 0; i < STRIPES; i++) lock_new(&g->stripes[i].lock);
}

/* By hand */

/* What the calling thread holds, the last one taken at the end; `below` is what the list was before. */
enum { HELD = 8 };
typedef struct robust_list entry;
static _Thread_local struct { entry *at, *below; } held[HELD];
static _Thread_local uint32_t n_held;

static struct robust_list_head *robust_head(void) {
  struct robust_list_head *head = NULL;
  size_t size = 0;
  return syscall(SYS_get_robust_list, 0, &head, &size) == 0 && size == sizeof *head ? head : NULL;
}

static shared_u32 *word_of(segment_lock *lock) { return (shared_u32 *)(void *)lock; }

/* Where a lock's link stands; NULL: the list is not such that a lock could be in it. */
static entry *entry_of(const struct robust_list_head *head, segment_lock *lock) {
  long at = head ? -head->futex_offset : 0;
  bool fits =
      at >= (long)sizeof(uint32_t) && at % (long)sizeof(entry) == 0 && at <= (long)(sizeof *lock - sizeof(entry));
  return fits ? (entry *)(void *)((char *)lock + at) : NULL;
}

static void list(struct robust_list_head *head, entry *at) {
  if (n_held == HELD) return;
  held[n_held].at = at, held[n_held].below = head->list.next;
  n_held++;
  at->next = head->list.next;
  atomic_signal_fence(memory_order_seq_cst);
  head->list.next = at;
}

static void unlist(struct robust_list_head *head, const entry *at) {
  uint32_t i = n_held;
  while (i > 0 && held[i - 1].at != at) i--;
  if (i == 0) return;
  entry *below = held[i - 1].below;
  if (i < n_held) {
    held[i].at->next = held[i].below = below;
  } else if (head->list.next == at) {
    head->list.next = below;
  }
  for (n_held--; i <= n_held; i++) held[i - 1] = held[i];
}

static void sleep_at(shared_u32 *word, uint32_t now) {
  if (!(now & FUTEX_WAITERS) && !atomic_compare_exchange_strong(word, &now, now | FUTEX_WAITERS)) return;
  struct timespec t = {0, LOOK};
  syscall(SYS_futex, word, FUTEX_WAIT, now | FUTEX_WAITERS, &t, NULL, 0);
}

static bool word_take(shared_u32 *word, double patience, bool *orphaned) {
  uint32_t own = (uint32_t)syscall(SYS_gettid), waiting = 0;
  for (double end = chalk_now() + patience;;) {
    uint32_t now = atomic_load(word);
    bool is_free = (now & FUTEX_TID_MASK) == 0 || (now & FUTEX_OWNER_DIED);
    if (is_free && atomic_compare_exchange_strong(word, &now, own | (now & FUTEX_WAITERS) | waiting)) {
      *orphaned = now & FUTEX_OWNER_DIED;
      return true;
    }
    if (chalk_now() >= end) return false;
    if (is_free) continue;
    waiting = FUTEX_WAITERS; /* others may sleep too, and their mark goes with the one who lets go */
    sleep_at(word, now);
  }
}

static bool take_by_hand(segment_lock *lock, double patience, bool *orphaned) {
  struct robust_list_head *head = robust_head();
  entry *at = entry_of(head, lock);
  if (at) head->list_op_pending = at;
  atomic_signal_fence(memory_order_seq_cst);
  bool taken = word_take(word_of(lock), patience, orphaned);
  if (taken && at) list(head, at);
  atomic_signal_fence(memory_order_seq_cst);
  if (at) head->list_op_pending = NULL;
  return taken;
}

static __attribute__((noinline)) void give_by_hand(segment_lock *lock) {
  struct robust_list_head *head = robust_head();
  entry *at = entry_of(head, lock);
  if (at) head->list_op_pending = at, unlist(head, at);
  atomic_signal_fence(memory_order_seq_cst);
  bool is_own = (atomic_load(word_of(lock)) & FUTEX_TID_MASK) == (uint32_t)syscall(SYS_gettid);
  uint32_t before = is_own ? atomic_exchange(word_of(lock), 0) : 0;
  if (before & FUTEX_WAITERS) syscall(SYS_futex, word_of(lock), FUTEX_WAKE, 1, NULL, NULL, 0);
  atomic_signal_fence(memory_order_seq_cst);
  if (at) head->list_op_pending = NULL;
}

double segment_lock_patience = 5;

/* Who waited in vain does not wait again for every lock that is wanted then. */
static __attribute__((noinline)) bool reach_by_hand(segment_lock *lock, bool *orphaned) {
  enum { NO_MORE = 60 };
  static shared_u64 until;
  if (take_by_hand(lock, chalk_now() < load_double(&until) ? 0 : segment_lock_patience, orphaned)) return true;
  store_double(&until, chalk_now() + NO_MORE);
  return false;
}

/* By the C library */

/*
 * A process that is killed when a lock was handed to it, before it could take it, may leave others asleep that nobody
 * wakes: so they look for themselves now and then.
 */
static __attribute__((noinline)) int lock_wait(pthread_mutex_t *mutex, int e) {
  while (e == EBUSY || e == ETIMEDOUT) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += LOOK;
    if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
    e = pthread_mutex_timedlock(mutex, &t);
  }
  return e;
}

bool segment_lock_reach(segment_lock *lock, bool *orphaned) {
  *orphaned = false;
  if (process_hands_on) return reach_by_hand(lock, orphaned);
  int e = pthread_mutex_trylock(&lock->mutex);
  if (e == 0) return true;
  *orphaned = lock_wait(&lock->mutex, e) == EOWNERDEAD;
  if (*orphaned) pthread_mutex_consistent(&lock->mutex);
  return true;
}

bool segment_lock_reach_any(segment_lock *lock) {
  bool orphaned;
  return segment_lock_reach(lock, &orphaned);
}

bool segment_lock_take(segment_lock *lock) {
  bool orphaned;
  while (!segment_lock_reach(lock, &orphaned)) {
  }
  return orphaned;
}

bool segment_lock_try(segment_lock *lock, bool *orphaned) {
  if (process_hands_on) return take_by_hand(lock, 0, orphaned);
  int e = pthread_mutex_trylock(&lock->mutex);
  *orphaned = e == EOWNERDEAD;
  if (*orphaned) pthread_mutex_consistent(&lock->mutex);
  return e == 0 || *orphaned;
}

void segment_lock_give(segment_lock *lock) {
  if (process_hands_on) {
    give_by_hand(lock);
  } else {
    pthread_mutex_unlock(&lock->mutex);
  }
}
