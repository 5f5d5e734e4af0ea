/*
 * One death: a segment in small and three parties. The survivor (the process of the case) makes and checks, a bystander
 * process records all the time, and the victim does what the path says until it dies in it. Each case has a process of
 * its own, so that a hang or a crash costs one case.
 */
#ifndef BED_H
#define BED_H

#include "consistent.h"
#include "shm/segment.h"

/* What the parties tell each other: anonymous memory that no death takes away. */
typedef struct notes {
  shared_u64 counted;     /* by the bystander, in count and in latency each */
  shared_u64 begun, done; /* records of the victim: in count and latency, all together */
  shared_u64 sent[2];     /* what a receiver got of count and latency */
  shared_u64 batch;       /* the largest part of it that may have been sent twice */
  shared_u32 finished;    /* the path was done to its end */
  shared_u32 stores;      /* how many it took */
  shared_u32 lost;        /* bytes of the heap in the end */
  char wrong[512];
} notes;

typedef struct bed {
  chalk_segment *segment;
  chalk_writer *writer;           /* in each process its own slot */
  int count, latency, load, last; /* the metrics: a count, a histogram, a gauge by sum, a gauge by last value */
  int64_t counts, latencies;      /* what others than victim and bystander recorded and did not drop */
  chalk_series *series[4];        /* for the path, from `prepare` or `ready` to `act` and `check` */
  int go[2], answer[2];
  double now; /* what the next sweep takes for the time */
  notes *notes;
} bed;

typedef struct path {
  const char *name;
  void (*prepare)(bed *b); /* the survivor, before the victim is there; may be NULL */
  void (*ready)(bed *b);   /* the victim, before it is armed; may be NULL */
  void (*act)(bed *b);     /* the victim, armed */
  void (*settle)(bed *b);  /* the survivor, after the death; may be NULL */
  void (*check)(bed *b);   /* the survivor, after the general checks; may be NULL */
  uint32_t buckets;        /* max_buckets, 0: 512 */
  uint32_t least;          /* stores that the runtime has to see at least */
  bool bare;               /* the victim has no slot before */
  bool sends;              /* with a cursor: what was sent is to equal what was counted */
} path;

/* Runs the path with a victim that dies at its n-th store. Fills in b->notes; true: all as it should be. */
bool bed_run(const path *p, unsigned long n, bool after, notes *notes);

/* For paths. */
#define EXPECT(condition)                                                       \
  do {                                                                          \
    if (!(condition)) bed_fail(b, "%s:%d: %s", __FILE__, __LINE__, #condition); \
  } while (0)
void bed_fail(bed *b, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));
chalk_series *bed_bind(bed *b, int metric, const char *value);
int bed_define(bed *b, const char *name, uint32_t kind, uint32_t across, const char *blob);
/* Records of the victim, told in the notes. */
void bed_add(bed *b, chalk_series *s);
void bed_record(bed *b, chalk_series *s, double v);
/* Both the survivor and the bystander say that they have seen all drops. */
void bed_tick(bed *b);
/* One round of the holder's housekeeping, the role taken for it. */
void bed_sweep(bed *b, double idle);
/* The values of a metric over all series: count or histogram. */
int64_t bed_total(bed *b, int metric);

/* What an exporter sends from: as the holder, a cursor and a snapshot with its entries. */
typedef struct sending {
  chalk_cursor *c;
  chalk_snapshot *s;
  const chalk_entry *e;
  uint32_t n;
} sending;

/* Takes the role, the cursor of that name and a snapshot; end_sending gives all back. */
sending bed_begin_sending(bed *b, const char *name, bool fresh);
void bed_end_sending(bed *b, const sending *t);
/* What a flush with a cursor does: take, send, commit. */
void bed_send(bed *b, const char *name, bool fresh);

#endif
