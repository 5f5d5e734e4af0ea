/*
 * One death, in a small segment with three parties. The survivor, the process of the case, sets up and checks. A
 * bystander process records all the time. The victim does what the path says until it dies. Each case has a process of
 * its own, so a hang or a crash costs one case.
 */
#ifndef BED_H
#define BED_H

#include "consistent.h"
#include "shm/segment.h"

/* What the parties tell each other, in memory outside of the segment that no death damages. */
typedef struct notes {
  shared_u64 counted;     /* records of the bystander, as many in count as in latency */
  shared_u64 begun, done; /* records of the victim, in count and latency together */
  shared_u64 sent[2];     /* what a receiver got of count, and of latency */
  shared_u64 batch;       /* the largest batch, which may have been sent twice */
  shared_u32 finished;    /* the victim did the path to its end */
  shared_u32 stores;      /* of the path, if it was done to its end */
  shared_u32 lost;        /* bytes of the heap that no structure refers to at the end */
  char wrong[512];
} notes;

typedef struct bed {
  chalk_segment *segment;
  chalk_writer *writer;           /* each process has its own slot */
  int count, latency, load, last; /* metrics: a count, a histogram, a `sum` gauge, a `last` gauge */
  int64_t counts, latencies;      /* records of other processes than victim and bystander, without dropped series */
  chalk_series *series[4];        /* of the path: its first steps pass them on to the later ones */
  int go[2], answer[2];
  double now; /* the time of the next sweep */
  notes *notes;
} bed;

typedef struct path {
  const char *name;
  void (*prepare)(bed *b); /* the survivor, before it forks the victim; may be NULL */
  void (*ready)(bed *b);   /* the victim, before it is armed; may be NULL */
  void (*act)(bed *b);     /* the victim, armed */
  void (*tidy)(bed *b);    /* the survivor, after the death; may be NULL */
  void (*check)(bed *b);   /* the survivor, after the general checks; may be NULL */
  uint32_t buckets;        /* max_buckets, 0: 512 */
  uint32_t least;          /* the fewest stores that the runtime has to see */
  bool bare;               /* the victim takes its slot on the path */
  bool sends;              /* the path sends with a cursor, so what was sent has to equal what was counted */
} path;

/*
 * Runs the path with a victim that dies before its n-th store, or with `after` behind it. Fills in *notes. False: the
 * death did harm, and notes->wrong says which.
 */
bool bed_run(const path *p, unsigned long n, bool after, notes *notes);

/* For paths. A condition that does not hold ends the case. */
#define EXPECT(condition)                                                       \
  do {                                                                          \
    if (!(condition)) bed_fail(b, "%s:%d: %s", __FILE__, __LINE__, #condition); \
  } while (0)
void bed_fail(bed *b, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));
chalk_series *bed_bind(bed *b, int metric, const char *value);
int bed_define(bed *b, const char *name, uint32_t kind, uint32_t across, const char *blob);
/* Records of the victim, which the notes count. */
void bed_add(bed *b, chalk_series *s);
void bed_record(bed *b, chalk_series *s, double v);
/* The survivor and the bystander note that they have seen all drops. */
void bed_tick(bed *b);
/* Takes the flusher's role, sweeps, and gives the role back. */
void bed_sweep(bed *b, double idle);
/* The total of a count or a histogram over all of its series. */
int64_t bed_total(bed *b, int metric);

/* What an exporter sends from, as the holder: a cursor, and a snapshot with its entries. */
typedef struct sending {
  chalk_cursor *cursor;
  chalk_snapshot *snapshot;
  const chalk_entry *entries;
  uint32_t n;
} sending;

/* Takes the flusher's role, the cursor of that name and a snapshot. bed_end_sending gives all back. */
sending bed_begin_sending(bed *b, const char *name, bool fresh);
void bed_end_sending(bed *b, const sending *t);
/* A flush with a cursor: takes a snapshot, sends and commits each entry. */
void bed_send(bed *b, const char *name, bool fresh);

#endif
