/*
 * Makes one memory allocation of this thread fail. Only for programs that are linked with --wrap=malloc, --wrap=calloc
 * and --wrap=realloc, see CMakeLists.txt. Allocations inside of the C library do not fail.
 */
#ifndef TEST_FAILING_H
#define TEST_FAILING_H

#include <stddef.h>

/* The number of allocations that succeed before the one that fails; negative: none fails. */
static _Thread_local int failing_after = -1;

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

static int fails(void) { return failing_after >= 0 && failing_after-- == 0; }

void *__wrap_malloc(size_t size) { return fails() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t n, size_t size) { return fails() ? NULL : __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t size) { return fails() ? NULL : __real_realloc(p, size); }

#endif
