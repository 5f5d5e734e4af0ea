/*
 * Reading memory without a lock that may be in other use by the time it is read: a histogram's block, a sketch table, a
 * key. The reader copies it, then asks whether it still was what the reader took it for (a series by its generation, a
 * table by its histogram's version), and drops the copy if it was not. The memory's next user stores plainly, which is
 * a data race by the letter of C11: the thread sanitizer is told that it is meant. Shared memory of any other kind is
 * not read like this.
 */
#ifndef PEEK_H
#define PEEK_H

#include <stdatomic.h>
#include <stdint.h>

#if defined(__SANITIZE_THREAD__)
#define PEEK static __attribute__((noinline, unused, no_sanitize("thread")))
#define PEEK_LOAD(type, p) (*(const volatile type *)(p))
#else
#define PEEK static inline
#define PEEK_LOAD(type, p) atomic_load_explicit((const _Atomic type *)(p), memory_order_acquire)
#endif

/* A word, load-acquire; p is aligned. */
PEEK uint32_t peek_u32(const void *p) { return PEEK_LOAD(uint32_t, p); }
PEEK uint64_t peek_u64(const void *p) { return PEEK_LOAD(uint64_t, p); }

/* Copies n bytes. Both `to` and `from` are aligned to words of 8 bytes and have room for whole words. */
static inline void peek_bytes(void *to, const void *from, uint32_t n) {
  for (uint32_t i = 0; i < (n + 7) / 8; i++) ((uint64_t *)to)[i] = peek_u64((const uint64_t *)from + i);
}

#endif
