/*
 * A host without Lua, for tests of flush threads. Its "VM" is a pointer of the test, and its chunk is a function in C.
 */
#ifndef TEST_HOST_H
#define TEST_HOST_H

#include "chalk.h"

static void *host_state;

static inline void *host_new(void) { return host_state; }
static inline void host_open(void *state) { (void)state; }
static inline int host_load(void *state, const char *text, size_t size, const char *name) {
  (void)state, (void)text, (void)size, (void)name;
  return 0;
}
static inline void host_push(void *state, const char *text, size_t size) { (void)state, (void)text, (void)size; }
static inline const char *host_say(void *state, int i, size_t *size) {
  (void)state, (void)i, (void)size;
  return NULL;
}

/* Starts a thread that calls `run` with `state` when the role of `segment` is available. */
static inline chalk_thread *host_start(void *state, int (*run)(void *, int, int, int), chalk_segment *segment,
                                       uint32_t generation, char *message) {
  const chalk_lua lua = {host_new, host_open, host_load, host_push, run, host_say, host_open};
  const char *chunk = "";
  size_t size = 0;
  host_state = state;
  return chalk_thread_start(&lua, &chunk, &size, 1, segment, generation, message);
}

#endif
