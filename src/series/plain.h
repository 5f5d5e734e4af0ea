/*
 * Plain definitions: those of a C host, which gives names only and no text that describes the metric. Exporters get a
 * text that is written here: "=" kind NUL across NUL name, and for each tag NUL and its name. It never replaces the
 * text of another host.
 */
#ifndef PLAIN_H
#define PLAIN_H

#include "shm/segment.h"

/*
 * CHALK_OK: every format can carry the names of a definition; they obey the rules of metrics.json. CHALK_EINVALID: a
 * name does not, and the message says which.
 */
int plain_check(const chalk_definition *d, char *message);
/* Writes the text of a checked definition to `out`, if that is not NULL. Returns the text's length in bytes. */
size_t plain_write(const chalk_definition *d, char *out);

#endif
