/* What the series target starts from, again and again: a segment with the kit's metrics and no series. */
#ifndef FUZZ_FRESH_H
#define FUZZ_FRESH_H

#include "model.h"

/* Made at the first call, in one piece of memory for all inputs. */
chalk_segment *fresh_segment(void);
/* Puts it back to how it was made; nobody has it open. */
void fresh_again(void);

#endif
