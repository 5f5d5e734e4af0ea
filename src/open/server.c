#include "open/inherit.h"
#include "open/listen.h"
#include "record/writer.h"
#include "shm/process.h"
#include "shm/segment.h"

static bool settled; /* a worker, where a VM made later does not hand on anything */

void chalk_inherit(int whether) {
  if (settled) return;
  settled = !whether;
  bool changes = process_hands_on != !!whether;
  process_hands_on = whether;
  if (changes) writers_unbind(); /* what was bound before would not go on as the others do */
  segments_mark();
  listeners_mark();
}

int chalk_is_worker(void) { return settled; }
