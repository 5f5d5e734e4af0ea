/*
 * The locks of the segment. They are robust mutexes of the C library, except in the master of a server.
 *
 * A robust mutex contains pointers, which link it with the other locks that its owner holds, and the library follows
 * them. In shared memory any process that can write there can overwrite them. The master has more privilege than its
 * workers, so it must not follow them, and takes the same locks by hand.
 *
 * By hand, only one word of the lock counts, whose format is the kernel's: the id of the owner's thread, and two bits
 * that say whether others wait and whether the owner died. The kernel must also notice the death of the master. So the
 * master adds its locks to the list that the C library has registered with the kernel for each thread. The links of
 * this list are inside of the locks, where only the kernel reads them, which checks where they lead. The master
 * restores the list from copies in its private memory.
 *
 * Whatever the word contains, the master waits only for a few seconds.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shm/process.h"
#include "shm/segment.h"

enum { CHECK_INTERVAL = 50000000 }; /* ns between two looks at a lock that is not free */

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

/* Locks taken by hand */

/* The locks that the calling thread holds, the last one taken at the end; `below` is what the list was before it. */
enum { HELD = 8 };
typedef struct robust_list robust_link;
static _Thread_local struct { robust_link *at, *below; } held[HELD];
static _Thread_local uint32_t n_held;

static struct robust_list_head *robust_head(void) {
  struct robust_list_head *head = NULL;
  size_t size = 0;
  return syscall(SYS_get_robust_list, 0, &head, &size) == 0 && size == sizeof *head ? head : NULL;
}

static shared_u32 *word_of(segment_lock *lock) { return (shared_u32 *)(void *)lock; }

/* The link inside of a lock. NULL: the list is not registered in a way that fits the layout of a lock. */
static robust_link *link_of(const struct robust_list_head *head, segment_lock *lock) {
  long at = head ? -head->futex_offset : 0;
  bool fits = at >= (long)sizeof(uint32_t) && at % (long)sizeof(robust_link) == 0 &&
              at <= (long)(sizeof *lock - sizeof(robust_link));
  return fits ? (robust_link *)(void *)((char *)lock + at) : NULL;
}

static void list_add(struct robust_list_head *head, robust_link *at) {
  if (n_held == HELD) return;
  held[n_held].at = at, held[n_held].below = head->list.next;
  n_held++;
  at->next = head->list.next;
  atomic_signal_fence(memory_order_seq_cst);
  head->list.next = at;
}

static void list_remove(struct robust_list_head *head, const robust_link *at) {
  uint32_t i = n_held;
  while (i > 0 && held[i - 1].at != at) i--;
  if (i == 0) return;
  robust_link *below = held[i - 1].below;
  if (i < n_held) {
    held[i].at->next = held[i].below = below;
  } else if (head->list.next == at) {
    head->list.next = below;
  }
  for (n_held--; i <= n_held; i++) held[i - 1] = held[i];
}

static void wait_for_change(shared_u32 *word, uint32_t now) {
  if (!(now & FUTEX_WAITERS) && !atomic_compare_exchange_strong(word, &now, now | FUTEX_WAITERS)) return;
  struct timespec t = {0, CHECK_INTERVAL};
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
    waiting = FUTEX_WAITERS; /* others may sleep too, and the thread that releases the lock clears their mark */
    wait_for_change(word, now);
  }
}

static bool take_by_hand(segment_lock *lock, double patience, bool *orphaned) {
  struct robust_list_head *head = robust_head();
  robust_link *at = link_of(head, lock);
  if (at) head->list_op_pending = at;
  atomic_signal_fence(memory_order_seq_cst);
  bool taken = word_take(word_of(lock), patience, orphaned);
  if (taken && at) list_add(head, at);
  atomic_signal_fence(memory_order_seq_cst);
  if (at) head->list_op_pending = NULL;
  return taken;
}

static __attribute__((noinline)) void give_by_hand(segment_lock *lock) {
  struct robust_list_head *head = robust_head();
  robust_link *at = link_of(head, lock);
  if (at) head->list_op_pending = at, list_remove(head, at);
  atomic_signal_fence(memory_order_seq_cst);
  bool is_own = (atomic_load(word_of(lock)) & FUTEX_TID_MASK) == (uint32_t)syscall(SYS_gettid);
  uint32_t before = is_own ? atomic_exchange(word_of(lock), 0) : 0;
  if (before & FUTEX_WAITERS) syscall(SYS_futex, word_of(lock), FUTEX_WAKE, 1, NULL, NULL, 0);
  atomic_signal_fence(memory_order_seq_cst);
  if (at) head->list_op_pending = NULL;
}

double segment_lock_patience = 5;

/*
 * After a wait in vain, the master does not wait for any lock during the next NO_MORE seconds: it may need many of
 * them.
 */
static __attribute__((noinline)) bool reach_by_hand(segment_lock *lock, bool *orphaned) {
  enum { NO_MORE = 60 };
  static shared_u64 until;
  if (take_by_hand(lock, chalk_now() < load_double(&until) ? 0 : segment_lock_patience, orphaned)) return true;
  store_double(&until, chalk_now() + NO_MORE);
  return false;
}

/* Locks of the C library */

/*
 * Waits for a lock, but looks at it every CHECK_INTERVAL even if nobody wakes it. If a waiter is killed after the
 * kernel woke it and before it took the lock, and another thread took the lock in between, then nobody wakes the next
 * waiter.
 */
static __attribute__((noinline)) int lock_wait(pthread_mutex_t *mutex, int rc) {
  while (rc == EBUSY || rc == ETIMEDOUT) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += CHECK_INTERVAL;
    if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
    rc = pthread_mutex_timedlock(mutex, &t);
  }
  return rc;
}

bool segment_lock_reach(segment_lock *lock, bool *orphaned) {
  *orphaned = false;
  if (process_hands_on) return reach_by_hand(lock, orphaned);
  int rc = pthread_mutex_trylock(&lock->mutex);
  if (rc == 0) return true;
  *orphaned = lock_wait(&lock->mutex, rc) == EOWNERDEAD;
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
  int rc = pthread_mutex_trylock(&lock->mutex);
  *orphaned = rc == EOWNERDEAD;
  if (*orphaned) pthread_mutex_consistent(&lock->mutex);
  return rc == 0 || *orphaned;
}

void segment_lock_give(segment_lock *lock) {
  if (process_hands_on) {
    give_by_hand(lock);
  } else {
    pthread_mutex_unlock(&lock->mutex);
  }
}
