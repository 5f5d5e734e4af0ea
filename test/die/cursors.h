/* Paths of an exporter's cursor: it is opened, committed to, left, and has to send series that were dropped. */
#ifndef CURSORS_H
#define CURSORS_H

#include "bed.h"

void cursors_record_some(bed *b);
void cursors_send_first(bed *b);
void cursors_record_and_send(bed *b);
void cursors_send_parts(bed *b);
void cursors_record_several_and_send(bed *b);
void cursors_send_at_once(bed *b);
void cursors_open_late(bed *b);
void cursors_age_cursor(bed *b);
void cursors_sent_all_anew(bed *b);
void cursors_drop_unsent(bed *b);
void cursors_send_and_sweep(bed *b);
void cursors_sent_what_was_dropped(bed *b);

#endif
