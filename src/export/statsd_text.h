/*
 * Tag values as StatsD's lines can carry them, by the rules of chalk.exporter.statsd.names: characters that may not
 * stand there are replaced, and a value that is too long is cut and gets the FNV-1a hash of the whole. Functions write
 * to `o`, add no NUL and return the end of what they wrote.
 */
#ifndef STATSD_TEXT_H
#define STATSD_TEXT_H

#include <stddef.h>
#include <stdint.h>

enum {
  STATSD_TEXT_MORE = 9,  /* bytes by which a value may become longer */
  STATSD_TEXT_ROOM = 16, /* bytes behind a value that are read, and behind its text that are written */
};

/* A value in a tag: n bytes of UTF-8, of which at most `most` characters stay. */
char *statsd_text_value(char *o, const char *value, uint32_t n, size_t most);
/* A value as a part of a name, after a dot; "none" for an absent one. */
char *statsd_text_folded(char *o, const char *value, uint32_t n);

/* How many characters a text of UTF-8 has. */
size_t statsd_text_characters(const char *s);

#endif
