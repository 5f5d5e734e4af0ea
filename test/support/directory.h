/* A directory for one test program, and the file of a segment in it. */
#ifndef TEST_DIRECTORY_H
#define TEST_DIRECTORY_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "chalk.h"

enum { MIB = 1 << 20 };

static char directory[] = "/tmp/chalk_test_XXXXXX";
static char path[64];

/* Setup and teardown of a group of tests. */
static inline int directory_make(void **state) {
  (void)state;
  if (!mkdtemp(directory)) return -1;
  snprintf(path, sizeof path, "%s/metrics", directory);
  return 0;
}

static inline int directory_remove(void **state) {
  (void)state;
  unlink(path);
  return rmdir(directory);
}

static inline chalk_segment *open_path(char *message) {
  chalk_options o = {.path = path, .memory_limit = 64 * MIB};
  return chalk_segment_open(NULL, &o, message);
}

#endif
