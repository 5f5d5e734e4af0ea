/*
 * Plain definitions: those of a C host, which has no text of its own to describe a metric and gives its names only.
 * Exporters get a text that is written here: "=" kind NUL across NUL name, and for each tag NUL and its name. Such a
 * text never replaces another host's text.
 */
#ifndef PLAIN_H
#define PLAIN_H

#include "shm/segment.h"

/* CHALK_OK if every format can carry the names, as those of metrics.json; CHALK_EINVALID and a message if not. */
int plain_check(const chalk_definition *d, char *message);
/* Writes the text of a definition that was checked to `out`, if that is not NULL, and returns its length. */
size_t plain_write(const chalk_definition *d, char *out);

#endif
