/*
 * The end of a dropped series. Once nobody can record into it any more, and every cursor and the event tap have read
 * it, its residue goes to its successor, and its number and cells may be used again.
 */
#ifndef RECLAIM_H
#define RECLAIM_H

#include "shm/lives.h"
#include "shm/segment.h"

/*
 * Frees a dropped series if every live writer has seen the drop and the event tap has read its events; the caller knows
 * that the cursors have sent it. False: it stays, or its drop was undone. Only the holder.
 */
bool reclaim_series(chalk_segment *g, uint32_t id, lives *alive);

#endif
