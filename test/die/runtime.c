#include "runtime.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *from, *to;
static unsigned long at, count;
static bool armed, behind, due;

void die_arm(const void *base, size_t size, unsigned long n, bool after) {
  from = base;
  to = from + size;
  at = n;
  behind = after;
  count = 0;
  due = false;
  armed = true;
}

unsigned long die_disarm(void) {
  armed = false;
  return count;
}

static void die(void) {
  for (;;) syscall(SYS_kill, getpid(), SIGKILL);
}

/* Called for anything that is not a store: the store before it has been made by now. */
static inline void die_if_due(void) {
  if (__builtin_expect(due, 0)) die();
}

/* Called before each store. */
static void before_store(const void *p) {
  die_if_due();
  if (!armed || (const char *)p < from || (const char *)p >= to) return;
  if (++count != at) return;
  if (!behind) die();
  due = true;
}

/* The functions that the compiler calls. It declares them itself, with types of its own. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

void __tsan_init(void) {}
void __tsan_func_entry(void *caller) {
  (void)caller;
  die_if_due();
}
void __tsan_func_exit(void) { die_if_due(); }
void __tsan_vptr_read(void **p) { (void)p; }
void __tsan_vptr_update(void **p, void *v) { (void)v, before_store(p); }

#define PLAIN(n)                                                    \
  void __tsan_read##n(void *p) { (void)p, die_if_due(); }           \
  void __tsan_write##n(void *p) { before_store(p); }                \
  void __tsan_unaligned_read##n(void *p) { (void)p, die_if_due(); } \
  void __tsan_unaligned_write##n(void *p) { before_store(p); }      \
  void __tsan_read_write##n(void *p) { before_store(p); }           \
  void __tsan_unaligned_read_write##n(void *p) { before_store(p); }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

void __tsan_read_range(void *p, size_t n) { (void)p, (void)n, die_if_due(); }
void __tsan_write_range(void *p, size_t n) { (void)n, before_store(p); }

/* All orders become sequentially consistent, because these tests are about deaths and not about weak memory. */
#define ORDER __ATOMIC_SEQ_CST
#define UPDATE(bits, type, name)                                           \
  type __tsan_atomic##bits##_##name(volatile type *p, type v, int order) { \
    (void)order, before_store((const void *)p);                            \
    type old = __atomic_##name(p, v, ORDER);                               \
    die_if_due();                                                          \
    return old;                                                            \
  }
#define EXCHANGE(bits, type, strength, weak)                                                                 \
  int __tsan_atomic##bits##_compare_exchange_##strength(volatile type *p, type *expected, type v, int order, \
                                                        int failure) {                                       \
    (void)order, (void)failure, before_store((const void *)p);                                               \
    int done = __atomic_compare_exchange_n(p, expected, v, weak, ORDER, ORDER);                              \
    die_if_due();                                                                                            \
    return done;                                                                                             \
  }
#define ATOMIC(bits, type)                                                                                           \
  type __tsan_atomic##bits##_load(const volatile type *p, int order) {                                               \
    (void)order, die_if_due();                                                                                       \
    return __atomic_load_n(p, ORDER);                                                                                \
  }                                                                                                                  \
  void __tsan_atomic##bits##_store(volatile type *p, type v, int order) {                                            \
    (void)order, before_store((const void *)p);                                                                      \
    __atomic_store_n(p, v, ORDER);                                                                                   \
    die_if_due();                                                                                                    \
  }                                                                                                                  \
  type __tsan_atomic##bits##_exchange(volatile type *p, type v, int order) {                                         \
    (void)order, before_store((const void *)p);                                                                      \
    type old = __atomic_exchange_n(p, v, ORDER);                                                                     \
    die_if_due();                                                                                                    \
    return old;                                                                                                      \
  }                                                                                                                  \
  UPDATE(bits, type, fetch_add)                                                                                      \
  UPDATE(bits, type, fetch_sub)                                                                                      \
  UPDATE(bits, type, fetch_and)                                                                                      \
  UPDATE(bits, type, fetch_or)                                                                                       \
  UPDATE(bits, type, fetch_xor)                                                                                      \
  EXCHANGE(bits, type, strong, 0)                                                                                    \
  EXCHANGE(bits, type, weak, 1)                                                                                      \
  type __tsan_atomic##bits##_compare_exchange_val(volatile type *p, type expected, type v, int order, int failure) { \
    (void)order, (void)failure, before_store((const void *)p);                                                       \
    __atomic_compare_exchange_n(p, &expected, v, 0, ORDER, ORDER);                                                   \
    die_if_due();                                                                                                    \
    return expected;                                                                                                 \
  }
ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)

void __tsan_atomic_thread_fence(int order) {
  (void)order;
  die_if_due();
  __atomic_thread_fence(ORDER);
}
void __tsan_atomic_signal_fence(int order) { (void)order, die_if_due(); }

/*
 * The functions that the core calls, by macros on the compiler's command line. Copying a block is two stores, so a
 * death may leave it half written.
 */

void *die_memcpy(void *out, const void *in, size_t n) {
  before_store(out);
  memcpy(out, in, n / 2);
  before_store((char *)out + n / 2);
  memcpy((char *)out + n / 2, (const char *)in + n / 2, n - n / 2);
  die_if_due();
  return out;
}

void *die_memset(void *out, int c, size_t n) {
  before_store(out);
  memset(out, c, n / 2);
  before_store((char *)out + n / 2);
  memset((char *)out + n / 2, c, n - n / 2);
  die_if_due();
  return out;
}

int die_mutex_lock(pthread_mutex_t *m) {
  before_store(m);
  int e = pthread_mutex_lock(m);
  die_if_due();
  return e;
}

int die_mutex_trylock(pthread_mutex_t *m) {
  before_store(m);
  int e = pthread_mutex_trylock(m);
  die_if_due();
  return e;
}

int die_mutex_consistent(pthread_mutex_t *m) {
  before_store(m);
  int e = pthread_mutex_consistent(m);
  die_if_due();
  return e;
}

int die_mutex_unlock(pthread_mutex_t *m) {
  before_store(m);
  int e = pthread_mutex_unlock(m);
  die_if_due();
  return e;
}
