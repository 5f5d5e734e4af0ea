/*
 * Tag values as StatsD's lines can carry them.
 *
 * A byte that a line cannot carry becomes "_". A value that is too long is cut, and ends with "_" and the FNV-1a hash
 * of the whole value, so two long values stay different. Which bytes a line can carry is part of the format and is
 * decided here; how long a value may be is the caller's choice. The Lua module chalk.exporter.statsd.names does the
 * same with names and constant tags, and spec/exporter/statsd/lines_spec.lua compares the two. No function adds a NUL.
 */
#ifndef STATSD_TEXT_H
#define STATSD_TEXT_H

#include <stddef.h>
#include <stdint.h>

enum {
  STATSD_TEXT_GROWTH = 9,   /* the most bytes by which a text is longer than its value */
  STATSD_TEXT_PADDING = 16, /* bytes after a value that are read, and bytes after its text that are written */
};

/* Writes a value in a tag, with at most `most` characters, which is at least 9. Returns the text's end. */
char *statsd_text_value(char *o, const char *value, uint32_t n, size_t most);
/* Writes a value of n > 0 bytes as a part of a name, with at most `most` characters. Returns the text's end. */
char *statsd_text_in_name(char *o, const char *value, uint32_t n, size_t most);

#endif
