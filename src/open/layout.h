/*
 * The layout of a segment. Its geometry, that is where its parts are, follows from its capacity and the size of its
 * heap alone; segment.h has a figure. A new segment is filled in with `ready` stored last, so a file whose maker died
 * differs from a complete one.
 */
#ifndef LAYOUT_H
#define LAYOUT_H

#include "shm/segment.h"

#define LAYOUT_MAGIC 0x31746e6d67657363ull /* "csegmnt1" */

/* Computes the geometry for this capacity and heap. Returns the size of the segment. */
uint64_t layout_compute(header *geometry, uint32_t capacity, uint64_t heap);
/* Sets the addresses of the parts in g. The geometry is in private memory, so no other process can change it. */
void layout_apply(chalk_segment *g, const header *geometry);
/*
 * Reserves and maps a new segment, with a smaller heap if the address space or file size is limited. Sets g->base,
 * g->size and *geometry.
 */
int layout_reserve(chalk_segment *g, const chalk_options *o, header *geometry, char *message);
/* Fills in a new segment, whose file is all zeros but for LAYOUT_MAGIC. */
int layout_fill(chalk_segment *g, const header *geometry, const chalk_options *o, char *message);
/* The id of the current boot of the machine, as in a header. Empty if it is not known. */
void layout_boot(char *boot, size_t size);

#endif
