/*
 * Reclaiming: the end of a dropped series. Once no process can record into it any more, and every cursor and the event
 * tap have read it, its residue goes to its successor, and its number, key and cells are free again.
 *
 * It stands above the series and the tap, because the events of a dropped series have to be read before its number may
 * mean another series.
 */
#ifndef RECLAIM_H
#define RECLAIM_H

#include "shm/lives.h"
#include "shm/segment.h"

/*
 * Reclaims a dropped series if every live writer has seen the drop and the event tap has read its events. The caller
 * has made sure that the cursors have sent it. False: the series stays, or its drop was undone. Only the holder.
 */
bool reclaim_series(chalk_segment *g, uint32_t id, lives *alive);

#endif
