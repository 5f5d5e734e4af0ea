/* A text together with its size, which is measured once where the text is written many times. */
#ifndef MEASURED_H
#define MEASURED_H

#include <stddef.h>
#include <string.h>

typedef struct measured {
  const char *bytes;
  size_t size;
} measured;

/* `text` may be NULL, and then has no bytes. */
static inline measured measure(const char *text) { return (measured){text, text ? strlen(text) : 0}; }

#endif
