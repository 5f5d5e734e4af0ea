/*
 * chalk: metrics for LuaJIT programs, the C core.
 *
 * A *segment* is shared memory that holds metric definitions, series and their values. A *slot* is
 * what a segment holds about one VM or C thread; a *writer* is its private side. A *series* is a metric with one combination of tag values. A `chalk_series` is
 * a writer's handle on a series; every record goes through a handle.
 *
 * Lua's ffi.cdef loads the text between the two marker lines. It is loaded as it stands, with one exception: an array
 * written [/ * ? * /] (without the blanks) becomes a variable-length array there.
 *
 * A C host records like this:
 *
 *     char message[CHALK_MESSAGE];
 *     chalk_segment *segment = chalk_segment_open("chalk", NULL, message);   // the segment that the Lua side uses
 *     chalk_writer *writer = chalk_writer_open(segment, message);
 *
 *     // A metric that Lua has defined, with a value for each of its tags, in their order.
 *     int requests = chalk_find(writer, "http.request_count", message);
 *     const char *values[] = {"/api", "success"};
 *     size_t sizes[] = {4, 7};
 *     chalk_series *ok = chalk_series_new(writer, requests, values, sizes);
 *     chalk_add(ok, 1);
 *
 *     // A metric that the host defines. Exporters show it together with Lua's metrics.
 *     chalk_definition own = {.name = "host.sessions", .name_size = 13, .kind = CHALK_COUNT};
 *     own.shape = "peer\0side", own.shape_size = 9, own.tags = 2;
 *     int sessions = chalk_define(writer, &own, message);
 *     const char *peer[] = {"10.0.0.1", "left"};
 *     size_t peer_sizes[] = {8, 4};
 *     chalk_series *session = chalk_series_new(writer, sessions, peer, peer_sizes);
 *     chalk_add(session, 1);
 *
 * Unless said otherwise, these rules hold for every function:
 *
 *   Results    A function that returns a code returns CHALK_OK (0) or a negative code. A function that returns a
 *              pointer returns NULL on failure. "CODE: reason" in a comment says when the function returns that code;
 *              a code without a reason means what its enumerator says. No function aborts the process.
 *   Messages   `message` points to CHALK_MESSAGE bytes, or is NULL. After a failure it holds one sentence, which ends
 *              with NUL.
 *   Pointers   A pointer argument is NULL only if the function's comment allows it. The core reads what it points to
 *              during the call only, and keeps copies. An object that has a _free or _close function belongs to the
 *              caller until the caller passes it to that function.
 *   Strings    A `const char *` without a size ends with NUL. One with a size may hold any bytes.
 *   Times      Times and timeouts are seconds, as doubles.
 *   Threads    Segments and all that belongs to the whole process (sockets, agreements, inheritance) may be used by
 *              all threads at once. Every other object is used by one thread at a time: a writer with all its series, a
 *              snapshot, a sketch, a cursor, a tap, a stream, a StatsD packer.
 *   Processes  A forked child may use the segments, writers and series of its parent: at the next record the writer
 *              takes a slot for the child. Snapshots and sketches are private memory, so the child has copies of them.
 *              Every other object is still the parent's alone.
 *   The holder Of all processes and threads that have a segment open, one holds the flusher's role: the thread in which
 *              chalk_hold returned 1. "Only the holder" marks a function that only this thread may call. A holder that
 *              was stopped (SIGSTOP, a debugger) and has lost the role meanwhile may still call the function, which
 *              then changes nothing.
 *   LuaJIT     No function calls back into the calling VM, so compiled code may call all of them. A function that
 *              waits for anything except a lock says so.
 */
#ifndef CHALK_H
#define CHALK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CHALK_ABI 4
#pragma GCC visibility push(default)

/* ffi: begin */

enum {
  CHALK_MESSAGE = 256, /* the size of the buffer for an error message, in bytes */
  CHALK_TAGS = 32,     /* the most tags of a metric */
  CHALK_LES = 64,      /* the most `le` bounds of a histogram, without +Inf */
  CHALK_NONE = -1,     /* as max_series: the metric's series are neither limited nor counted, nor in the event tap */
  CHALK_VALUE = 512    /* the longest tag value, in bytes; a longer one is cut and ends with a hash of the whole */
};
enum { CHALK_COUNT = 1, CHALK_GAUGE = 2, CHALK_HISTOGRAM = 3 };

/* How a gauge combines the values of several VMs: the value that was set last, or the sum, minimum or maximum. */
enum { CHALK_LAST = 0, CHALK_SUM = 1, CHALK_MIN = 2, CHALK_MAX = 3 };

/* The codes that functions return. Zero and above is success. */
enum {
  CHALK_OK = 0,
  CHALK_FOLDED = 1,    /* a limit was reached, so the handle is bound to the metric's overflow series */
  CHALK_REBOUND = 2,   /* recorded, after the handle was bound again: series were dropped, or the process forked */
  CHALK_EMEMORY = -1,  /* the segment, its file system or the process is out of memory */
  CHALK_ENUMBER = -2,  /* not a number that this kind of metric takes; nothing was recorded */
  CHALK_EGONE = -3,    /* the metric's definition has left the segment, and must be defined again */
  CHALK_EINVALID = -4, /* an argument is out of its range, or a condition outside of the program is not met */
  CHALK_ECLOSED = -5,  /* the writer was closed */
  CHALK_EVERB = -6     /* the metric is of another kind */
};

typedef struct chalk_segment chalk_segment;
typedef struct chalk_writer chalk_writer;
typedef struct chalk_snapshot chalk_snapshot;
typedef struct chalk_sketch chalk_sketch;
typedef struct chalk_cursor chalk_cursor;
typedef struct chalk_thread chalk_thread;
typedef struct chalk_tap chalk_tap;

/*
 * A handle on a series. To add n to a count without a call, do as the Lua accessors do, in this order: read `epoch`,
 * then the pointers; if *shared + *own equals the epoch that was read, do `*cell += n` (a plain aligned double),
 * otherwise call chalk_add. Gauges and histograms are recorded by calls only: a compiler may leave out a store of the
 * same value that it stored there last, although another process has stored a different value since.
 *
 * To copy a handle, copy offsetof(chalk_series, key) + key_size bytes. A handle may outlive its writer: records through
 * it then return CHALK_ECLOSED and store nothing.
 */
typedef struct chalk_series {
  double epoch;         /* *shared + *own when the handle was bound; NaN: every record has to be a call */
  const double *shared; /* the segment's part of the epoch: it moves when series are dropped */
  const double
      *own;     /* the writer's part of the epoch: it moves when all its handles have to bind again; NaN after a fork */
  double *cell; /* where to record: a count's cell, or a gauge's value */
  chalk_writer *writer;
  void *histogram;  /* a histogram's block; NULL for the other kinds */
  const void *plan; /* what recording into that block needs */
  double bound;     /* the same as `epoch`, but not NaN while the event tap is on */
  uint32_t kind;    /* CHALK_COUNT ... */
  uint32_t client;  /* free for the host: Lua keeps the number of its client here */
  uint32_t metric;
  uint32_t series;
  uint32_t generation;
  uint32_t key_size;
  char key[/*?*/]; /* the normalised tag values; two bytes (little-endian) before each value are its length */
} chalk_series;

typedef struct chalk_options {
  const char *path;       /* the file that unrelated processes share; NULL: anonymous memory */
  uint64_t memory_limit;  /* bytes, at least 4 MiB; 0: 1 GiB, or half of the control group's limit if that is less */
  uint32_t max_series;    /* 1 to 8,388,608; 0: 100,000 */
  uint32_t max_buckets;   /* of a sketch, 8 to 8192; 0: 512 */
  double initial_error;   /* of a sketch, relative, 0.0001 to 0.5; 0: 0.001 */
  uint32_t segment_group; /* 1: a file at `path` that members of its group can write to is accepted */
} chalk_options;

typedef struct chalk_definition {
  const char *name;  /* identifies the metric, such as "http.request_count"; at least one byte */
  const char *shape; /* the tags' names, with a NUL between them; a definition with other names is another metric */
  const char *blob;  /* the whole definition in Lua's form, which may change while the metric stays; NULL: none */
  size_t name_size, shape_size, blob_size; /* bytes */
  const double *le;    /* `les` finite bounds, each larger than the one before; NULL if there are none */
  uint32_t kind;       /* CHALK_COUNT ... */
  uint32_t across;     /* of a gauge: CHALK_LAST ...; of the other kinds: CHALK_LAST */
  uint32_t tags;       /* the number of tags, 0 to CHALK_TAGS */
  uint32_t les;        /* the number of bounds, 0 to CHALK_LES */
  uint32_t max_series; /* any number; 0: only the segment's limit; CHALK_NONE: no limit, and not counted against it */
} chalk_definition;

typedef struct chalk_info {
  double epoch;
  double heartbeat;      /* chalk_now() at the last chalk_heartbeat of a holder; 0: never */
  double flushed;        /* chalk_now() at the end of the last flush; 0: never */
  uint64_t memory;       /* bytes of the segment for which memory or disk was allocated */
  uint64_t memory_limit; /* bytes */
  uint64_t requested;    /* the last ticket that chalk_flush_request returned; 0: none */
  uint64_t done;         /* the last ticket that was passed to chalk_flush_done */
  uint64_t folded;       /* lookups that ended in an overflow series */
  uint32_t series;       /* live series, without overflow series and series of metrics with CHALK_NONE */
  uint32_t quarantined;  /* dropped series whose cells cannot be reused yet */
  uint32_t max_series;   /* the limit of `series` */
  uint32_t capacity;     /* the most live and quarantined series that there is address space for */
  uint32_t metrics;      /* definitions, with superseded ones */
  uint32_t writers;      /* taken slots that have a row of cells */
  uint32_t generation;   /* of the configuration in force */
  uint32_t holder;       /* the process id of the holder; 0: there is none */
} chalk_info;

/* The library and time */

/* Returns the CHALK_ABI that the library was compiled with. */
int chalk_abi(void);
/* Returns monotonic seconds, on a clock that all processes of a machine share. */
double chalk_now(void);
/* Returns seconds since 1970. */
double chalk_wall(void);
/* Returns the id of this process. */
uint32_t chalk_process(void);

/* Segments */

/*
 * Opens a segment. If this process has opened a segment under `name` before, that segment is returned, so a new VM
 * continues its counts. A `name` of NULL makes a private segment. When a server's program is replaced, only the first
 * 193 bytes of a name tell segments apart. Only the call that creates the segment uses `options`; NULL stands for all
 * defaults.
 *
 * NULL: an option is out of its range, there is no memory, or the file at `path` must not be used; `message` says
 * which. On success `message` is empty, or says that the segment is smaller than requested. Waits up to 10 seconds
 * while another process opens the same file.
 */
chalk_segment *chalk_segment_open(const char *name, const chalk_options *options, char *message);
/*
 * Ends one use of a segment, whose writers must be closed before. The last use of a private segment frees its memory; a
 * named segment stays open until the process ends. Series handles may still be used, and store nothing.
 */
void chalk_segment_close(chalk_segment *segment);
/*
 * Closes a segment through which nothing was recorded. A named segment at a path does not stay open, so its name is
 * free again.
 */
void chalk_segment_abandon(chalk_segment *segment);
/* Fills in all fields of *info. The numbers are read one after the other, while other threads change them. */
void chalk_segment_info(chalk_segment *segment, chalk_info *info);
/*
 * Changes limits of a segment that is in use. A limit of zero stays as it is, existing histograms keep their scale, and
 * `path` and `segment_group` are ignored. CHALK_EINVALID: an option is out of its range, or more than this segment was
 * laid out for; nothing was changed.
 */
int chalk_segment_configure(chalk_segment *segment, const chalk_options *options, char *message);

/* Writers: one for each VM or thread */

/* Takes a slot of the segment, or a share of slot 0 when all slots that have a row are taken. NULL: out of memory. */
chalk_writer *chalk_writer_open(chalk_segment *segment, char *message);
/*
 * Gives the slot back; what was recorded stays. It is called once. Finalizers of a closing VM may still use the writer
 * and its series, until this process has closed 256 further writers: chalk_define, chalk_find, chalk_bind and records
 * then return CHALK_ECLOSED, chalk_remove and chalk_clear return 0.
 */
void chalk_writer_close(chalk_writer *writer);
/*
 * Says that no record is under way in this VM, so that cells of dropped series may be reused. A writer that never calls
 * this function and never binds keeps those that it has bound from reuse. It has no effect in a forked child that has not recorded yet.
 */
void chalk_writer_tick(chalk_writer *writer);
/* Returns the slot's number, 0 to 127. Several VMs share slot 0, each until another slot is free. */
uint32_t chalk_writer_slot(const chalk_writer *writer);

/* Metrics: numbers from 0 to 4095 */

/*
 * Adds a definition, or finds the one with the same name, kind, across, tags, shape and bounds. From then on the writer
 * uses the metric. A newer definition of a name supersedes the older one, which leaves the segment when no live writer
 * uses it.
 *
 * A definition without a blob is *plain*: exporters show the metric under its name, in which a dot follows each
 * namespace, with its tags. A plain definition does not replace the blob of an equal definition, and does not supersede
 * a different definition that has a blob and is in use.
 *
 * Returns the metric's number. CHALK_EINVALID: a field is out of its range, a plain definition has a name that
 * metrics.json does not allow, or the name is in use by a definition that this one cannot supersede. CHALK_EMEMORY: the
 * segment is full, or a server's first process had no access to the definitions for 5 seconds. CHALK_ECLOSED.
 */
int chalk_define(chalk_writer *writer, const chalk_definition *definition, char *message);
/*
 * Finds the newest definition of a name, whichever process made it. From then on the writer uses the metric. Returns
 * its number. CHALK_EGONE: there is none. CHALK_ECLOSED.
 */
int chalk_find(chalk_writer *writer, const char *name, char *message);
/* Ends the writer's use of a metric: records through its handles return CHALK_EGONE. Any number is allowed. */
void chalk_undefine(chalk_writer *writer, uint32_t metric);
/*
 * Does the same as chalk_undefine. If this writer made the definition and no other writer uses it, the definition also
 * leaves the segment, whatever was recorded.
 */
void chalk_take_back(chalk_writer *writer, uint32_t metric);
/*
 * Copies a metric's blob to `out` if `size` is large enough. Returns the size of the blob. `out` may be NULL when
 * `size` is 0. 0: no metric has the number.
 */
size_t chalk_metric_blob(chalk_segment *segment, uint32_t metric, char *out, size_t size);
/*
 * Copies a metric's `le` bounds to `bounds`, an array of CHALK_LES. Returns the number of bounds; 0 also if no metric
 * has the number.
 */
uint32_t chalk_metric_les(chalk_segment *segment, uint32_t metric, double *bounds);
/* Returns the highest number that a metric ever had, plus 1: 0 to 4096. */
uint32_t chalk_metric_top(chalk_segment *segment);
/*
 * 1: exporters show the metric's series. 0: a newer definition of its name is of another kind, or no metric has the
 * number.
 */
int chalk_metric_shown(chalk_segment *segment, uint32_t metric);
/*
 * Returns how many lookups of this metric were folded since the last call for it; 0 if no metric has the number. Only
 * the holder.
 */
uint64_t chalk_metric_folded(chalk_segment *segment, uint32_t metric);

/* Series */

/*
 * Finds or creates the series with these tag values, and binds the writer's scratch handle to it, which the caller then
 * copies. `values` and `sizes` have an item for each tag of the metric, in the order of its definition. A size of 0
 * means that the tag is absent; its value may be NULL. The caller may pass any bytes: a value is repaired to UTF-8
 * without NUL and cut to CHALK_VALUE bytes.
 *
 * CHALK_OK or CHALK_FOLDED: the scratch handle is bound. CHALK_EMEMORY: the scratch handle may be copied and recorded
 * through; each record tries to bind it again. CHALK_EGONE: the writer does not use the metric, or the metric has left
 * the segment. CHALK_EINVALID: `metric` is above 4095. CHALK_ECLOSED.
 */
int chalk_bind(chalk_writer *writer, uint32_t metric, const char *const *values, const size_t *sizes);
/*
 * Returns the writer's scratch handle, which chalk_bind and chalk_remove overwrite. It belongs to the writer. NULL: the
 * writer is closed.
 */
chalk_series *chalk_scratch(chalk_writer *writer);
/* 1: the last chalk_bind stored the values as they were passed. 0: it repaired or cut one of them. */
int chalk_bound_as_given(const chalk_writer *writer);
/* Does the same as chalk_bind, in memory that the caller frees with free(). NULL: chalk_bind failed, or no memory. */
chalk_series *chalk_series_new(chalk_writer *writer, uint32_t metric, const char *const *values, const size_t *sizes);

/*
 * Recording. A handle may be in any state: it is bound again if it has to be. All three functions return
 *
 *   CHALK_OK       the value was recorded
 *   CHALK_REBOUND  the value was recorded, after the handle was bound again
 *   CHALK_FOLDED   the value was recorded into the overflow series, to which the handle is bound now
 *   CHALK_ENUMBER  n or v is out of the range stated below; nothing was recorded
 *   CHALK_EVERB    the series is of another kind; nothing was recorded
 *   CHALK_EMEMORY  there is no memory for the series' cell: nothing was recorded. If a histogram has its block, the
 *                  value was counted in bounds, count and sum, but there was no memory for a new bucket of the sketch
 *   CHALK_EGONE    the metric has left the segment, or the writer no longer uses it; nothing was recorded
 *   CHALK_ECLOSED  the writer was closed; nothing was recorded
 *
 * A record waits for a lock only if the handle has to be bound again or the writer shares slot 0.
 */

/*
 * Adds n. For a count, n is a whole number from 0 to 2^53. For a gauge, n is any double; if the sum is NaN or infinite,
 * the gauge keeps that. The total of a count is exact up to 2^53; this limit is not checked.
 */
int chalk_add(chalk_series *series, double n);
/* Sets a gauge to v, which is any double. -0.0 is stored as 0. CHALK_ENUMBER is never returned. */
int chalk_set(chalk_series *series, double v);
/* Records a value into a histogram. v is finite and of any sign. */
int chalk_record(chalk_series *series, double v);
/* Binds a handle again without a record. Returns CHALK_OK, CHALK_FOLDED, or a code as chalk_bind does. */
int chalk_rebind(chalk_series *series);

/*
 * Returns the value of the series over all slots: a count's total, a gauge's value (0 if it was never set), or the
 * number of values that a histogram has. NaN: the handle cannot be bound.
 */
double chalk_value(chalk_series *series);
/*
 * Returns the sketch of a histogram series over all slots. The caller frees it. NULL: out of memory, or the handle
 * cannot be bound.
 */
chalk_sketch *chalk_series_sketch(chalk_series *series);

/*
 * Drops the series with these tag values, which are passed as to chalk_bind. A handle on the series binds to a
 * successor at its next use. Returns the number of dropped series: 1, or 0 if there was none, the writer is closed or
 * `metric` is above 4095. CHALK_EGONE: the metric has left the segment.
 */
int chalk_remove(chalk_writer *writer, uint32_t metric, const char *const *values, const size_t *sizes);
/* Drops all series of a metric. Returns their number, from 0 on; otherwise as chalk_remove. */
int chalk_clear(chalk_writer *writer, uint32_t metric);

/*
 * Sketches: private copies of a histogram's buckets.
 *
 * At scale s bucket i holds the values in (2^(i / 2^s), 2^((i + 1) / 2^s)], upper bound inclusive; negative values are
 * held by their magnitude. Scales are -11 to 12. A sketch with more non-empty buckets than its limit becomes coarser by
 * whole scales (UDDSketch, arXiv 2004.08604). `sketch` may be NULL only in chalk_sketch_free and chalk_sketch_merge.
 */
typedef struct chalk_bucket {
  double lower, upper; /* (lower, upper]; below zero [lower, upper); both 0: the values that are zero */
  uint64_t count;
} chalk_bucket;
/*
 * Makes an empty sketch. `initial_error` is its relative error at first, 0.0001 to 0.5; `max_buckets` is its limit of
 * non-empty buckets, 8 to 8192. NULL: one of them is out of its range, or out of memory.
 */
chalk_sketch *chalk_sketch_new(double initial_error, uint32_t max_buckets);
/* Frees a sketch that does not belong to a snapshot. NULL is allowed. */
void chalk_sketch_free(chalk_sketch *sketch);
/*
 * Adds a finite v `count` times; 0 times changes nothing. The sum of all counts has to stay below 2^64; this limit is
 * not checked. CHALK_ENUMBER: v is NaN or infinite. CHALK_EMEMORY. On failure nothing was added.
 */
int chalk_sketch_add(chalk_sketch *sketch, double v, uint64_t count);
/*
 * Adds all values of `from`, which may be `into` itself. `into` gets the coarser of the two scales, and may have more
 * buckets than its limit until the next chalk_sketch_add. CHALK_EMEMORY: there is no memory and `into` is as it was, or
 * one of the two is NULL, so a caller need not check what chalk_sketch_new and the like returned.
 */
int chalk_sketch_merge(chalk_sketch *into, const chalk_sketch *from);
/* Returns the number of values. */
uint64_t chalk_sketch_count(const chalk_sketch *sketch);
/* Returns the sum of the values; 0 when the sketch is empty. */
double chalk_sketch_sum(const chalk_sketch *sketch);
/*
 * Returns the least value; NaN when the sketch is empty. For a cursor's delta it is the lower bound of the lowest
 * bucket.
 */
double chalk_sketch_min(const chalk_sketch *sketch);
/*
 * Returns the largest value; NaN when the sketch is empty. For a cursor's delta it is the upper bound of the highest
 * bucket.
 */
double chalk_sketch_max(const chalk_sketch *sketch);
/*
 * Returns the relative error of quantiles at the present scale: (g - 1) / (g + 1) with g = 2^(2^-scale), which is
 * 0.0000846 at scale 12 and always below 1.
 */
double chalk_sketch_error(const chalk_sketch *sketch);
/* Returns the scale, -11 to 12. */
int chalk_sketch_scale(const chalk_sketch *sketch);
/*
 * Returns the value of rank floor(q * (count - 1)), with a relative error of at most chalk_sketch_error; q is 0 to 1.
 * NaN: the sketch is empty, or q is out of its range.
 */
double chalk_sketch_quantile(const chalk_sketch *sketch, double q);
/* Fills in the i-th non-empty bucket in increasing order, from 0 on. 1: there is one. 0: there are fewer buckets. */
int chalk_sketch_bucket(const chalk_sketch *sketch, uint32_t i, chalk_bucket *bucket);

/*
 * Snapshots: the values of all series at one time, in private memory. The entries of a metric are adjacent, in the
 * order of the series' numbers. Keys and histograms are read from the segment when the caller first asks for them; a
 * series that is gone by then has none. The segment stays open while the snapshot is used.
 */
enum {
  CHALK_DROPPED = 1, /* with dropped series that a cursor may not have sent yet. Only the holder */
  CHALK_UNSET = 2    /* with gauges that were never set, as 0 */
};
typedef struct chalk_entry {
  uint32_t series;
  uint32_t generation;
  uint32_t metric;
  uint32_t dropped; /* 1: the series was dropped, and the entry has the total that it was dropped with */
  union {
    int64_t total; /* count; histogram: the number of values recorded */
    double value;  /* gauge */
  };
} chalk_entry;
/* Takes a snapshot. `what` is CHALK_DROPPED, CHALK_UNSET, both or 0; other bits are ignored. NULL: out of memory. */
chalk_snapshot *chalk_snapshot_take(chalk_segment *segment, int what, char *message);
/* Frees a snapshot. NULL is allowed. */
void chalk_snapshot_free(chalk_snapshot *snapshot);
/* Returns the entries, which are valid until the snapshot is freed, and stores their number in *count. */
const chalk_entry *chalk_snapshot_entries(const chalk_snapshot *snapshot, uint32_t *count);
/*
 * Copies the tag values of entry i to `out`, encoded as in chalk_series. Returns their size, which is at most 16,448
 * bytes. 0: the metric has no tags, the series is gone, `size` is too small, or there is no entry i.
 */
size_t chalk_snapshot_key(chalk_snapshot *snapshot, uint32_t i, char *out, size_t size);
/*
 * Returns the sketch of histogram entry i with all values ever recorded; it is empty if the series is gone. It belongs
 * to the snapshot. For an entry of another kind it has no meaning. NULL: out of memory, or there is no entry i.
 */
const chalk_sketch *chalk_snapshot_sketch(chalk_snapshot *snapshot, uint32_t i);
/*
 * Copies the bounds of histogram entry i and their cumulative counts, +Inf last; both arrays have at least
 * CHALK_LES + 1 items. Returns the number of bounds. 0: out of memory, the series is gone, or there is no entry i.
 */
uint32_t chalk_snapshot_les(chalk_snapshot *snapshot, uint32_t i, double *bounds, uint64_t *counts);

/* The names in a metric's sample lines. The format must allow all texts as they are; only tag values are escaped. */
typedef struct chalk_family {
  const char *sample; /* of a count or gauge */
  const char *bucket; /* of a histogram, as the next two */
  const char *sum;    /* NULL: the lines of sum and count are left out */
  const char *count;
  const char *constant;      /* the labels on every line, formatted: env="prod"; NULL: none */
  const char *const *labels; /* a name for each tag */
  const char *const *le;     /* the texts of the bounds to show, without +Inf */
  const uint32_t *le_index;  /* the index of each of these among the metric's bounds, from 0 on, increasing */
  uint32_t n_labels;         /* up to CHALK_TAGS; further ones are ignored */
  uint32_t n_le; /* up to CHALK_LES; from the first index on that the metric does not have, bounds are ignored */
} chalk_family;
/*
 * Renders the lines of one metric's entries, from entry *next up to and without `last`, into `out`, a buffer of `size`
 * bytes. Stops when the next entry might not fit, and advances *next. A `last` beyond the snapshot's end means its end.
 * Returns the bytes written. 0 with *next before `last`: the buffer is too small for a single entry.
 */
size_t chalk_snapshot_render(chalk_snapshot *snapshot, const chalk_family *family, uint32_t *next, uint32_t last,
                             char *out, size_t size);

/*
 * Writes the shortest decimal that reads back to the same double, without a NUL, to `out`, a buffer of 32 bytes.
 * Returns the size.
 */
size_t chalk_text_double(char *out, double v);
/* The same as the canonical text of an `le` bound (OpenMetrics 1.0, "Considerations: Canonical Numbers"). */
size_t chalk_text_bound(char *out, double v);

/*
 * Flushing: the holder of a segment flushes for all processes that have it open.
 *
 * A generation is the number of a configuration. Each `init` chooses one, and each start of a driver puts it in force: a
 * holder releases the role when a process of a higher generation asks for it.
 */

/*
 * Asks for the role; a thread that wants the role calls it ten times a second. 1: this thread holds the role from now
 * on, until it calls chalk_release. 0: another thread or process holds it or is about to get it.
 */
int chalk_hold(chalk_segment *segment, uint32_t generation);
/*
 * 1: the holder has to release the role, because a process of a generation above this one asks for it, or because this
 * process has lost it.
 */
int chalk_is_claimed(chalk_segment *segment, uint32_t generation);
/*
 * Says that the next flush is the holder's last, so processes that end during that flush do their last flush
 * themselves. Only the holder.
 */
void chalk_leave(chalk_segment *segment);
/* Releases the role. Only the holder, from the thread that took the role. */
void chalk_release(chalk_segment *segment);
/*
 * Says that the holder's loop is running. It is called more often than twice a second: if the holder's process is
 * stopped and there was no heartbeat for half a second, another process takes the role. Only the holder.
 */
void chalk_heartbeat(chalk_segment *segment);
/* Returns the segment's generation; with `raise` not 0, after it was raised by one. */
uint32_t chalk_generation(chalk_segment *segment, int raise);
/* Raises the segment's generation to this one, if it is lower. */
void chalk_generation_reach(chalk_segment *segment, uint32_t generation);
/* Asks the holder for a flush. Returns a ticket, from 1 on. */
uint64_t chalk_flush_request(chalk_segment *segment);
/*
 * Says that the flushes of all tickets up to this one are done. A ticket that was not returned yet stands for the last
 * one that was. Only the holder.
 */
void chalk_flush_done(chalk_segment *segment, uint64_t ticket);
/*
 * Waits at most `timeout` seconds until the ticket's flush is done. Returns CHALK_OK, or 1 if it is not done. With a
 * timeout that is not above 0 it does not wait.
 */
int chalk_flush_wait(chalk_segment *segment, uint64_t ticket, double timeout);
/*
 * Drops idle series, frees definitions that no writer uses, and makes the cells of dropped series reusable. The holder
 * took `snapshot` just before, and flushes nothing until the call returns. `now` is the time on a clock that never goes
 * back; all calls of this function and all functions of cursors use the same clock. `idle` has the seconds after which
 * a count, a gauge and a histogram are idle, in this order; 0 or less, or NaN: never.
 *
 * Returns the number of dropped series, or CHALK_EMEMORY. Only the holder.
 */
int chalk_sweep(chalk_snapshot *snapshot, double now, const double *idle);

/*
 * Cursors: what an exporter has sent of each series. A cursor stays in the segment when the exporter's process ends,
 * and is found again by its name. A segment has 16 cursors. Only the holder uses them.
 */

/*
 * Opens the cursor of this name, which has at most 239 bytes. A new cursor starts at the present totals or, with
 * `fresh` not 0, at zero. NULL: 16 others are in use, the name is too long, out of memory, or the role is lost.
 */
chalk_cursor *chalk_cursor_open(chalk_segment *segment, const char *name, int fresh, double now, char *message);
/* Frees the caller's memory; what the cursor has sent stays in the segment. Any thread may call it. */
void chalk_cursor_close(chalk_cursor *cursor);
/* Says that the exporter still exists. A sweep frees a cursor that was not touched or committed for a day. */
void chalk_cursor_touch(chalk_cursor *cursor, double now);
/* 1: the segment has a cursor, or had one. Any process may call it. */
int chalk_cursors_ever(chalk_segment *segment);
/*
 * Returns what was recorded into entry i since the cursor's last commit: the sum for a count, the number of values for
 * a histogram; 0 or more. `cursor` may be NULL: all that was ever recorded. 0: nothing, or there is no entry i.
 */
int64_t chalk_cursor_delta(chalk_cursor *cursor, chalk_snapshot *snapshot, uint32_t i);
/* Returns the same for a histogram as a sketch, which the caller frees. NULL: out of memory, or there is no entry i. */
chalk_sketch *chalk_cursor_delta_sketch(chalk_cursor *cursor, chalk_snapshot *snapshot, uint32_t i);
/*
 * Stores the same as cumulative counts of the histogram's bounds, +Inf last, in `counts`, an array of CHALK_LES + 1.
 * Returns the number of counts. 0: out of memory, or there is no entry i. The counts need not rise after a commit of a
 * part of the entry (chalk_statsd_commit).
 */
uint32_t chalk_cursor_delta_les(chalk_cursor *cursor, chalk_snapshot *snapshot, uint32_t i, uint64_t *counts);
/*
 * Marks the entries from `first` up to and without `last` as sent. A `last` beyond the snapshot's end means its end.
 * CHALK_EMEMORY: some entries were not marked, and are sent again. CHALK_EINVALID: the role is lost, and no entry was
 * marked.
 */
int chalk_cursor_commit(chalk_cursor *cursor, chalk_snapshot *snapshot, uint32_t first, uint32_t last, double now);

/*
 * The event tap: each record as it happens. While the tap is on, each record is a call, which also stores an event into
 * the writer's ring. Events that find the ring full are dropped.
 */
enum {
  CHALK_EVENT_INC = 1,   /* count: raised by the value, a whole number from 0 to 2^53 */
  CHALK_EVENT_SET = 2,   /* gauge: set to the value */
  CHALK_EVENT_UP = 3,    /* gauge: raised by the value, which is not negative */
  CHALK_EVENT_DOWN = 4,  /* gauge: lowered by the value, which is not negative */
  CHALK_EVENT_RECORD = 5 /* histogram: the value was recorded */
};
enum {
  CHALK_TAP_LEAST = 8192,   /* the smallest capacity of a ring, in events */
  CHALK_TAP_MOST = 1048576, /* the largest capacity of a ring, in events */
  CHALK_TAP_BATCH = 4096    /* the most events of one read */
};
typedef struct chalk_event {
  uint32_t series;
  uint32_t generation;
  uint32_t metric;
  uint32_t verb; /* CHALK_EVENT_... */
  double value;
  uint64_t time; /* nanoseconds since 1970 */
} chalk_event;
/*
 * Switches the tap. `kinds` is a sum of 1 << CHALK_COUNT ...; other bits are ignored, and 0 is off. `events` is the
 * capacity of a ring, which is rounded up to a power of two from CHALK_TAP_LEAST to CHALK_TAP_MOST. With `widen` not 0
 * the kinds and the capacity are added to those in force, which any process may do. Otherwise they replace those in
 * force: only the holder.
 */
void chalk_tap_switch(chalk_segment *segment, uint32_t kinds, uint32_t events, int widen);
/* Returns the kinds that the tap is on for, as chalk_tap_switch takes them. */
uint32_t chalk_tap_kinds(chalk_segment *segment);
/* Returns how often the rings of all slots were read to their ends. The number wraps at 2^32. */
uint32_t chalk_tap_passes(chalk_segment *segment);
/*
 * Makes the reader of the rings; a reader that was opened before reads nothing from then on. With `keep` not 0 it also
 * reads the events that are in the rings already. NULL: out of memory. Only the holder.
 */
chalk_tap *chalk_tap_open(chalk_segment *segment, int keep, char *message);
/* Frees the reader. The events that it has not read stay in the rings. */
void chalk_tap_close(chalk_tap *tap);
/*
 * Takes the next batch of events out of the rings, in the order of time. Returns their number, up to CHALK_TAP_BATCH.
 * 0: no events are left of those that were there when this pass began, or the role is lost. Only the holder.
 */
uint32_t chalk_tap_read(chalk_tap *tap);
/* Returns the events of the batch that was read last. They are valid until the next read. */
const chalk_event *chalk_tap_events(const chalk_tap *tap);
/*
 * Returns how many events were dropped since the last call, because their ring was full or there was no ring. Only the
 * holder.
 */
uint64_t chalk_tap_dropped(chalk_tap *tap);

/*
 * The event stream: events as protobuf messages (see stream_encoder.h) to clients over stream sockets. No function
 * waits. A client that does not read falls behind, and then loses its oldest messages, all but the last `most`. Every
 * client gets a metric's definition before the metric's first event. A stream belongs to one thread.
 */
typedef struct chalk_stream chalk_stream;
typedef struct chalk_stream_metric {
  const char *name, *unit, *description;
  const char *const *labels;    /* a name for each tag */
  const char *const *constants; /* the labels of all series: n_constants pairs of a name and a value */
  uint32_t kind;                /* CHALK_COUNT ... */
  uint32_t n_labels, n_constants;
} chalk_stream_metric;
/*
 * Makes a stream of this segment's events. `most` is how many messages are kept for clients; 0: there is no limit.
 * `listener` is a non-blocking listening socket, which is closed with the stream. NULL: out of memory, and the listener
 * still belongs to the caller.
 */
chalk_stream *chalk_stream_new(chalk_segment *segment, uint32_t most, int listener);
/* Frees a stream, and closes its listener and all clients. NULL is allowed. */
void chalk_stream_free(chalk_stream *stream);
/*
 * Defines how the stream describes a metric to clients from now on. CHALK_EINVALID: `metric` is above 4095, or there is
 * no such kind. CHALK_EMEMORY: the stream is as it was.
 */
int chalk_stream_define(chalk_stream *stream, uint32_t metric, const chalk_stream_metric *definition);
/* 1: the metric was defined here, and its number has not gone to another metric. 0 also for a number above 4095. */
int chalk_stream_knows(const chalk_stream *stream, uint32_t metric);
/*
 * Takes the first n events of the batch that `tap` read last (all of them if n is larger), and sends them. Returns -1
 * when all are taken. Otherwise returns the number of the metric of the next event: the caller defines that metric, or
 * passes over the event, and calls again.
 */
int chalk_stream_take(chalk_stream *stream, const chalk_tap *tap, uint32_t n);
/* Leaves out the event at which chalk_stream_take stopped, and counts it as dropped. */
void chalk_stream_pass_over(chalk_stream *stream);
/* Sends as many of the messages that clients lack as their sockets take. */
void chalk_stream_send(chalk_stream *stream);
/*
 * Accepts one client. Returns its number, 0 to 63, or a negative errno: -EAGAIN if no client waits, -EUSERS if there
 * are 64 clients.
 */
int chalk_stream_accept(chalk_stream *stream);
/* Closes a client. A number that no client has is ignored. */
void chalk_stream_close(chalk_stream *stream, uint32_t client);
/*
 * Closes the clients that have ended. Returns how many are left. When none is left, the stream frees memory and forgets
 * all metrics.
 */
uint32_t chalk_stream_clients(chalk_stream *stream);
/*
 * Returns how many events did not arrive since the last call. With `by_clients` not 0: events that clients lost by
 * falling behind, counted for each client. Otherwise: events whose series was gone, that were passed over, or for which
 * there was no memory.
 */
uint64_t chalk_stream_dropped(chalk_stream *stream, int by_clients);

/*
 * StatsD: lines of what was recorded since a cursor's last commit (without a cursor: of all that was ever recorded),
 * packed into packets of a limited size. The core writes the format; the caller chooses every name and limit, in the
 * family. A packer belongs to one thread.
 *
 * Fill one family after the other. When a packet is full, send it, begin another packet, and continue from *next; the
 * lines of entry *next may be only partly packed. When the sent packet has arrived, commit it: chalk_cursor_commit
 * commits the entries before *next, and chalk_statsd_commit what the packet has of entry *next. Gauges are noted as
 * sent when they are packed, so call chalk_statsd_forget after a failure to send.
 */
enum {
  CHALK_STATSD_VALUES,      /* a line with a value for each bucket, with a sample rate */
  CHALK_STATSD_PERCENTILES, /* gauges of quantiles and aggregates */
  CHALK_STATSD_BUCKETS,     /* counts of `le` bounds */
  CHALK_STATSD_RAW          /* no lines from a packer: single values, see chalk_statsd_raw */
};
/* The values of a histogram that are gauges in the mode CHALK_STATSD_PERCENTILES. */
enum {
  CHALK_STATSD_COUNT,
  CHALK_STATSD_SUM,
  CHALK_STATSD_AVG,
  CHALK_STATSD_MIN,
  CHALK_STATSD_MAX,
  CHALK_STATSD_QUANTILE
};
/* A gauge of a histogram in the mode CHALK_STATSD_PERCENTILES. */
typedef struct chalk_statsd_gauge {
  const char *suffix; /* added to the metric's name: ".count", ".p50" */
  double quantile;    /* 0 to 1, for CHALK_STATSD_QUANTILE */
  uint32_t size;      /* of the suffix, in bytes */
  uint32_t what;      /* CHALK_STATSD_COUNT ... */
} chalk_statsd_gauge;
enum { CHALK_STATSD_WEIGHT = 1000000 }; /* the most recorded values that a value in a line may stand for */
typedef struct chalk_statsd chalk_statsd;
/*
 * How a metric's lines look. The functions read the texts during the call only. A pointer may be NULL only if it has
 * zero items.
 */
typedef struct chalk_statsd_family {
  const char *name;                 /* all names and constant tags are valid in the format, and end with NUL */
  const char *const *labels;        /* a key for each tag, at most 198 characters */
  const uint32_t *value_most;       /* the most characters of each tag's value, at least 9; a longer value is cut */
  const char *absent;               /* what stands for an empty value in a name: "none" */
  const char *tags;                 /* constant tags, "env:prod,team:a", or "" */
  const char *tail;                 /* what follows the tags of every line: "|c:ci-12", or "" */
  const char *timestamp;            /* what follows `tail` on counts and gauges: "|T1700000000", or "" */
  const char *type;                 /* of a histogram's values: "d", "h", "ms" */
  const chalk_statsd_gauge *gauges; /* of percentiles, in the order of their lines */
  const char *const *le_tags;       /* of the bounds to send, with +Inf: "le:0.5" */
  const char *const *le_suffixes;   /* the same for names: ".le_0_5" */
  const uint32_t *le_index; /* their indexes among the metric's bounds, 0 to CHALK_LES; unknown ones are left out */
  double factor;            /* multiplies a histogram's values; finite */
  uint64_t max_weight;      /* in CHALK_STATSD_VALUES: the most that a value stands for, 1 to CHALK_STATSD_WEIGHT */
  uint32_t n_labels;        /* 0 to CHALK_TAGS */
  uint32_t n_gauges;
  uint32_t n_le;         /* 0 to CHALK_LES + 1 */
  uint32_t mode;         /* of histograms: CHALK_STATSD_VALUES ... */
  uint32_t pack;         /* not 0: a line may have several values */
  uint32_t tags_in_name; /* not 0: tag values are joined into the name, and lines have no tags */
  uint32_t relative;     /* not 0: a line that sets the gauge to zero precedes a gauge below zero */
  uint32_t changed_only; /* not 0: gauges that have the value that was sent before are left out */
} chalk_statsd_family;
/* What was packed since the packer was made. */
typedef struct chalk_statsd_totals {
  uint64_t metrics;  /* entries with at least one line */
  uint64_t lines;    /* in packets */
  uint64_t too_long; /* lines that are longer than a packet, and were left out */
} chalk_statsd_totals;
/* Makes a packer of packets of at most `max_packet` bytes, 1 to 2^32 - 1. NULL: it is 0, or out of memory. */
chalk_statsd *chalk_statsd_new(uint32_t max_packet);
/* Frees a packer. NULL is allowed. */
void chalk_statsd_free(chalk_statsd *statsd);
/*
 * Packs the lines of one metric's entries, from *next up to and without `last`, and advances *next. A `last` beyond the
 * snapshot's end means its end. CHALK_OK: all are packed. 1: the packet is full. CHALK_EINVALID: a number of the family
 * is out of its range, and nothing was packed. CHALK_EMEMORY: *next is the entry that was not packed.
 */
int chalk_statsd_fill(chalk_statsd *statsd, const chalk_statsd_family *family, chalk_cursor *cursor,
                      chalk_snapshot *snapshot, uint32_t *next, uint32_t last);
/* Returns the packet, and its size, 0 to max_packet, in *size. It is valid until the packer is used again. */
const char *chalk_statsd_packet(chalk_statsd *statsd, uint32_t *size);
/* Begins an empty packet, in which the entry that is partly packed continues. */
void chalk_statsd_begin(chalk_statsd *statsd);
/*
 * Marks as sent what the packet before this one had of the entry that continues in this one. Returns CHALK_OK also if
 * there was nothing. CHALK_EMEMORY, or CHALK_EINVALID when the role is lost: it is not marked, and is sent again. Only
 * the holder.
 */
int chalk_statsd_commit(chalk_statsd *statsd, chalk_cursor *cursor, chalk_snapshot *snapshot, double now);
/* Makes the packer like a new one, except for its totals: no packet, no entry partly packed, no gauge sent. */
void chalk_statsd_forget(chalk_statsd *statsd);
/* Fills in all fields of *totals. */
void chalk_statsd_count(const chalk_statsd *statsd, chalk_statsd_totals *totals);
/*
 * Writes the sample rate of a value that stands for n recorded values, without a NUL, to `out`, a buffer of 24 bytes:
 * the shortest decimal whose inverse, as a double, has n as its whole part. n is 1 to CHALK_STATSD_WEIGHT. Returns the
 * size; 0: n is larger, and has no such rate.
 */
size_t chalk_statsd_rate(char *out, uint64_t n);

/*
 * StatsD lines of single values, from the event tap: a queue of packets. Its values are those that histograms in the
 * mode CHALK_STATSD_RAW recorded. A queue belongs to one thread.
 */
typedef struct chalk_statsd_raw chalk_statsd_raw;
/* What became of all values since the queue was made. */
typedef struct chalk_statsd_raw_totals {
  uint64_t values;   /* put into packets */
  uint64_t dropped;  /* lost, because the queue was full, there was no memory, or their series was gone */
  uint64_t too_long; /* left out, because their line is longer than a packet */
} chalk_statsd_raw_totals;
/*
 * Makes a queue for up to `most` values, in packets of at most `max_packet` bytes, which is at least 1. A queue with
 * `most` 0 takes no values. NULL: `max_packet` is 0, or out of memory.
 */
chalk_statsd_raw *chalk_statsd_raw_new(chalk_segment *segment, uint32_t max_packet, uint64_t most);
/* Frees a queue. NULL is allowed. */
void chalk_statsd_raw_free(chalk_statsd_raw *raw);
/*
 * Defines how a metric's values are sent: each with the probability `rate`, 0 to 1, and then as 1 / rate values. The
 * caller keeps the family until the metric is defined again or the queue is freed. `family` may be NULL: the metric's
 * values are not sent. CHALK_EINVALID: `metric` is above 4095, 1 / rate is above CHALK_STATSD_WEIGHT, or a number of
 * the family is out of its range.
 */
int chalk_statsd_raw_define(chalk_statsd_raw *raw, uint32_t metric, const chalk_statsd_family *family, double rate);
/*
 * Takes the first n events of the batch that `tap` read last (all of them if n is larger). Returns -1 when all are
 * taken. Otherwise returns the number of a metric: the caller defines that metric and calls again.
 */
int chalk_statsd_raw_take(chalk_statsd_raw *raw, const chalk_tap *tap, uint32_t n);
/*
 * Returns how many packets wait to be sent. With `partial` not 0 this includes a packet to which values may still be
 * added.
 */
uint32_t chalk_statsd_raw_packets(const chalk_statsd_raw *raw, int partial);
/*
 * Returns the first packet, and its size in *size. The packet is valid until chalk_statsd_raw_next, and nothing is
 * added to it any more. NULL: there is none.
 */
const char *chalk_statsd_raw_packet(chalk_statsd_raw *raw, uint32_t *size);
/* Removes the first packet from the queue, because it has arrived. Without a packet it has no effect. */
void chalk_statsd_raw_next(chalk_statsd_raw *raw);
/* Fills in all fields of *totals. */
void chalk_statsd_raw_count(const chalk_statsd_raw *raw, chalk_statsd_raw_totals *totals);
/*
 * Returns the number of a metric that had a line longer than a packet, and forgets that it had one. -1: there is no
 * such metric.
 */
int chalk_statsd_raw_long(chalk_statsd_raw *raw);

/*
 * The flush thread: runs a Lua chunk, with strings as its arguments, in a VM of its own. If it has a segment, it starts
 * the chunk once it can get the flusher's role of that segment for its generation; until then the thread waits, without
 * a VM and without a descriptor. A chunk that returns a message has failed. A thread whose chunk failed, or for which
 * there were too few descriptors, tries again after a pause, until it is asked to stop.
 */
typedef struct chalk_lua {
  void *(*newstate)(void);
  void (*openlibs)(void *state);
  int (*loadbuffer)(void *state, const char *text, size_t size, const char *name);
  void (*pushlstring)(void *state, const char *text, size_t size);
  int (*pcall)(void *state, int arguments, int results, int handler);
  const char *(*tolstring)(void *state, int index, size_t *size);
  void (*close)(void *state);
} chalk_lua; /* the functions of the Lua API that the flush thread calls; no other thread calls them */
/*
 * Starts a thread. `texts` and `sizes` have n items, at least 1: the chunk, then its arguments. `segment` may be NULL;
 * otherwise it has to stay open until the thread has ended. NULL: n is 0, out of memory, or the system refuses a
 * thread.
 */
chalk_thread *chalk_thread_start(const chalk_lua *lua, const char *const *texts, const size_t *sizes, uint32_t n,
                                 chalk_segment *segment, uint32_t generation, char *message);
/* Returns the calling thread if it is a flush thread; otherwise NULL. */
chalk_thread *chalk_thread_self(void);
/*
 * Returns a descriptor for the thread's loop, which is readable when the thread was asked for something. -1: the thread
 * has not tried to make a VM yet.
 */
int chalk_thread_fd(const chalk_thread *thread);
/* Makes the thread check what it was asked for. Any thread may call this function and the next three. */
void chalk_thread_wake(chalk_thread *thread);
/* Asks the thread to flush a last time and to end. It has no effect in a forked child. */
void chalk_thread_stop(chalk_thread *thread);
/* Asks a thread whose chunk failed to end, so that the chunk is not tried again. It has no effect in a forked child. */
void chalk_thread_abandon(chalk_thread *thread);
/* 1: the thread was asked to end. */
int chalk_thread_stopping(const chalk_thread *thread);
/* Makes the descriptor unreadable until the thread is asked again. The thread itself calls it. */
void chalk_thread_drain(chalk_thread *thread);
/*
 * Says that the chunk has started or, with a message, why it has not. Only the first call has an effect. The thread
 * itself calls it.
 */
void chalk_thread_ready(chalk_thread *thread, const char *message);
/*
 * Waits until the thread waits for the role or its chunk has started, at most `timeout` seconds (0 if `timeout` is not
 * above 0, 30 years if it is larger). CHALK_EINVALID: the chunk failed, or did not start in time.
 */
int chalk_thread_wait_ready(chalk_thread *thread, double timeout, char *message);
/*
 * Waits for the thread's end, with the same limits. 1: it has ended, or belongs to another process. 0: it has not ended
 * in time.
 */
int chalk_thread_wait(chalk_thread *thread, double timeout);
/* Frees a thread that has ended. It has no effect on one that has not. */
void chalk_thread_free(chalk_thread *thread);
/*
 * 1: enough descriptors are free to load luv, which crashes when it cannot make its loop. 0: there are too few, as
 * `message` says.
 */
int chalk_has_room(char *message);

/*
 * Listening sockets. A process remembers each by the client's name and the address. All texts are copied.
 */

/*
 * Opens a listening stream socket at "127.0.0.1:9464", "[::1]:9464", "localhost:0" or "unix:///path", and remembers it
 * until chalk_unlisten. An existing file at the path is replaced only if it is a socket of this user's at which no
 * process listens. CHALK_EINVALID: `message` says what is wrong. Waits while a name is resolved.
 */
int chalk_listen(const char *client, const char *address, char *message);
/*
 * Returns a copy of the socket's descriptor, which the caller closes. Negative: there is none, as in a forked child.
 */
int chalk_accept_fd(const char *client, const char *address);
/*
 * Lets other users connect to a unix socket of this user's. CHALK_EINVALID: there is none. It has no effect on other
 * addresses.
 */
int chalk_listen_to_all(const char *address);
/* Closes this process's socket at the address, if there is one. */
void chalk_unlisten(const char *client, const char *address);
/*
 * Says whether the configuration that listens at the address is in force. 1: it is; this is assumed once a child of the
 * process has the socket. 0: it never will be, so a socket that no configuration in force uses is closed.
 */
void chalk_listen_settle(const char *client, const char *address, int in_force);
/*
 * Shuts down the client's sockets except those at these n addresses, in this process and in every process that shares
 * them.
 */
void chalk_listen_only(const char *client, const char *const *addresses, uint32_t n);

/*
 * For a server with worker processes. 1: forked children, and a program that replaces this one, continue to use the
 * open named segments and sockets; those that are opened later may be inherited ones. 0: this process hands on nothing,
 * for good.
 */
void chalk_inherit(int on);
/* 1: this process is a worker: chalk_inherit(0) was called here or in a parent. */
int chalk_is_worker(void);

/*
 * Agreements: what the VMs of a server's first process agree on before it forks. All that join under one client's name
 * in one `cycle` share a text; the cycle is a number that tells one configuration of the server from the next. An
 * agreement ends when the last VM leaves it. A forked child continues with its own copy of the text.
 */
typedef struct chalk_agreement chalk_agreement;
/* Joins an agreement, or begins it. NULL: out of memory. */
chalk_agreement *chalk_agreement_join(const char *client, uint64_t cycle);
/* Leaves an agreement; called once for each join. */
void chalk_agreement_leave(chalk_agreement *agreement);
/* Returns the text that was put last. It is valid until another is put or the agreement ends. NULL: there is none. */
const char *chalk_agreement_text(const chalk_agreement *agreement);
/* Puts a copy of a text in place of the one before. CHALK_EMEMORY: the one before stays. */
int chalk_agreement_put(chalk_agreement *agreement, const char *text);

/* ffi: end */

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
