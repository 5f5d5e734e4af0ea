/* Paths of VMs that share slot 0: how they come, what links they have in lists of gauges, and how they get a row. */
#ifndef SHARING_H
#define SHARING_H

#include "bed.h"

/* The survivor, before it forks the victim: takes all rows; then VMs share and end, or their gauge is also dropped. */
void sharing_crowd(bed *b);
void sharing_crowd_and_leave(bed *b);
void sharing_crowd_and_drop(bed *b);
/*
 * Also, a VM that shared gets a row and sets a gauge late. The gauge has no successor, or one without links, or one
 * with the link of a VM that has ended.
 */
void sharing_leave_late(bed *b);
void sharing_leave_late_to_successor(bed *b);
void sharing_leave_late_to_vacancy(bed *b);
/* The victim, before it is armed. */
void sharing_vacate(bed *b);
void sharing_get_row(bed *b);
void sharing_orphan(bed *b);
/* The victim, armed: records into a count, a histogram and a gauge; or closes its VM. */
void sharing_record(bed *b);
void sharing_close(bed *b);
/* The survivor: frees the rows again; the value that the victim had in a gauge is gone. */
void sharing_disperse(bed *b);
void sharing_is_gone(bed *b);
/* The survivor: the late value counts once, and is gone with its VM. */
void sharing_late_is_there(bed *b);

#endif
