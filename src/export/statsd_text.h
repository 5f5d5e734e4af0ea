/*
 * Tag values as StatsD's lines can carry them: a byte that may not stand there becomes "_", and a value that is too
 * long is cut and gets "_" and the FNV-1a hash of the whole. Which bytes may stand there is part of the format, and
 * declared here; how long a value may be is the caller's choice. chalk.exporter.statsd.names does the same to names and constant
 * tags, and spec/statsd_lines_spec.lua compares the two. No NUL is added.
 */
#ifndef STATSD_TEXT_H
#define STATSD_TEXT_H

#include <stddef.h>
#include <stdint.h>

enum {
  STATSD_TEXT_MORE = 9,  /* bytes by which a value may become longer */
  STATSD_TEXT_ROOM = 16, /* bytes behind a value that are read, and behind its text that are written */
};

/* A value in a tag; at most `most` characters, of which there are 9 or more. Returns its end. */
char *statsd_text_value(char *o, const char *value, uint32_t n, size_t most);
/* A value of n > 0 bytes as a part of a name; at most `most` characters. */
char *statsd_text_folded(char *o, const char *value, uint32_t n, size_t most);

#endif
