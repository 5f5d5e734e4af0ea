/*
 * What a segment should stand at, kept beside it in the plainest form: lists of values, sums, one place for each metric
 * and tag. FOLDED is the place of what went to a metric's overflow series.
 */
#ifndef FUZZ_MODEL_H
#define FUZZ_MODEL_H

#include <stdbool.h>

#include "kit.h"
#include "series/number.h"

enum { TAGS = 6, FOLDED = TAGS, PLACES, SLOTS = 8, VMS = 8, VALUES = 96, TRACKED = 3 };

/* Of a gauge that is combined: one writer's. */
typedef struct own_value {
  double value;
  bool set;
} own_value;

typedef struct place {
  int64_t count;   /* of a count */
  int64_t residue; /* of a count: what may have come to it from a dropped one */
  double value;    /* of a gauge */
  bool set, touched;
  double values[VALUES]; /* of a histogram; so many are looked at */
  uint32_t n;
  bool lossy; /* the sketch had no room for some */
  own_value by_vm[VMS];
} place;

typedef struct tracked {
  chalk_cursor *cursor;
  int64_t base[KINDS]; /* the total that it started at */
  int64_t sent[KINDS];
} tracked;

typedef struct model {
  chalk_segment *g;
  const chalk_writer *vms[VMS]; /* those who live */
  place places[KINDS][PLACES];
  int64_t added[KINDS];   /* all that was ever recorded */
  int64_t dropped[KINDS]; /* what dropped series stood at */
  tracked cursors[TRACKED];
  bool starved; /* memory was short at some time: a residue may be lost */
  bool late;    /* something was recorded behind the segment's back */
  bool coarse;  /* the sketches' limits were changed */
} model;

extern const char *const model_tags[TAGS];

void model_new(model *m, chalk_segment *g);
/* A VM that has set no gauge yet. */
void model_open(model *m, const chalk_writer *w);
void model_close(model *m, const chalk_writer *w);
/* The number of a VM that lives; VMS: it does not. NULL: a number that is free. */
int model_vm(const model *m, const chalk_writer *w);
/* Where a handle's last record went. */
place *model_place(model *m, int sort, const chalk_series *s, int tag);
/* The live series of a metric and tag; NONE if there is none. */
uint32_t model_find(const model *m, int sort, int tag);
uint32_t model_live(const model *m);
/* All that is in the live series of a metric, overflow included. */
int64_t model_total(const model *m, int sort);
/* Everything of the segment against the model. */
void model_check(model *m);
/* A sketch against the values it was given. */
void model_check_sketch(const chalk_sketch *k, const double *values, uint32_t n);

/* Notes what all stands at, before something that may drop; then finds out what was dropped. */
void model_before(model *m);
void model_after(model *m, bool idle_only);
/* What a cursor has sent and has still to send is all there was since it began. */
void model_check_cursor(model *m, tracked *c, chalk_snapshot *s);
/* Sums of what a cursor would send now, by metric. */
void model_deltas(model *m, tracked *c, chalk_snapshot *s, int64_t *deltas);

/* Whether the number still is this series, alive. */
static inline bool model_has(const chalk_segment *g, uint32_t id, uint32_t generation) {
  const series *s = &g->series[id];
  return series_state(s) == SERIES_LIVE && atomic_load((shared_u32 *)&s->generation) == generation;
}

#endif
