/* The segment that each input of the series target starts from: it has the kit's metrics and no series. */
#ifndef FUZZ_FRESH_H
#define FUZZ_FRESH_H

#include "model.h"

/* Returns the segment. It is made at the first call, and all inputs share its memory. */
chalk_segment *fresh_segment(void);
/* Restores the segment to the state in which it was made. No writer, cursor or snapshot of it is open. */
void fresh_again(void);

#endif
