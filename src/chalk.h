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
 * Unless said otherwise, this holds for every function:
 *
 *   Results    A function that returns a code returns CHALK_OK (0) or a negative code. A function that returns a
 *              pointer returns NULL on failure. "CODE: reason" in a comment says when the function returns it; a code
 *              without a reason means what its enumerator says. No function aborts the process.
 *   Messages   `message` is room for CHALK_MESSAGE bytes, or NULL. On failure it holds one sentence, ended with NUL.
 *   Pointers   A pointer argument is never NULL where its comment does not allow it, and is only read during the call:
 *              the core keeps copies. What has a _free or _close function belongs to the caller until that is called.
 *   Strings    A `const char *` without a size ends with NUL. One with a size may hold any bytes.
 *   Times      Times and timeouts are seconds, as doubles.
 *   Threads    Segments and what concerns the whole process (sockets, agreements, inheritance) may be used by all
 *              threads at once. Every other object is used by one thread at a time: a writer with all its series, a
 *              snapshot, a sketch, a cursor, a tap, a stream, a StatsD packer.
 *   Processes  A forked child may go on with segments, writers and series of its parent: a writer takes a slot of its
 *              own at its next record. Snapshots and sketches are private memory and stay as they are. Everything else
 *              stays the parent's.
 *   The holder Of all processes and threads that have a segment open, one holds the flusher's role: the thread whose
 *              chalk_hold returned 1. "Only the holder" marks what only that thread may call. A holder that was
 *              stopped and has lost the role may still call it: the function then changes nothing.
 *   LuaJIT     No function calls back into the calling VM, so all may be called from compiled code. A function that
 *              waits for anything but a lock says so.
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
  CHALK_MESSAGE = 256, /* room for an error message, in bytes */
  CHALK_TAGS = 32,     /* most tags of a metric */
  CHALK_LES = 64,      /* most `le` bounds of a histogram, +Inf not counted */
  CHALK_NONE = -1,     /* as max_series: neither limited nor counted, and left out of the event tap */
  CHALK_VALUE = 512    /* longest tag value in bytes; a longer one is cut, and a hash of the whole is appended */
};
enum { CHALK_COUNT = 1, CHALK_GAUGE = 2, CHALK_HISTOGRAM = 3 };

/* How the values of several VMs make one gauge: the value that was set last, or the sum, minimum or maximum of all. */
enum { CHALK_LAST = 0, CHALK_SUM = 1, CHALK_MIN = 2, CHALK_MAX = 3 };

/* The codes that functions return. Zero and above is success. */
enum {
  CHALK_OK = 0,
  CHALK_FOLDED = 1,    /* bound to the metric's overflow series: a limit was reached */
  CHALK_REBOUND = 2,   /* recorded, and the handle was bound anew: series were dropped, or the process forked */
  CHALK_EMEMORY = -1,  /* the segment, its file system or the process is out of memory */
  CHALK_ENUMBER = -2,  /* not a number that this kind of metric takes; nothing was recorded */
  CHALK_EGONE = -3,    /* the metric's definition has left the segment: it has to be defined again */
  CHALK_EINVALID = -4, /* an argument is out of its range, or something outside of the program is not as it has to be */
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
 * A handle on a series. To add n to a count without a call, do what the Lua accessors do, in this order: read `epoch`,
 * then the pointers; if *shared + *own equals the epoch read, `*cell += n` (a plain aligned double), else call
 * chalk_add. Gauges and histograms are recorded by calls only: a compiler may leave out a store of the value that it
 * stored there last, though another process has stored a different one since.
 *
 * A handle is copied as offsetof(chalk_series, key) + key_size bytes. It may outlive its writer: records through it
 * then return CHALK_ECLOSED and store nothing.
 */
typedef struct chalk_series {
  double epoch;         /* *shared + *own when the handle was bound; NaN: every record has to call */
  const double *shared; /* the segment's epoch: it moves when series are dropped */
  const double *own;    /* this process's part: it moves at a fork */
  double *cell;         /* where to record: a count's cell, or a gauge's value */
  chalk_writer *writer;
  void *histogram;  /* a histogram's block; NULL for another kind */
  const void *plan; /* what recording into that block needs */
  double bound;     /* as `epoch`, but not NaN while the event tap is on */
  uint32_t kind;    /* CHALK_COUNT ... */
  uint32_t client;  /* free for the host: Lua keeps its client's number here */
  uint32_t metric;
  uint32_t series;
  uint32_t generation;
  uint32_t key_size;
  char key[/*?*/]; /* the normalised tag values, two bytes of length (little-endian) before each */
} chalk_series;

typedef struct chalk_options {
  const char *path;      /* a file to share between unrelated processes; NULL: anonymous memory */
  uint64_t memory_limit; /* bytes the segment may ever take, at least 4 MiB; 0: 1 GiB, or half of its control group's */
  uint32_t max_series;   /* 1 to 8,388,608; 0: 100,000 */
  uint32_t max_buckets;  /* of a sketch, 8 to 8192; 0: 512 */
  double initial_error;  /* of a sketch, relative, 0.0001 to 0.5; 0: 0.001 */
  uint32_t segment_group; /* 1: the file at `path` may be one that members of its group can write to */
} chalk_options;

typedef struct chalk_definition {
  const char *name;  /* what identifies the metric, such as "http.request_count"; at least one byte */
  const char *shape; /* what its series depend on: the tags' names, a NUL between them; with them the metric changes */
  const char *blob; /* the whole definition in Lua's form, which may change while the metric stays; NULL: a plain one */
  size_t name_size, shape_size, blob_size; /* bytes */
  const double *le;    /* `les` bounds, finite, each larger than the one before; NULL if there are none */
  uint32_t kind;       /* CHALK_COUNT ... */
  uint32_t across;     /* of a gauge: CHALK_LAST ...; otherwise CHALK_LAST */
  uint32_t tags;       /* how many, 0 to CHALK_TAGS */
  uint32_t les;        /* how many bounds, 0 to CHALK_LES */
  uint32_t max_series; /* any number; 0: only the segment's limit; CHALK_NONE: no limit, and not counted against it */
} chalk_definition;

typedef struct chalk_info {
  double epoch;
  double heartbeat;      /* chalk_now() when the holder's loop last turned; 0: never */
  double flushed;        /* chalk_now() at the end of the last flush; 0: never */
  uint64_t memory;       /* bytes of the segment that memory or disk was allocated for */
  uint64_t memory_limit; /* bytes */
  uint64_t requested;    /* the last ticket that chalk_flush_request gave; 0: none */
  uint64_t done;         /* the last ticket that chalk_flush_done was told */
  uint64_t folded;       /* lookups that ended in an overflow series */
  uint32_t series;       /* live series, without overflow series and those of metrics with CHALK_NONE */
  uint32_t quarantined;  /* dropped series whose cells cannot be reused yet */
  uint32_t max_series;   /* the limit of `series` */
  uint32_t capacity;     /* most series there is address space for, live and quarantined */
  uint32_t metrics;      /* definitions, superseded ones too */
  uint32_t writers;      /* slots with a row of cells that are taken */
  uint32_t generation;   /* of the configuration: how often `init` ran */
  uint32_t holder;       /* process id of the flusher; 0: none */
} chalk_info;

/* The library and time */

/* The CHALK_ABI that the library was compiled with. */
int chalk_abi(void);
/* Monotonic seconds, the same clock in all processes of a machine. */
double chalk_now(void);
/* Seconds since 1970. */
double chalk_wall(void);
/* The id of this process. */
uint32_t chalk_process(void);

/* Segments */

/*
 * Opens a segment. `name` finds the one that this process opened before under that name, so a new VM continues its
 * counts; NULL makes a private one. The first 193 bytes of a name tell segments apart when a server's program is
 * replaced. `options` matter only to the call that creates the segment; NULL stands for all defaults.
 *
 * NULL: an option is out of its range, there is no memory, or the file at `path` is not to be used; `message` says
 * which. On success `message` is empty, or says that the segment is smaller than asked for. Waits up to 10 seconds
 * while another process opens the same file.
 */
chalk_segment *chalk_segment_open(const char *name, const chalk_options *options, char *message);
/*
 * Ends one use of a segment. A private one gives its memory back at its last use; a named one stays for the process's
 * life. Writers of the segment are closed before; series handles may still be used and store nowhere.
 */
void chalk_segment_close(chalk_segment *segment);
/*
 * Closes a segment through which nothing was recorded; a named one at a path does not stay, so its name is free again.
 */
void chalk_segment_abandon(chalk_segment *segment);
/* Fills in all of *info. The numbers are read one after the other, while others change them. */
void chalk_segment_info(chalk_segment *segment, chalk_info *info);
/*
 * Changes limits of a segment in use; zeros leave a limit as it is, existing sketches keep their scale, and `path` and
 * `segment_group` do not count. CHALK_EINVALID, and nothing is changed: an option is out of its range, or more than
 * this segment was laid out for.
 */
int chalk_segment_configure(chalk_segment *segment, const chalk_options *options, char *message);

/* Writers: one for each VM or thread */

/* Takes a slot of the segment, or a share of slot 0 when all are taken. NULL: out of memory. */
chalk_writer *chalk_writer_open(chalk_segment *segment, char *message);
/*
 * Gives the slot back; what was recorded stays. Called once. Until 256 further writers were closed in this process, the
 * writer and its series may still be used, as finalizers of a closing VM do: chalk_define, chalk_find, chalk_bind and
 * records return CHALK_ECLOSED, chalk_remove and chalk_clear 0.
 */
void chalk_writer_close(chalk_writer *writer);
/*
 * Says that no record is under way in this VM, so that cells of dropped series may be reused. A writer that is never
 * ticked and never binds keeps them from reuse. Without effect in a forked child that has not recorded yet.
 */
void chalk_writer_tick(chalk_writer *writer);
/* The slot's number, 0 to 127. Slot 0 is shared by several VMs, each until another slot is free. */
uint32_t chalk_writer_slot(const chalk_writer *writer);

/* Metrics: numbers from 0 to 4095 */

/*
 * Makes a metric known, or finds the one with the same name, kind, across, tags, shape and bounds; the writer then uses
 * it. A newer definition of a name supersedes the older one, which leaves when no live writer uses it. Without a blob
 * the metric is shown by its name, namespaces before it with a dot each, and its tags. A blob that is there stays; a
 * plain definition does not supersede a different one with a blob that is in use.
 *
 * Returns the metric's number. CHALK_EINVALID: a field is out of its range, a plain definition's names are not those of
 * metrics.json, or the name is in use otherwise. CHALK_EMEMORY: there is no room, or, in a server's first process, no
 * access to the definitions for 5 seconds. CHALK_ECLOSED.
 */
int chalk_define(chalk_writer *writer, const chalk_definition *definition, char *message);
/*
 * Finds the definition of a name that is in force, whoever made it; the writer then uses it. Returns its number.
 * CHALK_EGONE: there is none. CHALK_ECLOSED.
 */
int chalk_find(chalk_writer *writer, const char *name, char *message);
/* The writer no longer uses this metric: records through its handles return CHALK_EGONE. Any number is allowed. */
void chalk_undefine(chalk_writer *writer, uint32_t metric);
/* As chalk_undefine; a metric that this writer made and nobody else uses also leaves, whatever was recorded. */
void chalk_take_back(chalk_writer *writer, uint32_t metric);
/*
 * Copies a metric's blob to `out` if `size` is enough, and returns the bytes that it takes. `out` may be NULL when
 * `size` is 0. 0: no metric has the number.
 */
size_t chalk_metric_blob(chalk_segment *segment, uint32_t metric, char *out, size_t size);
/*
 * Copies a metric's `le` bounds to `bounds`, room for CHALK_LES. Returns how many; 0 also if no metric has the number.
 */
uint32_t chalk_metric_les(chalk_segment *segment, uint32_t metric, double *bounds);
/* The number after the highest that was ever in use, 0 to 4096. */
uint32_t chalk_metric_top(chalk_segment *segment);
/*
 * 1: the metric's series are shown. 0: a newer definition of its name is of another kind, or no metric has the number.
 */
int chalk_metric_shown(chalk_segment *segment, uint32_t metric);
/* How many lookups were folded since the last call for this metric; 0 if no metric has the number. Only the holder. */
uint64_t chalk_metric_folded(chalk_segment *segment, uint32_t metric);

/* Series */

/*
 * Finds or creates the series with these tag values and binds the writer's scratch series to it, which the caller
 * copies. `values` and `sizes` have an item for each tag of the metric, in the order of its definition. A size of 0
 * means that the tag is absent, and its value may be NULL. A value is repaired to UTF-8 without NUL and cut to
 * CHALK_VALUE bytes; the caller may pass any bytes.
 *
 * CHALK_OK or CHALK_FOLDED: the scratch series is bound. CHALK_EMEMORY: it may be copied and recorded through, and
 * binds anew at each record. CHALK_EGONE: the writer does not use the metric, or it has left. CHALK_EINVALID: `metric`
 * is above 4095. CHALK_ECLOSED.
 */
int chalk_bind(chalk_writer *writer, uint32_t metric, const char *const *values, const size_t *sizes);
/* The writer's scratch series, which chalk_bind and chalk_remove overwrite. It belongs to the writer; NULL: closed. */
chalk_series *chalk_scratch(chalk_writer *writer);
/* 1: the values that chalk_bind was last given were stored as they are; 0: one of them was repaired or cut. */
int chalk_bound_as_given(const chalk_writer *writer);
/* As chalk_bind, into memory of the caller's, which is freed with free(). NULL: chalk_bind failed, or no memory. */
chalk_series *chalk_series_new(chalk_writer *writer, uint32_t metric, const char *const *values, const size_t *sizes);

/*
 * Recording. A handle may be in any state: it is bound anew where needed. All three functions return
 *
 *   CHALK_OK       the value was recorded
 *   CHALK_REBOUND  the value was recorded, and the handle was bound anew
 *   CHALK_FOLDED   the value was recorded into the overflow series, to which the handle is bound now
 *   CHALK_ENUMBER  n or v is not such a number; nothing was recorded
 *   CHALK_EVERB    the series is of another kind; nothing was recorded
 *   CHALK_EMEMORY  there is no memory for the series' cell: nothing was recorded. Of a histogram that has its block:
 *                  counted in bounds, count and sum, but the sketch had no room for a new bucket
 *   CHALK_EGONE    the metric has left or is not used any more; nothing was recorded
 *   CHALK_ECLOSED  the writer was closed; nothing was recorded
 *
 * A record waits for a lock only where the handle has to be bound anew or the writer shares slot 0.
 */

/*
 * Adds. To a count: n is a whole number from 0 to 2^53. To a gauge: n is any double; a sum that is NaN or infinite is
 * kept as that. The total of a count is exact up to 2^53, which is not checked.
 */
int chalk_add(chalk_series *series, double n);
/* Sets a gauge: v is any double, and -0.0 is stored as 0. There is no CHALK_ENUMBER. */
int chalk_set(chalk_series *series, double v);
/* Records a value into a histogram: v is finite, of any sign. */
int chalk_record(chalk_series *series, double v);
/* Binds a handle anew without a record. CHALK_OK, CHALK_FOLDED, or a code as chalk_bind's. */
int chalk_rebind(chalk_series *series);

/*
 * What the series stands at over all writers: a count's total, a gauge's value (0 if it was never set), how many values
 * a histogram has. NaN: the handle cannot be bound.
 */
double chalk_value(chalk_series *series);
/* The sketch of a histogram series over all writers, which the caller frees. NULL: no memory, or not to be bound. */
chalk_sketch *chalk_series_sketch(chalk_series *series);

/*
 * Drops the series with these tag values, which are passed as to chalk_bind; handles on it bind to a successor when
 * they are next used. Returns how many were dropped: 1, or 0 if there was none, the writer is closed or `metric` is
 * above 4095. CHALK_EGONE: the metric has left.
 */
int chalk_remove(chalk_writer *writer, uint32_t metric, const char *const *values, const size_t *sizes);
/* Drops all series of a metric. Returns how many, from 0 on; otherwise as chalk_remove. */
int chalk_clear(chalk_writer *writer, uint32_t metric);

/*
 * Sketches: private copies of a histogram's buckets.
 *
 * At scale s bucket i holds the values in (2^(i / 2^s), 2^((i + 1) / 2^s)], upper bound inclusive; negative values by
 * their magnitude. Scales are -11 to 12. A sketch with more non-empty buckets than its limit becomes coarser by whole
 * scales (UDDSketch, arXiv 2004.08604). `sketch` is not NULL but in chalk_sketch_free and chalk_sketch_merge.
 */
typedef struct chalk_bucket {
  double lower, upper; /* (lower, upper]; below zero [lower, upper); both 0: the values that are zero */
  uint64_t count;
} chalk_bucket;
/*
 * An empty sketch. `initial_error` is the relative error to begin with, 0.0001 to 0.5; `max_buckets` is the most
 * non-empty buckets, 8 to 8192. NULL: one of them is out of its range, or out of memory.
 */
chalk_sketch *chalk_sketch_new(double initial_error, uint32_t max_buckets);
/* NULL is allowed. Not for a sketch that belongs to a snapshot. */
void chalk_sketch_free(chalk_sketch *sketch);
/*
 * Adds a finite v `count` times; 0 times changes nothing. The sum of all counts has to stay below 2^64, which is not
 * checked. CHALK_ENUMBER: v is NaN or infinite. CHALK_EMEMORY. On failure nothing was added.
 */
int chalk_sketch_add(chalk_sketch *sketch, double v, uint64_t count);
/*
 * Adds all that is in `from`; `into` gets the coarser of the two scales, and may have more buckets than its limit until
 * the next chalk_sketch_add. `from` may be `into`. CHALK_EMEMORY: `into` is as it was. The same where either is NULL,
 * so that a caller need not look whether it got what it asked for.
 */
int chalk_sketch_merge(chalk_sketch *into, const chalk_sketch *from);
/* How many values there are. */
uint64_t chalk_sketch_count(const chalk_sketch *sketch);
/* The sum of the values; 0 when the sketch is empty. */
double chalk_sketch_sum(const chalk_sketch *sketch);
/* The least value; NaN when the sketch is empty. Of a cursor's delta it is the lower bound of the lowest bucket. */
double chalk_sketch_min(const chalk_sketch *sketch);
/* The largest value; NaN when the sketch is empty. Of a cursor's delta it is the upper bound of the highest bucket. */
double chalk_sketch_max(const chalk_sketch *sketch);
/* The relative error of quantiles now: (g - 1) / (g + 1) with g = 2^(2^-scale); 0.0000846 at scale 12, to below 1. */
double chalk_sketch_error(const chalk_sketch *sketch);
/* The scale, -11 to 12. */
int chalk_sketch_scale(const chalk_sketch *sketch);
/*
 * The value of rank floor(q * (count - 1)), off by at most chalk_sketch_error of itself; q is 0 to 1. NaN: the sketch
 * is empty, or q is out of its range.
 */
double chalk_sketch_quantile(const chalk_sketch *sketch, double q);
/* Fills in the i-th non-empty bucket in increasing order, from 0 on. 1: it is there; 0: there are not so many. */
int chalk_sketch_bucket(const chalk_sketch *sketch, uint32_t i, chalk_bucket *bucket);

/*
 * Snapshots: what all series stood at, in private memory. The entries of a metric stand together, in the order of the
 * series' numbers. Keys and histograms are read from the segment when they are first asked for; a series that has gone
 * by then has none. The segment stays open while the snapshot is used.
 */
enum {
  CHALK_DROPPED = 1, /* also dropped series that a cursor may not have sent yet. Only the holder */
  CHALK_UNSET = 2    /* also gauges that were never set, as 0 */
};
typedef struct chalk_entry {
  uint32_t series;
  uint32_t generation;
  uint32_t metric;
  uint32_t dropped; /* 1: the series was dropped, and stands at what it was dropped with */
  union {
    int64_t total; /* count; histogram: the number of values recorded */
    double value;  /* gauge */
  };
} chalk_entry;
/* Takes a snapshot. `what` is CHALK_DROPPED, CHALK_UNSET, both or 0; other bits do not count. NULL: out of memory. */
chalk_snapshot *chalk_snapshot_take(chalk_segment *segment, int what, char *message);
/* NULL is allowed. */
void chalk_snapshot_free(chalk_snapshot *snapshot);
/* The entries, good until the snapshot is freed, and how many there are, to *count. */
const chalk_entry *chalk_snapshot_entries(const chalk_snapshot *snapshot, uint32_t *count);
/*
 * Copies the tag values of entry i to `out`, encoded as in chalk_series, and returns their size. 16,448 bytes are
 * always enough. 0: the metric has no tags, the series is gone, `size` is too small, or there is no entry i.
 */
size_t chalk_snapshot_key(chalk_snapshot *snapshot, uint32_t i, char *out, size_t size);
/*
 * The sketch of histogram entry i, of all time, empty if the series is gone. It belongs to the snapshot. For an entry
 * of another kind it has no meaning. NULL: out of memory, or there is no entry i.
 */
const chalk_sketch *chalk_snapshot_sketch(chalk_snapshot *snapshot, uint32_t i);
/*
 * The bounds of histogram entry i and their cumulative counts, +Inf last: room for CHALK_LES + 1 of each. Returns how
 * many. 0: out of memory, the series is gone, or there is no entry i.
 */
uint32_t chalk_snapshot_les(chalk_snapshot *snapshot, uint32_t i, double *bounds, uint64_t *counts);

/* The names in a metric's sample lines. All texts are valid in the format as they are; values of tags are escaped. */
typedef struct chalk_family {
  const char *sample; /* of a count or gauge */
  const char *bucket; /* of a histogram: three names */
  const char *sum;    /* NULL: leave out both sum and count */
  const char *count;
  const char *constant;      /* labels on every line, formatted: env="prod"; NULL: none */
  const char *const *labels; /* a name for each tag */
  const char *const *le;     /* texts of the bounds to show, without +Inf */
  const uint32_t *le_index;  /* their places among the metric's own, from 0 on, increasing */
  uint32_t n_labels;         /* up to CHALK_TAGS; more do not count */
  uint32_t n_le; /* up to CHALK_LES; the first one that is none of the metric's, and all after it, do not count */
} chalk_family;
/*
 * Renders the lines of one metric's entries, from entry *next up to and without `last`, into `out`, room for `size`
 * bytes, until the next entry might not fit; advances *next. A `last` behind the snapshot's end means its end. Returns
 * the bytes written. 0 with *next before `last`: one entry alone needs more room.
 */
size_t chalk_snapshot_render(chalk_snapshot *snapshot, const chalk_family *family, uint32_t *next, uint32_t last,
                             char *out, size_t size);

/*
 * The shortest decimal that reads back to the same double. `out` has room for 32 bytes; returns the size, adds no NUL.
 */
size_t chalk_text_double(char *out, double v);
/* The same as the canonical text of an `le` bound (OpenMetrics 1.0, "Considerations: Canonical Numbers"). */
size_t chalk_text_bound(char *out, double v);

/*
 * Flushing: the holder of a segment flushes for all.
 *
 * A generation is a number of a configuration, which each `init` raises: a holder lets go of the role when a process of
 * a higher one asks for it.
 */

/*
 * Asks for the role; repeated ten times a second by who wants it. 1: this thread holds it from now on, and lets go of
 * it itself, by chalk_release. 0: another thread or process holds it or is to have it.
 */
int chalk_hold(chalk_segment *segment, uint32_t generation);
/* 1: a process of a generation above this one asks for the role, or this process has lost it: the holder lets go. */
int chalk_is_claimed(chalk_segment *segment, uint32_t generation);
/*
 * Says that the next flush is the holder's last, so that processes that end meanwhile flush for themselves. Only the
 * holder.
 */
void chalk_leave(chalk_segment *segment);
/* Lets go of the role. Only the holder, from the thread that took it. */
void chalk_release(chalk_segment *segment);
/*
 * Says that the holder's loop turns; more often than twice a second, or a stopped holder is succeeded. Only the holder.
 */
void chalk_heartbeat(chalk_segment *segment);
/* The segment's generation; `raise` not 0: raised by one before. */
uint32_t chalk_generation(chalk_segment *segment, int raise);
/* Raises the segment's generation to this one, if it is lower. */
void chalk_generation_reach(chalk_segment *segment, uint32_t generation);
/* Asks the holder for a flush. Returns a ticket, from 1 on. */
uint64_t chalk_flush_request(chalk_segment *segment);
/*
 * Says that all flushes up to this ticket are done; a ticket that was not given yet stands for the last one. Only the
 * holder.
 */
void chalk_flush_done(chalk_segment *segment, uint64_t ticket);
/*
 * Waits until the ticket's flush is done, at most `timeout` seconds: CHALK_OK, or 1 when it is not. A timeout that is
 * not above 0 only looks.
 */
int chalk_flush_wait(chalk_segment *segment, uint64_t ticket, double timeout);
/*
 * Drops series that were idle, frees definitions that nobody uses and makes cells of dropped series reusable.
 * `snapshot` was just taken, by the holder, who flushes nothing meanwhile. `now` is the time of a clock that does not
 * go back, the same for all calls of this function and of cursors. `idle` has the seconds after which a count, a gauge
 * and a histogram are idle, in this order; 0 or less, or NaN: never.
 *
 * Returns how many series were dropped, or CHALK_EMEMORY. Only the holder.
 */
int chalk_sweep(chalk_snapshot *snapshot, double now, const double *idle);

/*
 * Cursors: what an exporter has sent of each series. A cursor stays in the segment when its exporter's process ends,
 * and is found again by its name. There are 16. Only the holder uses them.
 */

/*
 * Opens the cursor of this name, at most 239 bytes. One that is not there yet starts at the totals of now; or, with
 * `fresh` not 0, at zero. NULL: 16 others are in use, the name is too long, no memory, or the role is lost.
 */
chalk_cursor *chalk_cursor_open(chalk_segment *segment, const char *name, int fresh, double now, char *message);
/* Frees the caller's memory; what the cursor has sent stays in the segment. Any thread may call it. */
void chalk_cursor_close(chalk_cursor *cursor);
/* Says that the exporter still exists. A cursor that nobody touches or commits for a day is freed by a sweep. */
void chalk_cursor_touch(chalk_cursor *cursor, double now);
/* 1: the segment has a cursor, or had one. Any process may call it. */
int chalk_cursors_ever(chalk_segment *segment);
/*
 * What came since, of entry i of a count or histogram: the sum, or how many values; from 0 on. Without a cursor (NULL):
 * all of it. 0: nothing came, or there is no entry i.
 */
int64_t chalk_cursor_delta(chalk_cursor *cursor, chalk_snapshot *snapshot, uint32_t i);
/* The same of a histogram, as a sketch that the caller frees. NULL: out of memory, or there is no entry i. */
chalk_sketch *chalk_cursor_delta_sketch(chalk_cursor *cursor, chalk_snapshot *snapshot, uint32_t i);
/*
 * The same as cumulative counts of the histogram's bounds, +Inf last: `counts` is room for CHALK_LES + 1. Returns how
 * many. 0: out of memory, or there is no entry i. After a part of an entry was committed the counts need not rise.
 */
uint32_t chalk_cursor_delta_les(chalk_cursor *cursor, chalk_snapshot *snapshot, uint32_t i, uint64_t *counts);
/*
 * Marks the entries from `first` up to and without `last` as sent; a `last` behind the snapshot's end means its end.
 * CHALK_EMEMORY: some were not marked, and are sent again. CHALK_EINVALID: the role is lost, and none was marked.
 */
int chalk_cursor_commit(chalk_cursor *cursor, chalk_snapshot *snapshot, uint32_t first, uint32_t last, double now);

/*
 * The event tap: each record as it happens. Where it is on, a record costs a call, and behind it an event is stored
 * into a ring of the writer's; a ring that is full drops what comes.
 */
enum {
  CHALK_EVENT_INC = 1,   /* count: raised by the value, a whole number from 0 to 2^53 */
  CHALK_EVENT_SET = 2,   /* gauge: set to the value */
  CHALK_EVENT_UP = 3,    /* gauge: raised by the value, which is not negative */
  CHALK_EVENT_DOWN = 4,  /* gauge: lowered by the value, which is not negative */
  CHALK_EVENT_RECORD = 5 /* histogram: the value was recorded */
};
enum {
  CHALK_TAP_LEAST = 8192,   /* the fewest events that a ring has room for */
  CHALK_TAP_MOST = 1048576, /* the most events that a ring has room for */
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
 * Switches the tap. `kinds` is a sum of 1 << CHALK_COUNT ...; other bits do not count, and 0 is off. `events` is the
 * room of a ring, rounded up to a power of two from CHALK_TAP_LEAST to CHALK_TAP_MOST. With `widen` not 0 the kinds and
 * the room are added to what is on, which any process may do; otherwise they replace it: only the holder.
 */
void chalk_tap_switch(chalk_segment *segment, uint32_t kinds, uint32_t events, int widen);
/* The kinds that the tap is on for, as chalk_tap_switch takes them. */
uint32_t chalk_tap_kinds(chalk_segment *segment);
/* How often the rings of all writers were read to their ends. It wraps at 2^32. */
uint32_t chalk_tap_passes(chalk_segment *segment);
/*
 * A reader of the rings; of several only the last is one. `keep` not 0: with the events that are in the rings already.
 * NULL: out of memory. Only the holder.
 */
chalk_tap *chalk_tap_open(chalk_segment *segment, int keep, char *message);
/* Frees the reader; the events that it has not read stay in the rings. */
void chalk_tap_close(chalk_tap *tap);
/*
 * Takes the next batch of events out of the rings, in order of time. Returns how many, up to CHALK_TAP_BATCH. 0: that
 * was all there was when this pass began, or the role is lost. Only the holder.
 */
uint32_t chalk_tap_read(chalk_tap *tap);
/* The events of the batch that was read last, good until the next read. */
const chalk_event *chalk_tap_events(const chalk_tap *tap);
/* How many events were dropped since the last call, because their ring was full or there was none. Only the holder. */
uint64_t chalk_tap_dropped(chalk_tap *tap);

/*
 * The event stream: events as messages of protobuf to clients over stream sockets, see stream.c. No function waits: a
 * client that does not read falls behind, and of all that it lacks the oldest goes, but for the last `most` messages. A
 * metric is told of before its first event. A stream belongs to one thread.
 */
typedef struct chalk_stream chalk_stream;
typedef struct chalk_stream_metric {
  const char *name, *unit, *description;
  const char *const *labels;    /* a name for each tag */
  const char *const *constants; /* labels of all: names and values by turns, 2 * n_constants texts */
  uint32_t kind;                /* CHALK_COUNT ... */
  uint32_t n_labels, n_constants;
} chalk_stream_metric;
/*
 * A stream of this segment's events. `most` is how many messages are kept for clients; 0: as many as there are.
 * `listener` is a listening socket that does not block, which is closed with the stream. NULL: out of memory, and the
 * listener is still the caller's.
 */
chalk_stream *chalk_stream_new(chalk_segment *segment, uint32_t most, int listener);
/* Closes the listener and all clients. NULL is allowed. */
void chalk_stream_free(chalk_stream *stream);
/*
 * Says how a metric is told of from now on. CHALK_EINVALID: `metric` is above 4095, or the kind is none. CHALK_EMEMORY:
 * the stream is as it was.
 */
int chalk_stream_define(chalk_stream *stream, uint32_t metric, const chalk_stream_metric *definition);
/* 1: the metric was defined here, and its number belongs to no other since; 0 also for a number above 4095. */
int chalk_stream_knows(const chalk_stream *stream, uint32_t metric);
/*
 * Takes the first n events of the batch that `tap` read last (all, if n is more), and sends them. Returns the number of
 * a metric that has to be defined, or its event passed over, before the call is made again; -1: that was all.
 */
int chalk_stream_take(chalk_stream *stream, const chalk_tap *tap, uint32_t n);
/* Leaves out the event that chalk_stream_take stopped at, and counts it as dropped. */
void chalk_stream_pass_over(chalk_stream *stream);
/* Sends what clients lack and their sockets take. */
void chalk_stream_send(chalk_stream *stream);
/*
 * Accepts one client. Returns its number, 0 to 63, or a negative errno: -EAGAIN if nobody waits, -EUSERS at 64 clients.
 */
int chalk_stream_accept(chalk_stream *stream);
/* Closes a client; without effect for a number that is none's. */
void chalk_stream_close(chalk_stream *stream, uint32_t client);
/*
 * How many clients there are, after those who have gone were closed. 0: memory is given back, and metrics are
 * forgotten.
 */
uint32_t chalk_stream_clients(chalk_stream *stream);
/*
 * Events that did not arrive, since the last call: with `by_clients` not 0 those that clients fell behind, counted for
 * each client; otherwise those whose series had gone, that were passed over, or for which there was no memory.
 */
uint64_t chalk_stream_dropped(chalk_stream *stream, int by_clients);

/*
 * StatsD: lines of what came since a cursor's last commit (without a cursor: of all), packed into packets of at most a
 * size. Fill one family after the other. When a packet is full, send it, commit, begin another and go on from *next,
 * where an entry may be under way. Entries that were whole are committed by chalk_cursor_commit, and of one that goes
 * on what chalk_statsd_commit marks. Gauges are noted as sent when they are packed: after a failure to send, forget. A
 * packer belongs to one thread. The core writes the format; the caller chooses every name and limit, in the family.
 */
enum {
  CHALK_STATSD_VALUES,      /* a line of a value for each bucket, with a sample rate */
  CHALK_STATSD_PERCENTILES, /* gauges of quantiles and aggregates */
  CHALK_STATSD_BUCKETS,     /* counts of `le` bounds */
  CHALK_STATSD_RAW          /* nothing here: single values, see chalk_statsd_raw */
};
/* What of a histogram is a gauge of its own in the mode of percentiles. */
enum {
  CHALK_STATSD_COUNT,
  CHALK_STATSD_SUM,
  CHALK_STATSD_AVG,
  CHALK_STATSD_MIN,
  CHALK_STATSD_MAX,
  CHALK_STATSD_QUANTILE
};
/* A gauge of a histogram in the mode of percentiles. */
typedef struct chalk_statsd_gauge {
  const char *suffix; /* of the metric's name: ".count", ".p50" */
  double quantile;    /* 0 to 1, for CHALK_STATSD_QUANTILE */
  uint32_t size;      /* of the suffix, in bytes */
  uint32_t what;      /* CHALK_STATSD_COUNT ... */
} chalk_statsd_gauge;
enum { CHALK_STATSD_WEIGHT = 1000000 }; /* most values that a line may stand for */
typedef struct chalk_statsd chalk_statsd;
/* How a metric's lines look. All texts are used during the call; no pointer is NULL but those of zero items. */
typedef struct chalk_statsd_family {
  const char *name;                 /* all names and constant tags are safe text, ended with NUL */
  const char *const *labels;        /* a key for each tag, at most 198 characters */
  const uint32_t *value_most;       /* most characters of each tag's value, 9 at least; a longer value is cut */
  const char *absent;               /* what stands for an empty value in a name: "none" */
  const char *tags;                 /* constant tags, "env:prod,team:a", or "" */
  const char *tail;                 /* behind the tags of every line: "|c:ci-12", or "" */
  const char *timestamp;            /* behind that on counts and gauges: "|T1700000000", or "" */
  const char *type;                 /* of a histogram's values: "d", "h", "ms" */
  const chalk_statsd_gauge *gauges; /* of percentiles, in the order of their lines */
  const char *const *le_tags;       /* of the bounds to send, +Inf too: "le:0.5" */
  const char *const *le_suffixes;   /* the same for names: ".le_0_5" */
  const uint32_t *le_index; /* their places among the metric's own, 0 to CHALK_LES; those it has not are left out */
  double factor;            /* of a histogram's values; finite */
  uint64_t max_weight;      /* most values that one may stand for, 1 to CHALK_STATSD_WEIGHT; of CHALK_STATSD_VALUES */
  uint32_t n_labels;        /* 0 to CHALK_TAGS */
  uint32_t n_gauges;
  uint32_t n_le;         /* 0 to CHALK_LES + 1 */
  uint32_t mode;         /* of histograms: CHALK_STATSD_VALUES ... */
  uint32_t pack;         /* not 0: several values in a line */
  uint32_t fold;         /* not 0: tag values go into the name, and there are no tags */
  uint32_t relative;     /* not 0: a gauge below zero needs a zero before it */
  uint32_t changed_only; /* not 0: gauges that were not sent like this before */
} chalk_statsd_family;
/* What was packed since the packer was made. */
typedef struct chalk_statsd_totals {
  uint64_t metrics;  /* entries with at least one line */
  uint64_t lines;    /* in packets */
  uint64_t too_long; /* lines that are longer than a packet, which are left out */
} chalk_statsd_totals;
/* A packer of packets of at most `max_packet` bytes, 1 to 2^32 - 1. NULL: it is 0, or out of memory. */
chalk_statsd *chalk_statsd_new(uint32_t max_packet);
/* NULL is allowed. */
void chalk_statsd_free(chalk_statsd *statsd);
/*
 * Packs lines of one metric's entries, from *next up to and without `last`; a `last` behind the snapshot's end means
 * its end. Advances *next. CHALK_OK: all are packed. 1: the packet is full. CHALK_EINVALID: a number of the family is
 * out of its range, and nothing was packed. CHALK_EMEMORY: *next is the entry that was not packed.
 */
int chalk_statsd_fill(chalk_statsd *statsd, const chalk_statsd_family *family, chalk_cursor *cursor,
                      chalk_snapshot *snapshot, uint32_t *next, uint32_t last);
/* The packet and its size, 0 to max_packet; good until the packer is used again. */
const char *chalk_statsd_packet(chalk_statsd *statsd, uint32_t *size);
/* Begins an empty packet; the entry under way goes on in it. */
void chalk_statsd_begin(chalk_statsd *statsd);
/*
 * Marks as sent what the packet before this one had of the entry that goes on. CHALK_OK also if there was nothing.
 * CHALK_EMEMORY, or CHALK_EINVALID when the role is lost: it is not marked, and is sent again. Only the holder.
 */
int chalk_statsd_commit(chalk_statsd *statsd, chalk_cursor *cursor, chalk_snapshot *snapshot, double now);
/* As a new packer, but for its totals: no packet, no entry under way, no gauge sent. */
void chalk_statsd_forget(chalk_statsd *statsd);
/* Fills in all of *totals. */
void chalk_statsd_count(const chalk_statsd *statsd, chalk_statsd_totals *totals);
/*
 * The sample rate of a value that stands for n: the shortest decimal whose inverse receivers cut to n. n is 1 to
 * CHALK_STATSD_WEIGHT; `out` has room for 24 bytes. Returns the size, adds no NUL. 0: a larger n that has none.
 */
size_t chalk_statsd_rate(char *out, uint64_t n);

/*
 * StatsD lines of single values, from the event tap: a queue of packets. It has what histograms in the mode
 * CHALK_STATSD_RAW recorded. A queue belongs to one thread.
 */
typedef struct chalk_statsd_raw chalk_statsd_raw;
/* Of all values since the queue was made. */
typedef struct chalk_statsd_raw_totals {
  uint64_t values;   /* in packets */
  uint64_t dropped;  /* for which the queue, or memory, had no room, or whose series had gone */
  uint64_t too_long; /* whose line is longer than a packet */
} chalk_statsd_raw_totals;
/*
 * A queue of packets of at most `max_packet` bytes, from 1 on, with room for `most` values; 0: for none. NULL:
 * `max_packet` is 0, or out of memory.
 */
chalk_statsd_raw *chalk_statsd_raw_new(chalk_segment *segment, uint32_t max_packet, uint64_t most);
/* NULL is allowed. */
void chalk_statsd_raw_free(chalk_statsd_raw *raw);
/*
 * Says how a metric's values are sent: each with the probability `rate`, 0 to 1, as 1 / rate values. The family has to
 * outlive the queue, or its next definition; NULL: the values are not sent. CHALK_EINVALID: `metric` is above 4095,
 * 1 / rate is above CHALK_STATSD_WEIGHT, or a number of the family is out of its range.
 */
int chalk_statsd_raw_define(chalk_statsd_raw *raw, uint32_t metric, const chalk_statsd_family *family, double rate);
/*
 * Takes the first n events of the batch that `tap` read last (all, if n is more). Returns the number of a metric that
 * has to be defined before the call is made again; -1: that was all.
 */
int chalk_statsd_raw_take(chalk_statsd_raw *raw, const chalk_tap *tap, uint32_t n);
/* How many packets wait to be sent; `partial` not 0: with one that has room. */
uint32_t chalk_statsd_raw_packets(const chalk_statsd_raw *raw, int partial);
/*
 * The first packet and its size, good until chalk_statsd_raw_next; NULL: there is none. Nothing is added to it any
 * more.
 */
const char *chalk_statsd_raw_packet(chalk_statsd_raw *raw, uint32_t *size);
/* Takes the first packet out of the queue: it has arrived. Without effect if there is none. */
void chalk_statsd_raw_next(chalk_statsd_raw *raw);
/* Fills in all of *totals. */
void chalk_statsd_raw_count(const chalk_statsd_raw *raw, chalk_statsd_raw_totals *totals);
/* The number of a metric with a line too long, each once until it has another; -1: no more. */
int chalk_statsd_raw_long(chalk_statsd_raw *raw);

/*
 * The flush thread: runs a Lua chunk, with strings as its arguments, in a VM of its own. It is started once this
 * configuration can have the flusher's role of `segment`, if one is given; until then the thread waits, without a VM
 * and without a descriptor. The chunk may return a message: it has failed, and is tried again after a pause, as it is
 * when descriptors are lacking, until the thread is asked to stop.
 */
typedef struct chalk_lua {
  void *(*newstate)(void);
  void (*openlibs)(void *state);
  int (*loadbuffer)(void *state, const char *text, size_t size, const char *name);
  void (*pushlstring)(void *state, const char *text, size_t size);
  int (*pcall)(void *state, int arguments, int results, int handler);
  const char *(*tolstring)(void *state, int index, size_t *size);
  void (*close)(void *state);
} chalk_lua; /* what is needed of the Lua API; called in the flush thread only */
/*
 * Starts a thread. `texts` and `sizes` have n items, at least 1: the chunk, then its arguments. `segment` may be NULL,
 * and otherwise has to stay open until the thread has ended. NULL: n is 0, no memory, or no thread to be had.
 */
chalk_thread *chalk_thread_start(const chalk_lua *lua, const char *const *texts, const size_t *sizes, uint32_t n,
                                 chalk_segment *segment, uint32_t generation, char *message);
/* In a flush thread: itself; elsewhere NULL. */
chalk_thread *chalk_thread_self(void);
/* A descriptor that is readable when the thread was asked for something; -1 as long as it has no VM. For its loop. */
int chalk_thread_fd(const chalk_thread *thread);
/* Makes the thread look for what it is asked for. From any thread, as the next three. */
void chalk_thread_wake(chalk_thread *thread);
/* Asks for a last flush and the end. Without effect in a forked child. */
void chalk_thread_stop(chalk_thread *thread);
/* Asks for the end of a thread whose chunk failed: it is not tried again. Without effect in a forked child. */
void chalk_thread_abandon(chalk_thread *thread);
/* 1: the thread was asked to end. */
int chalk_thread_stopping(const chalk_thread *thread);
/* Takes what made the descriptor readable. From the thread itself. */
void chalk_thread_drain(chalk_thread *thread);
/* Says that the chunk has started, or with a message why not; the first call counts. From the thread itself. */
void chalk_thread_ready(chalk_thread *thread, const char *message);
/*
 * Waits until the thread stands by or its chunk has started, at most `timeout` seconds (0 if it is not above, 30 years
 * if it is more). CHALK_EINVALID: it failed, or did not in time.
 */
int chalk_thread_wait_ready(chalk_thread *thread, double timeout, char *message);
/* Waits for the thread's end, in the same way. 1: it has ended, or is another process's; 0: it has not in time. */
int chalk_thread_wait(chalk_thread *thread, double timeout);
/* Frees a thread that has ended; without effect on one that has not. */
void chalk_thread_free(chalk_thread *thread);
/*
 * 1: enough descriptors are free to load luv, which crashes over a loop that it could not make; 0: `message` says so.
 */
int chalk_has_room(char *message);

/*
 * Listening sockets, remembered for a client's name and an address. All texts are copied.
 */

/*
 * Opens a listening stream socket at "127.0.0.1:9464", "[::1]:9464", "localhost:0" or "unix:///path", and remembers it
 * until chalk_unlisten. Where a path is taken, only a socket of this user's that nobody listens at gives way.
 * CHALK_EINVALID: `message` says what is in the way. Waits while a name is resolved.
 */
int chalk_listen(const char *client, const char *address, char *message);
/* A copy of its descriptor, which the caller closes; negative: there is none, as in a forked child. */
int chalk_accept_fd(const char *client, const char *address);
/* Lets other users connect to a unix socket of this user's; CHALK_EINVALID: there is none. Of no effect elsewhere. */
int chalk_listen_to_all(const char *address);
/* Closes this process's socket at the address; without effect if there is none. */
void chalk_unlisten(const char *client, const char *address);
/*
 * Says whether the configuration which listens there is in force. 1: it is, as is so anyway once a child of the process
 * has the socket. 0: it never will be, and a socket that belongs to none in force is closed.
 */
void chalk_listen_settle(const char *client, const char *address, int in_force);
/* Shuts all of the client's sockets but those at these n addresses, here and in every process that has them. */
void chalk_listen_only(const char *client, const char *const *addresses, uint32_t n);

/*
 * For a server with worker processes. 1: forked children, and a program that this one is replaced by, go on with the
 * named segments and the sockets that are open; what is opened from now on may have come so. 0: from this process on
 * nothing is handed on, for good.
 */
void chalk_inherit(int on);
/* 1: it was switched off in this process or a parent of it, which is a worker. */
int chalk_is_worker(void);

/*
 * Agreements: what the VMs of a server's first process settle before it forks. All that join under one client's name in
 * one `cycle` share a text; the cycle tells a configuration of the server from the next. An agreement goes with the
 * last to leave. A forked child goes on with a text of its own.
 */
typedef struct chalk_agreement chalk_agreement;
/* Joins, or begins, an agreement. NULL: out of memory. */
chalk_agreement *chalk_agreement_join(const char *client, uint64_t cycle);
/* Leaves it, once for each join. */
void chalk_agreement_leave(chalk_agreement *agreement);
/* The text that was put last, good until another is put or the agreement ends; NULL: none was. */
const char *chalk_agreement_text(const chalk_agreement *agreement);
/* Puts a copy of a text. CHALK_EMEMORY: the one before stays. */
int chalk_agreement_put(chalk_agreement *agreement, const char *text);

/* ffi: end */

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
