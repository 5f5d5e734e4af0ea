/*
 * The layout of a segment: where its parts are, which follows from its capacity and the size of its heap alone, and
 * filling in a new one. `ready` is stored last, so a file whose maker died is told from a whole one.
 */
#ifndef LAYOUT_H
#define LAYOUT_H

#include "shm/segment.h"

#define LAYOUT_MAGIC 0x31746e6d67657363ull /* "csegmnt1" */

/* Places every region for this capacity and heap; returns the size of all. */
uint64_t layout_plan(header *plan, uint32_t capacity, uint64_t heap);
/* Points the process's own view at the parts, by a header of this process's own. */
void layout_view(chalk_segment *g, const header *plan);
/* Reserves and maps; a smaller heap where the address space is limited. Fills in g->base, g->size, plan. */
int layout_reserve(chalk_segment *g, const chalk_options *o, header *plan, char *message);
/* Writes a new segment's header; the file is all zeroes. */
int layout_fill(chalk_segment *g, const header *plan, const chalk_options *o, char *message);
/* The machine's boot, as a header notes it; empty where it is not known. */
void layout_boot(char *boot, size_t size);

#endif
