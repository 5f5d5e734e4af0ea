/*
 * Reading memory without a lock, although its owner may free it and reuse it for something else at the same time: a
 * histogram's block, a table of a sketch, a key.
 *
 * The reader copies the memory first and then checks that it still was what the reader took it for: a series by its
 * generation, a table by its histogram's version. If the check fails, the reader drops the copy. The next user of the
 * memory stores with plain stores, which C11 calls a data race, so these functions are hidden from the thread
 * sanitizer. No other shared memory is read this way.
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

/* Loads a word with acquire. p is aligned to the size of the word. */
PEEK uint32_t peek_u32(const void *p) { return PEEK_LOAD(uint32_t, p); }
PEEK uint64_t peek_u64(const void *p) { return PEEK_LOAD(uint64_t, p); }

/* Copies n bytes in words of 8. `to` and `from` are aligned to 8 bytes, and both have n rounded up to whole words. */
static inline void peek_bytes(void *to, const void *from, uint32_t n) {
  for (uint32_t i = 0; i < (n + 7) / 8; i++) ((uint64_t *)to)[i] = peek_u64((const uint64_t *)from + i);
}

#endif
