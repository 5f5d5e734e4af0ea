/*
 * What a segment should hold, in the simplest form: for each metric and tag a `content` with sums and lists of values.
 * FOLDED is the index of what a metric's overflow series should hold.
 */
#ifndef FUZZ_MODEL_H
#define FUZZ_MODEL_H

#include <stdbool.h>

#include "kit.h"
#include "series/number.h"

enum { TAGS = 6, FOLDED = TAGS, CONTENTS, SLOTS = 8, VMS = 8, VALUES = 96, TRACKED = 3 };

/* The value that one VM set, of a gauge that is combined across VMs. */
typedef struct own_value {
  double value;
  bool set;
} own_value;

/* What one series should hold. */
typedef struct content {
  int64_t count;   /* of a count */
  int64_t residue; /* of a count: what may have come from a dropped series */
  double value;    /* of a gauge */
  bool set, touched;
  double values[VALUES]; /* of a histogram; if there are more, only their number is checked */
  uint32_t n;
  bool lossy; /* the sketch may lack values */
  own_value by_vm[VMS];
} content;

typedef struct tracked {
  chalk_cursor *cursor;
  int64_t base[KINDS]; /* the total that it started at */
  int64_t sent[KINDS];
} tracked;

typedef struct model {
  chalk_segment *g;
  const chalk_writer *vms[VMS]; /* those that are open; NULL: a free index */
  content contents[KINDS][CONTENTS];
  int64_t added[KINDS];   /* by sort: all that was ever recorded */
  int64_t dropped[KINDS]; /* what was in series when they were dropped */
  tracked cursors[TRACKED];
  bool starved; /* memory was short at some time, so a residue may be lost */
  bool late;    /* a store into a dropped series came late */
  bool coarse;  /* the limits of sketches were changed */
} model;

extern const char *const model_tags[TAGS];

void model_new(model *m, chalk_segment *g);
/* Adds a VM, which has set no gauge yet. */
void model_open(model *m, const chalk_writer *w);
void model_close(model *m, const chalk_writer *w);
/* The index of an open VM; of NULL: a free index. VMS: there is none. */
int model_vm(const model *m, const chalk_writer *w);
/* What the series should hold into which a handle recorded last. */
content *model_content(model *m, int sort, const chalk_series *s, int tag);
/* The live series of a metric and tag; NONE if there is none. */
uint32_t model_find(const model *m, int sort, int tag);
uint32_t model_live(const model *m);
/* The total of all live series of a metric, with the overflow series. */
int64_t model_total(const model *m, int sort);
/* Compares everything in the segment with the model. */
void model_check(model *m);
/* Compares a sketch with the values that were added to it. */
void model_check_sketch(const chalk_sketch *k, const double *values, uint32_t n);

/* Called before and after a step that may drop series: notes what they hold, then finds those that were dropped. */
void model_before(model *m);
void model_after(model *m, bool idle_only);
/* Checks that what a cursor has sent and still owes is what was recorded since it was opened. */
void model_check_cursor(model *m, tracked *c, chalk_snapshot *s);
/* The sums of what a cursor would send now, by sort. */
void model_deltas(model *m, tracked *c, chalk_snapshot *s, int64_t *deltas);

/* Whether the number is still that of this series, and the series is live. */
static inline bool model_has(const chalk_segment *g, uint32_t id, uint32_t generation) {
  const series *s = &g->series[id];
  return series_state(s) == SERIES_LIVE && atomic_load((shared_u32 *)&s->generation) == generation;
}

#endif
