/*
 * Reading without a lock what may be in other use by the time it is read: a histogram's block, a sketch table, a key.
 * Whoever does copies, then asks whether it still was what he thought (a series by its generation, a table by its
 * histogram's version), and else forgets it. The stores of the memory's next user are plain: by the letter of C11 a
 * race, which the thread sanitizer is told is meant. What is shared in any other way is not read like this.
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

PEEK uint32_t peek_u32(const void *p) { return PEEK_LOAD(uint32_t, p); }
PEEK uint64_t peek_u64(const void *p) { return PEEK_LOAD(uint64_t, p); }

/* Copies n bytes to `to`, which has room for whole words, as blocks of the heap have. */
static inline void peek_bytes(void *to, const void *from, uint32_t n) {
  for (uint32_t i = 0; i < (n + 7) / 8; i++) ((uint64_t *)to)[i] = peek_u64((const uint64_t *)from + i);
}

#endif
