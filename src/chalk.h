/*
 * chalk: metrics for LuaJIT programs, the C core.
 *
 * A *segment* is shared memory that holds metric definitions, series and their values. A *writer* is one VM's (or one
 * C thread's) slot in it. A *series* is a metric with one combination of tag values; a chalk_series is a writer's
 * handle on it, through which it records.
 *
 * The part between the two marker lines is what Lua's ffi.cdef loads, verbatim but for one thing: an array written
 * [/ * ? * /] (without blanks) is variable-length there.
 *
 * A C host records like this:
 *
 *     char message[CHALK_MESSAGE];
 *     chalk_segment *segment = chalk_segment_open("chalk", NULL, message);   // the one the Lua side uses
 *     chalk_writer *writer = chalk_writer_open(segment, message);
 *
 *     // A metric that Lua has defined, with values of its tags in their order.
 *     int requests = chalk_find(writer, "http.request_count", message);
 *     const char *values[] = {"/api", "success"};
 *     size_t sizes[] = {4, 7};
 *     chalk_series *ok = chalk_series_new(writer, requests, values, sizes);
 *     chalk_add(ok, 1);
 *
 *     // A metric of the host's own, which exporters show with Lua's.
 *     chalk_definition own = {.name = "host.sessions", .name_size = 13, .kind = CHALK_COUNT};
 *     own.shape = "peer\0side", own.shape_size = 9, own.tags = 2;
 *     int sessions = chalk_define(writer, &own, message);
 *     const char *peer[] = {"10.0.0.1", "left"};
 *     size_t peer_sizes[] = {8, 4};
 *     chalk_series *session = chalk_series_new(writer, sessions, peer, peer_sizes);
 *     chalk_add(session, 1);
 *
 * Unless said otherwise functions return 0 (or a pointer) on success, a negative code (or NULL) on failure, and write
 * a sentence of at most CHALK_MESSAGE bytes to `message` where they take one. None of them aborts.
 */
#ifndef CHALK_H
#define CHALK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CHALK_ABI 3
#pragma GCC visibility push(default)

/* ffi: begin */

enum {
  CHALK_MESSAGE = 256, /* room for an error message */
  CHALK_TAGS = 32,     /* most tags of a metric */
  CHALK_LES = 64,      /* most `le` bounds of a histogram */
  CHALK_NONE = -1,     /* as max_series: neither limited nor counted, and out of the event tap */
  CHALK_VALUE = 512    /* longest tag value in bytes; what is longer is cut and gets a hash appended */
};
enum { CHALK_COUNT = 1, CHALK_GAUGE = 2, CHALK_HISTOGRAM = 3 };
enum { CHALK_LAST = 0, CHALK_SUM = 1, CHALK_MIN = 2, CHALK_MAX = 3 }; /* how processes combine in a gauge */

/* Codes that functions return. */
enum {
  CHALK_OK = 0,
  CHALK_REBOUND = 2,   /* recorded, but the handle had to be bound anew: series were dropped, or a process forked */
  CHALK_FOLDED = 1,    /* bound to the overflow series: a limit was reached */
  CHALK_EMEMORY = -1,  /* the segment is full, or its file system */
  CHALK_ENUMBER = -2,  /* not a number this kind of metric takes; nothing was recorded */
  CHALK_EVERB = -6,    /* the metric is of another kind */
  CHALK_EGONE = -3,    /* the metric's definition has left: define it again */
  CHALK_EINVALID = -4, /* an argument out of its range */
  CHALK_ECLOSED = -5   /* the writer was closed */
};

typedef struct chalk_segment chalk_segment;
typedef struct chalk_writer chalk_writer;
typedef struct chalk_snapshot chalk_snapshot;
typedef struct chalk_sketch chalk_sketch;
typedef struct chalk_cursor chalk_cursor;
typedef struct chalk_thread chalk_thread;
typedef struct chalk_tap chalk_tap;

/*
 * A handle on a series. To add n to a count without a call, do what the Lua accessors do, in this order: read `epoch`,
 * then the pointers; if *shared + *own equals the epoch read, `*cell += n` (a plain aligned double), else call
 * chalk_add. Gauges and histograms are recorded by calls only: a compiler may leave out a store of the value that it
 * stored there last, though another process has stored a different one since.
 */
typedef struct chalk_series {
  double epoch;         /* *shared + *own when it was bound; NaN: always call */
  const double *shared; /* the segment's epoch: moves when series were dropped */
  const double *own;    /* this process's part: moves at a fork */
  double *cell;         /* where to record; a count's cell, a gauge's value */
  chalk_writer *writer;
  void *histogram; /* its block, and what recording into it needs */
  const void *plan;
  double bound;    /* as epoch, also while the event tap is on and that is NaN */
  uint32_t kind;   /* CHALK_COUNT ... */
  uint32_t client; /* free for the host: Lua keeps its client's number here */
  uint32_t metric;
  uint32_t series;
  uint32_t generation;
  uint32_t key_size;
  char key[/*?*/]; /* the normalised tag values, two bytes of length before each */
} chalk_series;

typedef struct chalk_options {
  const char *path;       /* a file to share between unrelated processes; NULL: anonymous memory */
  uint64_t memory_limit;  /* bytes the segment may ever take; 0: 1 GiB, or half of its control group's */
  uint32_t max_series;    /* most series; 0: 100,000 */
  uint32_t max_buckets;   /* of a sketch, 8 to 8192; 0: 512 */
  double initial_error;   /* of a sketch, 0.0001 to 0.5; 0: 0.001 */
  uint32_t segment_group; /* 1: the file at `path` may be one that members of its group can write to, too */
} chalk_options;

typedef struct chalk_definition {
  const char *name;  /* what identifies the metric, such as "http.request_count" */
  const char *shape; /* what its series depend on: the tags' names, a NUL between them; with them the metric changes */
  const char *blob;  /* the whole definition in Lua's form, which may change while the metric stays; NULL: see below */
  size_t name_size, shape_size, blob_size;
  const double *le; /* strictly increasing, finite */
  uint32_t kind;
  uint32_t across;
  uint32_t tags;
  uint32_t les;
  uint32_t max_series; /* 0: only the segment's limit; CHALK_NONE: none at all, and not counted against it */
} chalk_definition;

typedef struct chalk_info {
  double epoch;
  double heartbeat; /* chalk_now() when the holder's loop last turned; 0: never */
  double flushed;   /* chalk_now() at the end of the last flush; 0: never */
  uint64_t memory;  /* bytes made real */
  uint64_t memory_limit;
  uint64_t requested; /* flushes asked for and done, as tickets */
  uint64_t done;
  uint64_t folded;      /* lookups that ended in an overflow series */
  uint32_t series;      /* live ones, overflow series left out */
  uint32_t quarantined; /* dropped, their cells not yet reusable */
  uint32_t max_series;
  uint32_t capacity;
  uint32_t metrics;
  uint32_t writers;    /* slots in use */
  uint32_t generation; /* of the configuration: how often init ran */
  uint32_t holder;     /* process id of the flusher; 0: none */
} chalk_info;

/* The library and time. */
int chalk_abi(void);
double chalk_now(void);       /* monotonic seconds, the same clock in all processes */
double chalk_wall(void);      /* seconds since 1970 */
uint32_t chalk_process(void); /* this process's id */

/*
 * Segments. `name` finds the segment this process opened before under that name (a new VM continues the counts);
 * NULL makes a private one. Options matter only to the one that creates it. Where only a smaller one than asked for can
 * be had, it is given, and `message` says so; else it is left empty.
 */
chalk_segment *chalk_segment_open(const char *name, const chalk_options *options, char *message);
void chalk_segment_close(chalk_segment *segment);
/* Closes one through which nothing was recorded; a named one at a path does not stay, so that another may have the name. */
void chalk_segment_abandon(chalk_segment *segment);
void chalk_segment_info(chalk_segment *segment, chalk_info *info);
/* Changes limits of a segment in use; existing sketches keep their scale. Zero leaves a limit as it is. */
int chalk_segment_configure(chalk_segment *segment, const chalk_options *options, char *message);

/* Writers: one for each VM or thread; never used by two at a time. A child of fork() takes its own by itself. */
chalk_writer *chalk_writer_open(chalk_segment *segment, char *message);
void chalk_writer_close(chalk_writer *writer);
/* Says that no record is under way in this VM, so that cells of dropped series may be reused. */
void chalk_writer_tick(chalk_writer *writer);
/* The slot's number; 0 is the one that several VMs share, each until another one is free. */
uint32_t chalk_writer_slot(const chalk_writer *writer);

/*
 * Makes a metric known, or finds it: name, kind, shape and bounds the same. A newer definition of a name supersedes the
 * older, which leaves when no live writer has it. Returns the metric's number, or a negative code. Without a blob the
 * metric is shown by its name, namespaces before it with a dot each, and its tags; a blob that is there stays, and a
 * definition with a blob, in use and not the same, is not superseded: CHALK_EINVALID.
 */
int chalk_define(chalk_writer *writer, const chalk_definition *definition, char *message);
/* The definition of a name that is in force, whoever made it; its number, or CHALK_EGONE: there is none. */
int chalk_find(chalk_writer *writer, const char *name, char *message);
/* The writer no longer has this metric. */
void chalk_undefine(chalk_writer *writer, uint32_t metric);
/* Likewise; and if the writer made it and nobody else has it, the metric leaves, whatever was recorded. */
void chalk_take_back(chalk_writer *writer, uint32_t metric);
/* Copies a metric's blob to `out`, if `size` is room enough; how much that takes, 0 if there is none of that number. */
size_t chalk_metric_blob(chalk_segment *segment, uint32_t metric, char *out, size_t size);
/* The `le` bounds of a metric, to `bounds` (room for CHALK_LES); how many. */
uint32_t chalk_metric_les(chalk_segment *segment, uint32_t metric, double *bounds);
/* How many metric numbers were ever in use. */
uint32_t chalk_metric_top(chalk_segment *segment);
/* Whether its series are shown: not while a newer definition of its name is of another kind. */
int chalk_metric_shown(chalk_segment *segment, uint32_t metric);
/* Lookups that were folded since the last call of this function (for one warning a flush). */
uint64_t chalk_metric_folded(chalk_segment *segment, uint32_t metric);

/*
 * Finds or creates the series with these tag values (a length of 0: absent) and binds the writer's scratch series to
 * it, which the caller copies: offsetof(chalk_series, key) + key_size bytes. CHALK_OK, CHALK_FOLDED or a code.
 */
int chalk_bind(chalk_writer *writer, uint32_t metric, const char *const *values, const size_t *sizes);
chalk_series *chalk_scratch(chalk_writer *writer);
/* 1: the values last given to chalk_bind were stored as they are, neither repaired nor cut. */
int chalk_bound_as_given(const chalk_writer *writer);
/* The same for C hosts, into memory of its own (free with free()). */
chalk_series *chalk_series_new(chalk_writer *writer, uint32_t metric, const char *const *values, const size_t *sizes);

/* Recording, in whatever state the handle is: it is bound anew where needed. CHALK_OK, CHALK_REBOUND or a code. */
int chalk_add(chalk_series *series, double n);    /* count: a whole number from 0 to 2^53; gauge: any */
int chalk_set(chalk_series *series, double v);    /* gauge */
int chalk_record(chalk_series *series, double v); /* histogram: finite */
int chalk_rebind(chalk_series *series);

/* Reading back one series over all writers. */
double chalk_value(chalk_series *series);
chalk_sketch *chalk_series_sketch(chalk_series *series);

/*
 * Drops one series, or all of a metric; their handles bind anew, to successors, when next used. Returns how many were
 * dropped, or CHALK_EGONE.
 */
int chalk_remove(chalk_writer *writer, uint32_t metric, const char *const *values, const size_t *sizes);
int chalk_clear(chalk_writer *writer, uint32_t metric);

/* Sketches: private copies, freed by the caller. Quantiles are NaN when the sketch is empty. */
typedef struct chalk_bucket {
  double lower, upper; /* (lower, upper]; below zero [lower, upper) */
  uint64_t count;
} chalk_bucket;
chalk_sketch *chalk_sketch_new(double initial_error, uint32_t max_buckets);
void chalk_sketch_free(chalk_sketch *sketch);
int chalk_sketch_add(chalk_sketch *sketch, double v, uint64_t count);
/* CHALK_EMEMORY also where one of them is NULL, since it found no memory. */
int chalk_sketch_merge(chalk_sketch *into, const chalk_sketch *from);
uint64_t chalk_sketch_count(const chalk_sketch *sketch);
double chalk_sketch_sum(const chalk_sketch *sketch);
double chalk_sketch_min(const chalk_sketch *sketch);
double chalk_sketch_max(const chalk_sketch *sketch);
double chalk_sketch_error(const chalk_sketch *sketch);
int chalk_sketch_scale(const chalk_sketch *sketch);
/* The value of rank floor(q * (count - 1)), 0 <= q <= 1, within chalk_sketch_error of the true one. */
double chalk_sketch_quantile(const chalk_sketch *sketch, double q);
/* The i-th non-empty bucket in increasing order; 0 when there is none. */
int chalk_sketch_bucket(const chalk_sketch *sketch, uint32_t i, chalk_bucket *bucket);

/*
 * Snapshots: what all series stood at, a family at a time, in the order of their creation.
 * `what`: also those dropped series that a cursor may not have sent yet; also gauges that were never set, as 0.
 */
enum { CHALK_DROPPED = 1, CHALK_UNSET = 2 };
typedef struct chalk_entry {
  uint32_t series;
  uint32_t generation;
  uint32_t metric;
  uint32_t dropped;
  union {
    int64_t total; /* count; histogram: the number of values recorded */
    double value;  /* gauge */
  };
} chalk_entry;
chalk_snapshot *chalk_snapshot_take(chalk_segment *segment, int what, char *message);
void chalk_snapshot_free(chalk_snapshot *snapshot);
const chalk_entry *chalk_snapshot_entries(const chalk_snapshot *snapshot, uint32_t *count);
/* The entry's tag values: encoded as in chalk_series, copied to `out` (room for `size`); the length, 0 if it is gone. */
size_t chalk_snapshot_key(chalk_snapshot *snapshot, uint32_t i, char *out, size_t size);
/* The sketch of a histogram entry, all time. Belongs to the snapshot. NULL: out of memory. */
const chalk_sketch *chalk_snapshot_sketch(chalk_snapshot *snapshot, uint32_t i);
/* The cumulative counts of the entry's `le` bounds, +Inf last; returns how many, at most CHALK_LES + 1. */
uint32_t chalk_snapshot_les(chalk_snapshot *snapshot, uint32_t i, double *bounds, uint64_t *counts);

/*
 * Renders the sample lines of one metric's entries, from entry *next on, into `out` until the next entry might not fit
 * or `last` is reached; advances *next; returns the bytes written. 0 with *next before `last`: one entry alone needs
 * more room. The caller gives every name.
 */
typedef struct chalk_family {
  const char *sample; /* of a count or gauge */
  const char *bucket; /* of a histogram: three names */
  const char *sum;    /* NULL: leave out both sum and count */
  const char *count;
  const char *constant;      /* labels on every line, formatted: env="prod" */
  const char *const *labels; /* a name for each tag */
  const char *const *le;     /* texts of the bounds to show, without +Inf */
  const uint32_t *le_index;  /* and their places among the metric's own */
  uint32_t n_labels;
  uint32_t n_le;
} chalk_family;
size_t chalk_snapshot_render(chalk_snapshot *snapshot, const chalk_family *family, uint32_t *next, uint32_t last,
                             char *out, size_t size);

/* Text of numbers, at most 32 bytes, not terminated: shortest that reads back; canonical `le`. Returns the length. */
size_t chalk_text_double(char *out, double v);
size_t chalk_text_bound(char *out, double v);

/* Flushing: exactly one holder of a segment flushes. */
int chalk_hold(chalk_segment *segment, uint32_t generation);       /* 1: holds now; 0: another does, or is to */
int chalk_is_claimed(chalk_segment *segment, uint32_t generation); /* 1: a newer configuration asked for the role */
void chalk_leave(chalk_segment *segment); /* the holder's next flush is its last: those who end meanwhile flush too */
void chalk_release(chalk_segment *segment);
void chalk_heartbeat(chalk_segment *segment);
uint32_t chalk_generation(chalk_segment *segment, int raise);
void chalk_generation_reach(chalk_segment *segment, uint32_t generation); /* raises it to this, if it is lower */
uint64_t chalk_flush_request(chalk_segment *segment);                     /* a ticket */
void chalk_flush_done(chalk_segment *segment, uint64_t ticket);           /* all flushes up to it */
int chalk_flush_wait(chalk_segment *segment, uint64_t ticket, double timeout);
/*
 * Drops what was idle (seconds for counts, gauges and histograms; 0: never), lets definitions leave and makes cells
 * of dropped series reusable. Only the holder, between flushes, with a snapshot just taken. Returns the drops.
 */
int chalk_sweep(chalk_snapshot *snapshot, double now, const double *idle);

/* Cursors: what an exporter has sent. Only the holder. `fresh`: starts at zero, else a new one at the totals now. */
chalk_cursor *chalk_cursor_open(chalk_segment *segment, const char *name, int fresh, double now, char *message);
void chalk_cursor_close(chalk_cursor *cursor);
/* Says that its exporter still exists. A cursor that nobody touches or commits for a day is freed by a sweep. */
void chalk_cursor_touch(chalk_cursor *cursor, double now);
int chalk_cursors_ever(chalk_segment *segment);
/* What came since: of a count entry; of a histogram entry as a sketch that the caller frees. No cursor: all of it. */
int64_t chalk_cursor_delta(chalk_cursor *cursor, chalk_snapshot *snapshot, uint32_t i);
chalk_sketch *chalk_cursor_delta_sketch(chalk_cursor *cursor, chalk_snapshot *snapshot, uint32_t i);
/* Marks entries first to last - 1 as sent. */
int chalk_cursor_commit(chalk_cursor *cursor, chalk_snapshot *snapshot, uint32_t first, uint32_t last, double now);

/* The cumulative counts of a histogram entry's `le` bounds that came since, +Inf last; how many, 0 without memory. */
uint32_t chalk_cursor_delta_les(chalk_cursor *cursor, chalk_snapshot *snapshot, uint32_t i, uint64_t *counts);

/*
 * The event tap: each record as it happens. Where it is on, a record costs a call, and behind it an event is stored
 * into a ring of the writer's; a ring that is full drops what comes. Kinds are 1 << CHALK_COUNT ...; a ring has room
 * for at least so many events. Switching is the holder's; `widen` (by anybody) only adds to what is on.
 */
enum {
  CHALK_EVENT_INC = 1, /* count: by a whole number */
  CHALK_EVENT_SET = 2, /* gauge: to, or by */
  CHALK_EVENT_UP = 3,
  CHALK_EVENT_DOWN = 4,
  CHALK_EVENT_RECORD = 5 /* histogram */
};
enum { CHALK_TAP_LEAST = 8192, CHALK_TAP_MOST = 1048576, CHALK_TAP_BATCH = 4096 };
typedef struct chalk_event {
  uint32_t series;
  uint32_t generation;
  uint32_t metric;
  uint32_t verb; /* CHALK_EVENT_... */
  double value;
  uint64_t time; /* nanoseconds since 1970 */
} chalk_event;
void chalk_tap_switch(chalk_segment *segment, uint32_t kinds, uint32_t events, int widen);
uint32_t chalk_tap_kinds(chalk_segment *segment);
uint32_t chalk_tap_passes(chalk_segment *segment); /* how often the rings were read */
/* The reader's side: only the holder, one at a time. `keep`: with what is in the rings already. */
chalk_tap *chalk_tap_open(chalk_segment *segment, int keep, char *message);
void chalk_tap_close(chalk_tap *tap);
/*
 * Takes the next events out of the rings, at most CHALK_TAP_BATCH, in order of time; how many. 0: that was all there
 * was when this pass began.
 */
uint32_t chalk_tap_read(chalk_tap *tap);
const chalk_event *chalk_tap_events(const chalk_tap *tap);
/* Events that found their ring full, since the last call. */
uint64_t chalk_tap_dropped(chalk_tap *tap);

/*
 * The event stream: events as messages of protobuf to clients over stream sockets, see stream.c. Nothing waits: a
 * client that does not read falls behind, and of all that it lacks the oldest goes, but for `most` messages (0: as many
 * as there are). A metric is told of before its first event.
 */
typedef struct chalk_stream chalk_stream;
typedef struct chalk_stream_metric {
  const char *name, *unit, *description;
  const char *const *labels;    /* a name for each tag */
  const char *const *constants; /* labels of all: names and values by turns */
  uint32_t kind, n_labels, n_constants;
} chalk_stream_metric;
chalk_stream *chalk_stream_new(chalk_segment *segment, uint32_t most, int listener); /* which is closed with it */
void chalk_stream_free(chalk_stream *stream);
int chalk_stream_define(chalk_stream *stream, uint32_t metric, const chalk_stream_metric *definition);
int chalk_stream_knows(const chalk_stream *stream, uint32_t metric); /* 1: it is defined, and no other since */
/*
 * Takes the n events that were read last, and sends them. A metric's number: it has to be defined, or its event passed
 * over, and the call made again; -1: that was all.
 */
int chalk_stream_take(chalk_stream *stream, const chalk_tap *tap, uint32_t n);
void chalk_stream_pass_over(chalk_stream *stream);
void chalk_stream_send(chalk_stream *stream);  /* what clients lack and their sockets take */
int chalk_stream_accept(chalk_stream *stream); /* a client's number; else a negative errno */
void chalk_stream_close(chalk_stream *stream, uint32_t client);
/* How many there are, without those who have gone. None: memory is given back. */
uint32_t chalk_stream_clients(chalk_stream *stream);
/* Events since the last call that clients lost, or else that were of nobody any more. */
uint64_t chalk_stream_dropped(chalk_stream *stream, int by_clients);

/*
 * StatsD: lines of what came since (without a cursor: of all), packed into packets of at most a size. Fill one family
 * after the other; 1: the packet is full, to be sent before going on from *next, where an entry may be under way. What
 * was sent is for the caller to commit: entries that were whole, and of one that goes on what chalk_statsd_commit marks.
 * Gauges are noted as sent when they are packed; after a failure, forget. The core writes the format; every name, limit
 * and choice is the caller's, in the family.
 */
enum { CHALK_STATSD_VALUES, CHALK_STATSD_PERCENTILES, CHALK_STATSD_BUCKETS, CHALK_STATSD_RAW };
/* What of a histogram is a gauge of its own in the mode of percentiles. */
enum {
  CHALK_STATSD_COUNT,
  CHALK_STATSD_SUM,
  CHALK_STATSD_AVG,
  CHALK_STATSD_MIN,
  CHALK_STATSD_MAX,
  CHALK_STATSD_QUANTILE
};
typedef struct chalk_statsd_gauge {
  const char *suffix; /* of the metric's name: ".count", ".p50" */
  double quantile;    /* from 0 to 1, of CHALK_STATSD_QUANTILE */
  uint32_t size;      /* of the suffix */
  uint32_t what;      /* CHALK_STATSD_COUNT ... */
} chalk_statsd_gauge;
enum { CHALK_STATSD_WEIGHT = 1000000 }; /* most that a line may stand for */
typedef struct chalk_statsd chalk_statsd;
typedef struct chalk_statsd_family {
  const char *name;                 /* all names and constant tags are safe text, ended with NUL */
  const char *const *labels;        /* a key for each tag */
  const uint32_t *value_most;       /* characters that a value of each may have; what is longer is cut; 9 at least */
  const char *absent;               /* in a name, what stands for a value that is empty: "none" */
  const char *tags;                 /* constant tags, "env:prod,team:a" */
  const char *tail;                 /* behind the tags of every line: "|c:ci-12" */
  const char *timestamp;            /* behind that on counts and gauges: "|T1700000000" */
  const char *type;                 /* of a histogram's values: "d", "h", "ms" */
  const chalk_statsd_gauge *gauges; /* of percentiles, in the order of their lines */
  const char *const *le_tags;       /* of the bounds to send, +Inf too: "le:0.5" */
  const char *const *le_suffixes;   /* the same for names: ".le_0_5" */
  const uint32_t *le_index;         /* and their places */
  double factor;                    /* of a histogram's values */
  uint64_t max_weight;              /* most that a value may stand for */
  uint32_t n_labels, n_gauges, n_le;
  uint32_t mode;         /* of histograms: CHALK_STATSD_VALUES ... */
  uint32_t pack;         /* several values in a line */
  uint32_t fold;         /* tag values into the name, no tags */
  uint32_t relative;     /* a gauge below zero needs a zero before it */
  uint32_t changed_only; /* gauges that were not sent like this before */
} chalk_statsd_family;
typedef struct chalk_statsd_totals {
  uint64_t metrics, lines, too_long;
} chalk_statsd_totals;
chalk_statsd *chalk_statsd_new(uint32_t max_packet);
void chalk_statsd_free(chalk_statsd *statsd);
int chalk_statsd_fill(chalk_statsd *statsd, const chalk_statsd_family *family, chalk_cursor *cursor,
                      chalk_snapshot *snapshot, uint32_t *next, uint32_t last);
const char *chalk_statsd_packet(chalk_statsd *statsd, uint32_t *size);
void chalk_statsd_begin(chalk_statsd *statsd); /* an empty packet; the entry under way goes on in it */
/* Marks as sent what of an entry that is still under way was in the packet before this one. */
int chalk_statsd_commit(chalk_statsd *statsd, chalk_cursor *cursor, chalk_snapshot *snapshot, double now);
void chalk_statsd_forget(chalk_statsd *statsd); /* as new: no packet, no entry, no gauge sent */
void chalk_statsd_count(const chalk_statsd *statsd, chalk_statsd_totals *totals);
/* The sample rate by which a value counts `n` times, as text; room for 24 bytes. */
size_t chalk_statsd_rate(char *out, uint64_t n);

/*
 * StatsD lines of single values, from the event tap: a queue of packets with room for so many values. What histograms
 * in the mode CHALK_STATSD_RAW recorded; a value is sent with the probability `rate`. A metric's family has to outlive
 * the queue; NULL: it is not sent so.
 */
typedef struct chalk_statsd_raw chalk_statsd_raw;
typedef struct chalk_statsd_raw_totals {
  uint64_t values, dropped, too_long;
} chalk_statsd_raw_totals;
chalk_statsd_raw *chalk_statsd_raw_new(chalk_segment *segment, uint32_t max_packet, uint64_t most);
void chalk_statsd_raw_free(chalk_statsd_raw *raw);
int chalk_statsd_raw_define(chalk_statsd_raw *raw, uint32_t metric, const chalk_statsd_family *family, double rate);
/* As chalk_stream_take: a number of a metric that has to be defined first; -1: that was all. */
int chalk_statsd_raw_take(chalk_statsd_raw *raw, const chalk_tap *tap, uint32_t n);
/* How many packets wait to be sent; `partial`: also one that has room. The first of them. */
uint32_t chalk_statsd_raw_packets(const chalk_statsd_raw *raw, int partial);
const char *chalk_statsd_raw_packet(chalk_statsd_raw *raw, uint32_t *size);
void chalk_statsd_raw_next(chalk_statsd_raw *raw); /* it has arrived */
void chalk_statsd_raw_count(const chalk_statsd_raw *raw, chalk_statsd_raw_totals *totals);
int chalk_statsd_raw_long(chalk_statsd_raw *raw); /* a metric with a line too long; -1: no more */

/*
 * The flush thread: runs a chunk, with strings as its arguments, in a VM of its own. It is started once this
 * configuration can have the flusher's role of `segment`, if one is given; until then the thread waits, without a VM
 * and without a descriptor. The chunk may return a message: it has failed, and is tried again after a pause, as it is
 * when descriptors are lacking, until the thread is asked to stop. `lua` is what is needed of the Lua API.
 */
typedef struct chalk_lua {
  void *(*newstate)(void);
  void (*openlibs)(void *state);
  int (*loadbuffer)(void *state, const char *text, size_t size, const char *name);
  void (*pushlstring)(void *state, const char *text, size_t size);
  int (*pcall)(void *state, int arguments, int results, int handler);
  const char *(*tolstring)(void *state, int index, size_t *size);
  void (*close)(void *state);
} chalk_lua;
chalk_thread *chalk_thread_start(const chalk_lua *lua, const char *const *texts, const size_t *sizes, uint32_t n,
                                 chalk_segment *segment, uint32_t generation, char *message);
chalk_thread *chalk_thread_self(void);           /* in a flush thread: itself; else NULL */
int chalk_thread_fd(const chalk_thread *thread); /* readable when asked for something */
void chalk_thread_wake(chalk_thread *thread);
void chalk_thread_stop(chalk_thread *thread);    /* asks for a last flush and the end */
void chalk_thread_abandon(chalk_thread *thread); /* asks for the end of one whose chunk failed: it is not tried again */
int chalk_thread_stopping(const chalk_thread *thread);
void chalk_thread_drain(chalk_thread *thread);                      /* from the thread: takes what made fd readable */
void chalk_thread_ready(chalk_thread *thread, const char *message); /* from the thread: started, or why not */
int chalk_thread_wait_ready(chalk_thread *thread, double timeout, char *message);
int chalk_thread_wait(chalk_thread *thread, double timeout); /* 1: has ended */
void chalk_thread_free(chalk_thread *thread);                /* once it has ended */
/* 1: enough descriptors are free to load luv, which crashes over a loop that it could not make. */
int chalk_has_room(char *message);

/*
 * Opens a listening stream socket at "127.0.0.1:9464", "[::1]:9464", "localhost:0" or "unix:///path", and remembers it
 * for this client and address until chalk_unlisten. Where a path is taken, only a socket of this user's that nobody
 * listens at gives way. chalk_accept_fd gives a copy of its descriptor, for the caller to close; a negative code if
 * there is none, as in a forked child.
 */
int chalk_listen(const char *client, const char *address, char *message);
int chalk_accept_fd(const char *client, const char *address);
/* Lets other users connect to a unix socket of this user's, too. */
int chalk_listen_to_all(const char *address);
void chalk_unlisten(const char *client, const char *address);
/*
 * Says that the configuration which listens there is in force, as it is anyway once a child of the process has the
 * socket; or (0) that it never will be, and closes a socket that is still of none that is.
 */
void chalk_listen_settle(const char *client, const char *address, int in_force);
/* Shuts all of the client's sockets but these, here and in every process that has them. */
void chalk_listen_only(const char *client, const char *const *addresses, uint32_t n);

/*
 * For a server with worker processes. On: forked children, and a program that this one is replaced by, go on with the
 * named segments and the sockets that are open; what is opened from now on may have come so. Off: from this process on nothing is handed on, for good.
 */
void chalk_inherit(int on);
/* 1: it was switched off in this process or a parent of it, which is a worker. */
int chalk_is_worker(void);

/*
 * What the VMs of a server's first process settle before it forks: a text that all of them share who join under one
 * client's name in one `cycle`, which tells a configuration of the server from the next. It is NULL until one puts it,
 * good until another is put, and goes with the last of them to leave. A forked child goes on with a text of its own.
 */
typedef struct chalk_agreement chalk_agreement;
chalk_agreement *chalk_agreement_join(const char *client, uint64_t cycle); /* NULL: out of memory */
void chalk_agreement_leave(chalk_agreement *agreement);
const char *chalk_agreement_text(const chalk_agreement *agreement);
int chalk_agreement_put(chalk_agreement *agreement, const char *text);

/* ffi: end */

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
