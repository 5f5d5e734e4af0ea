/*
 * Tag values as StatsD's lines can carry them, by the rules of chalk.exporter.statsd.names: what may not stand there is
 * replaced, and what is too long is cut and gets the FNV-1a hash of the whole. No NUL is added.
 */
#ifndef STATSD_TEXT_H
#define STATSD_TEXT_H

#include <stddef.h>
#include <stdint.h>

enum {
  STATSD_TEXT_MORE = 9,  /* how much longer a value may become */
  STATSD_TEXT_ROOM = 16, /* bytes behind a value that are read, and behind its text that are written */
};

/* A value in a tag; at most `most` characters. Returns its end. */
char *statsd_text_value(char *o, const char *value, uint32_t n, size_t most);
/* A value as a part of a name, after a dot. */
char *statsd_text_folded(char *o, const char *value, uint32_t n);

/* How many characters a text has. */
size_t statsd_text_characters(const char *s);

#endif
