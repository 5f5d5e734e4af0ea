/* Paths of those who share slot 0: how they come, what they have in common gauges, and how they get a row of cells. */
#ifndef SHARING_H
#define SHARING_H

#include "bed.h"

/* Before the victim is there: nobody can have a row of cells; or, besides, others shared and have gone. */
void sharing_crowd(bed *b);
void sharing_crowd_and_leave(bed *b);
void sharing_crowd_and_drop(bed *b);
/* Besides, one that shared has a row, and has set a gauge late: it has no successor, or one where nobody has a link, or
   one with the link of somebody who has gone. */
void sharing_leave_late(bed *b);
void sharing_leave_late_to_successor(bed *b);
void sharing_leave_late_to_vacancy(bed *b);
/* The victim, before it is armed. */
void sharing_vacate(bed *b);
void sharing_get_row(bed *b);
void sharing_orphan(bed *b);
/* The victim, armed: records into a count, a histogram and a gauge, wherever it has its cells. */
void sharing_record(bed *b);
void sharing_close(bed *b);
/* The survivor: there is room again, and what the victim had in a gauge has gone. */
void sharing_disperse(bed *b);
void sharing_is_gone(bed *b);
/* The survivor: what was set late counts once, and ends with its VM. */
void sharing_late_is_there(bed *b);

#endif
