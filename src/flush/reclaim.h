/*
 * The end of a dropped series: once nobody can record into it any more, and everybody who is to hear of it has, its
 * residue goes to its successor, and its number and its cells are used again.
 */
#ifndef RECLAIM_H
#define RECLAIM_H

#include "shm/lives.h"
#include "shm/segment.h"

/* Makes a dropped series' number reusable if that is safe. Only the holder. */
bool reclaim_series(chalk_segment *g, uint32_t id, lives *alive);

#endif
