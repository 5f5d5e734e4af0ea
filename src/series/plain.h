/*
 * Plain definitions: those of a C host, which has no text of its own to describe a metric and gives its names only.
 * Exporters get a text that is written here: "=" kind NUL across NUL name, and for each tag NUL and its name. It never
 * takes the place of another host's text.
 */
#ifndef PLAIN_H
#define PLAIN_H

#include "shm/segment.h"

/* Whether the names are such that every format can carry them: those of metrics.json. */
int plain_check(const chalk_definition *d, char *message);
/* The text, to `out` where that is not NULL; its length. */
size_t plain_write(const chalk_definition *d, char *out);

#endif
