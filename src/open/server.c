#include "open/inherit.h"
#include "open/listen.h"
#include "record/writer.h"
#include "shm/process.h"
#include "shm/segment.h"

static bool is_worker; /* for good: a VM that is created later in a worker does not change inheritance */

void chalk_inherit(int whether) {
  if (is_worker) return;
  is_worker = !whether;
  bool changes = process_hands_on != !!whether;
  process_hands_on = whether;
  if (changes) writers_unbind(); /* handles bound before would not record as the later ones do */
  segments_mark();
  listeners_mark();
}

int chalk_is_worker(void) { return is_worker; }
