#include "open/limits.h"

#include "shm/process.h"
#include "value/sketch.h"

/*
 * Half of the memory limit of the control group: above that limit the kernel kills processes, above ours series are
 * only folded.
 */
static uint64_t default_limit(void) {
  uint64_t half = process_memory_limit() / 2;
  return half > LIMITS_DEFAULT ? LIMITS_DEFAULT : half < LIMITS_LEAST ? LIMITS_LEAST : half;
}

void limits_set(chalk_segment *g, const chalk_options *o) {
  header *h = g->head;
  uint32_t most = g->capacity / 2;
  if (o->max_series) atomic_store(&h->max_series, o->max_series < most ? o->max_series : most);
  if (o->max_buckets) atomic_store(&h->max_buckets, o->max_buckets);
  if (o->initial_error > 0) atomic_store(&h->start_scale, (uint32_t)sketch_scale_for(o->initial_error));
  if (o->memory_limit) atomic_store(&h->memory_limit, o->memory_limit);
}

void limits_begin(chalk_segment *g, const chalk_options *o) {
  static const chalk_options defaults = {.max_series = LIMITS_SERIES, .max_buckets = 512, .initial_error = 0.001};
  atomic_store(&g->head->memory_limit, default_limit());
  limits_set(g, &defaults);
  limits_set(g, o);
}

int limits_check(const chalk_options *o, char *message) {
  if (o->max_buckets && (o->max_buckets < 8 || o->max_buckets > 8192)) {
    process_say(message, "max_buckets must be from 8 to 8192");
    return CHALK_EINVALID;
  }
  if (o->initial_error != 0 && !(o->initial_error >= 0.0001 && o->initial_error <= 0.5)) {
    process_say(message, "initial_error must be from 0.0001 to 0.5");
    return CHALK_EINVALID;
  }
  if (o->max_series > LIMITS_MOST_CAPACITY / 2) {
    process_say(message, "max_series must be at most %u", LIMITS_MOST_CAPACITY / 2);
    return CHALK_EINVALID;
  }
  if (o->memory_limit && o->memory_limit < LIMITS_LEAST) {
    process_say(message, "memory_limit must be at least %llu bytes", (unsigned long long)LIMITS_LEAST);
    return CHALK_EINVALID;
  }
  return CHALK_OK;
}

int chalk_segment_configure(chalk_segment *g, const chalk_options *o, char *message) {
  int rc = limits_check(o, message);
  if (rc == CHALK_OK && o->max_series > g->capacity / 2) {
    process_say(message,
                "max_series can be at most %u in this segment; a higher one has to be set when the segment is created",
                g->capacity / 2);
    rc = CHALK_EINVALID;
  }
  uint64_t heap = g->size - g->heap;
  if (rc == CHALK_OK && o->memory_limit > heap) {
    process_say(
        message,
        "memory_limit can be at most %llu in this segment; a higher one has to be set when the segment is created",
        (unsigned long long)heap);
    rc = CHALK_EINVALID;
  }
  if (rc != CHALK_OK) return rc;
  bool more =
      o->max_series > atomic_load(&g->head->max_series) || o->memory_limit > atomic_load(&g->head->memory_limit);
  limits_set(g, o);
  if (more) segment_epoch_move(g); /* so that handles on overflow series look for their own series again */
  return CHALK_OK;
}
