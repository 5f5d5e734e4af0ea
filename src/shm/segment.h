/*
 * The segment: one MAP_SHARED mapping with everything that processes share.
 *
 *   header | stripes, cursors           allocated when the segment is created
 *   slots      OWNERS structs           the first WRITERS allocated at creation, the others as VMs come, see slot.h
 *   metrics    METRICS structs          allocated as definitions come
 *   series     `capacity` structs       allocated as series come; the first METRICS are overflow series
 *   cells      WRITERS rows of `capacity` doubles, allocated chunk by chunk when the writer of the row binds
 *   baselines  CURSORS rows of `capacity` pairs, allocated in the same way
 *   heap       the rest: names, tag values, histograms, tables of sketches
 *
 * The address range of all this is reserved at once, without memory behind it, so addresses never move. Memory is "made
 * real", that is allocated with fallocate(), before its first use: a full disk is then an error to handle, and never a
 * SIGBUS at a store. The segment contains offsets, never pointers, because each process maps it at another address.
 *
 * The number of a series is also the number of its cells: cells[slot][series]. A cell whose bits are not zero was
 * bound by the VM of that slot. Its content depends on the kind of the metric:
 *
 *   count             The double that the owner of the slot adds to, with relaxed loads and stores. Binding stores
 *                     BOUND. Slot 0 is shared, so its cell changes under the lock of the series' stripe, by
 *                     compare-and-swap or by a residue.
 *   histogram,        The heap offset of the writer's block. The owner of the slot stores it with release when the
 *   `across` gauge    block is filled. The holder empties the cell when it reclaims the series. In slot 0, the cell of an
 *                     `across` gauge is the first link of a list, see gauge.h.
 *   `last` gauge      BOUND. The value is stored in the series.
 *
 * Readers load a cell with acquire.
 *
 * Locks. All locks are robust and shared between processes. A process may die at any store that it makes under a lock.
 * So each lock protects data that one store publishes, or that the next owner of the lock can rebuild.
 *
 *   seats       grant the flusher's role: the holder owns the seat in force all the time, see role.h
 *   acting      what only the holder changes: cursors, baselines, the reading of events, sweeps
 *   registry    definitions, slots, and the freeing of cells
 *   stripes     one lock each: the chains of its series, their creation and drop, the records of slot 0 into them
 *   ids_lock    the list of free series numbers
 *   tap_lock    the event ring of slot 0
 *   heap_lock   the lists of free blocks, and the top of the heap
 *
 * A thread that holds a lock waits only for locks below it in this table. A thread that holds a stripe does not wait
 * for another stripe, except to count all series again, which takes all stripes in the order of their numbers.
 *
 * Memory order. A field of an atomic type is loaded and stored with sequential consistency, unless its comment names a
 * weaker order. The named order is then the weakest that is correct; an access may be stronger. A plain field is
 * accessed under the lock, or by the writer, that its comment names, or as peek.h describes. A comment names first who
 * stores the field: "the owner" is the VM that has the slot; "the holder" holds the flusher's role and, unless the
 * comment says otherwise, `acting`; "anybody" is any thread of any process that has the segment. A statistic is
 * relaxed, because it orders nothing.
 */
#ifndef SEGMENT_H
#define SEGMENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/bits.h"
#include "chalk.h"

enum {
  SEGMENT_LAYOUT = 3,
  WRITERS = 128, /* slots with a row of cells */
  OWNERS = 4096, /* all slots; those from WRITERS on have no row, their VMs share the row of slot 0 */
  METRICS = 4096,
  STRIPES = 64,
  CURSORS = 16,
  SEATS = 4,          /* one more than the holders that may be stopped at the same time */
  CHUNKS = 2048,      /* the most chunks of a row of cells or baselines; a chunk is the unit that is made real */
  CHUNK_LEAST = 512,  /* the fewest items in a chunk, which are a page of cells */
  HEAP_CLASSES = 160, /* four for each doubling of the size */
  NONE = 0xffffffffu
};

typedef _Atomic uint64_t shared_u64;
typedef _Atomic uint32_t shared_u32;

/* A lock in shared memory, on a cache line that it shares with nothing else. */
typedef struct segment_lock {
  _Alignas(64) pthread_mutex_t mutex;
} segment_lock;

/*
 * The identity of the owner of a slot or of the flusher's role, in enough detail to prove the owner's death. The
 * process that takes a slot stores the slot's owner under the registry lock, before `turn` and `taken`. The holder
 * stores header.flusher. Anybody reads both. The fields are stored one by one, so what a reader has read belongs to one
 * owner only if the `turn` of the slot has not moved meanwhile.
 */
typedef struct owner {
  shared_u32 pid;
  shared_u32 image; /* of its program, so it changes with exec; 0: not known */
  shared_u64 start; /* start time of the process, in clock ticks since boot */
  shared_u64 space; /* its pid namespace; 0: not known, or its /proc is of another namespace */
  /* For slots only: the byte of the file that the process or its family has locked, see life.h; 0: none. */
  shared_u64 life;
} owner;

/*
 * A slot: what the segment knows about one VM. The slot is taken, given back, and freed in the name of a dead owner,
 * under the registry lock. In between its owner writes it. The fields behind `uses` belong to the row of cells, so
 * guest slots do not use them.
 */
typedef struct slot {
  /* 1: taken, stored with release when all fields below are set for the new owner. 0: free. */
  _Alignas(64) shared_u32 taken;
  shared_u32 turn; /* how often the slot was taken; moves after `owner` is stored and before `taken` */
  owner owner;
  /* The epoch that the VM has acted on. The owner, store-release; load-acquire. */
  shared_u64 seen;
  /* The metrics that the VM uses, one bit each. Set under the registry lock; the owner clears bits without it. */
  shared_u64 uses[METRICS / 64];
  /* The chunks of its row of cells that are real. Anybody, or-release after fallocate; load-acquire. */
  shared_u64 chunks[CHUNKS / 64];
  shared_u64 ring; /* the ring of its events, see tap.h; the owner, store-release; of slot 0 under tap_lock */
  /* A ring that was too small and is empty; as `ring`. The holder sets it to 0 and frees the ring. */
  shared_u64 ring_old;
  shared_u64 dropped;          /* events that did not fit into the ring; as `ring`, but a statistic */
  shared_u64 dropped_reported; /* those that have been reported; the holder, a statistic */
} slot;

/*
 * A stripe of the series table: a hash table of series, chained through series.next. The fields from `handing_over` on
 * are a residue that is being handed over, see handover.h. All fields are read and written under the lock of the
 * stripe.
 */
typedef struct stripe {
  segment_lock lock;
  uint64_t heads; /* heap offset of `size` uint32: the first series of each chain, or NONE */
  uint32_t size;  /* a power of two */
  uint32_t used;  /* number of series in the chains */
  /* 1, stored with release: the fields below are complete, and the residue may have been handed over in part. */
  shared_u32 handing_over;
  uint32_t handover_from, handover_to;
  uint64_t handover_value, handover_at_drop;
} stripe;

enum { METRIC_FREE, METRIC_LIVE, METRIC_SUPERSEDED };

/*
 * A definition. It is written under the registry lock, published by `state`, and unchanged until the metric leaves,
 * unless the comment of a field says otherwise. Anybody reads the atomic fields without the lock and checks afterwards
 * that the generation of the metric's overflow series has not moved; plain fields are read under the registry lock.
 */
typedef struct metric {
  shared_u32 state; /* LIVE is stored with release; load-acquire */
  shared_u32 kind, across, tags, les;
  shared_u32 max_series; /* 0: no limit; NONE: a metric of chalk itself, outside all limits; may change while in use */
  /* Number of live series but the overflow series. The thread that creates or drops one, under its stripe. */
  shared_u32 series;
  shared_u32 generation;  /* of the configuration that defined the metric last */
  uint64_t hash;          /* of the name */
  shared_u64 name, shape; /* heap offsets */
  uint64_t name_size, shape_size;
  /* The heap offset of its size, followed by its bytes. It may be replaced while the metric is in use. */
  shared_u64 blob;
  shared_u64 le;              /* heap offset of `les` doubles */
  shared_u64 folded;          /* number of folded lookups; anybody, a statistic */
  shared_u64 folded_reported; /* those that have been reported; the holder without a lock, a statistic */
} metric;

enum { SERIES_FREE, SERIES_RESERVED, SERIES_LIVE, SERIES_DROPPED };
enum { GAUGE_UNSET = 0, GAUGE_TOUCHED = 1, GAUGE_SET = 2 }; /* the mark of a gauge, stored as a double */

/*
 * The value of a gauge before the first record. Records turn -0.0 into 0.0, and adding to -0.0 has the same result as
 * adding to 0.0, so a compare-and-swap that finds -0.0 knows that no record into the gauge has begun.
 */
#define GAUGE_FRESH (-0.0)

/*
 * A series. It is created and dropped under the lock of its stripe, and `state` is stored last. `key` and `metric` stay
 * readable while the series is in quarantine, and `generation` moves before they are reused: a reader without the lock
 * copies them and then checks the generation again. "The creator" holds the lock of the stripe and has reserved the
 * number; an overflow series is created together with its metric, and leaves with it, under the registry lock. "The
 * holder's" fields are set by the creator until the series is LIVE.
 */
typedef struct series {
  /*
   * SERIES_...; for RESERVED, the bits above 8 are the stripe. LIVE (with release) and DROPPED are stored under the
   * lock of the stripe, RESERVED and FREE under ids_lock. Load-acquire.
   */
  shared_u32 state;
  shared_u32 generation; /* the holder, when it reclaims the series, before it takes the key away; load-acquire */
  shared_u32 metric;     /* the creator, relaxed */
  /* The next series in the chain (lock of the stripe) or in the list of free numbers (ids_lock). */
  uint32_t next;
  shared_u64 hash;     /* the creator, relaxed */
  shared_u64 key;      /* heap offset; the creator, after key_size; the holder stores 0 when it reclaims the series */
  shared_u32 key_size; /* the creator, relaxed */
  /* The holder's. 1: a value was recorded since creation; 2: the series is dropped, and seen_time is of the drop. */
  uint32_t active;
  /*
   * The holder's: the number of the tap reader's pass (header.tap_pass) after which no ring has an event of this series; 0:
   * not determined yet.
   */
  uint32_t pass;
  shared_u64 drop_epoch; /* lock of the stripe; SERIES_UNSETTLED until `at_drop` is true, see series_is_settled */
  /*
   * For a `last` gauge. Its value is a double, stored relaxed or by compare-and-swap. Then its mark is stored with
   * release: GAUGE_... as a double. Anybody stores both, and loads the mark with acquire before the value. The holder
   * takes the mark by compare-and-swap.
   */
  shared_u64 gauge, mark;
  uint64_t seen_total; /* the holder's: the total at the last sweep */
  /* The holder's, in seconds of its clock: the time of the last record, or when the drop was first seen. */
  double seen_time;
  /*
   * The content at the drop. For a count: its total. For a histogram: the heap offset of a stored histogram. For a
   * gauge: 1 if it was dropped as idle, so a late value still counts. Lock of the stripe; the holder stores 0 when it
   * reclaims the series.
   */
  shared_u64 at_drop;
} series;

/*
 * The cell of a count after binding and before any record: the smallest normal double. It does not affect sums, because
 * counts are whole numbers. Adding to it is exact: adding zero leaves it unchanged. (If BOUND were -0.0, adding zero
 * would make it 0.0, which means unbound.)
 */
#define BOUND 0x1p-1022

/*
 * A baseline: what a cursor has sent of a series. The holder writes it. If the generation is that of an earlier series,
 * it first stores a total of 0 and then the generation; the new total comes last. The holder's thread reads it without
 * a lock.
 */
typedef struct baseline {
  /* For a count the total as int64; for a histogram the heap offset of a stored histogram. Store-release. */
  shared_u64 total;
  shared_u32 generation;
  uint32_t spare; /* not used */
} baseline;

/* A cursor. The holder reads and writes it; anybody reads `state`. */
typedef struct cursor_head {
  shared_u32 state; /* 0: free; 1: in use, stored with release after all other fields */
  uint32_t name_size;
  char name[240];                 /* without a NUL */
  double used;                    /* time of the last open, touch or commit, by the clock of the holder */
  shared_u64 chunks[CHUNKS / 64]; /* chunks of its row of baselines that are real; or-release after fallocate */
} cursor_head;

/*
 * The header. The creator of the segment writes all fields before `epoch` except `boot` once, before it sets `ready`. A process that
 * opens the segment checks a copy of them, and later reads only `layout` and `abi` again.
 */
typedef struct header {
  uint64_t magic;
  uint32_t layout;
  uint32_t abi;
  /*
   * The boot of the machine: after another boot, no process that the segment names is alive. A process that opens a
   * file which no other process has open stores it again.
   */
  char boot[40];
  shared_u32 ready;  /* 1 when all other fields are written, store-release */
  uint32_t capacity; /* of series: structs, cells and baselines; a power of two */
  uint64_t size;     /* size of the segment in bytes */
  uint64_t slots, stripes, cursors, metrics, series, cells, baselines, heap; /* offsets */
  /*
   * The bits of a double. A compare-and-swap moves it whenever series are dropped, folded series can be created (a
   * limit was raised, or memory came back), or the tap is switched. Load-acquire before anything is bound by it;
   * relaxed in a record.
   */
  _Alignas(64) shared_u64 epoch;
  _Alignas(64) segment_lock registry;
  segment_lock ids_lock;
  segment_lock heap_lock;
  segment_lock seats[SEATS]; /* for the flusher's role; the seat in force is seats[seat % SEATS], see role.h */
  segment_lock acting;       /* over everything that only the holder changes */
  segment_lock tap_lock;     /* over the ring of slot 0 */
  _Alignas(64) shared_u32 max_series, max_buckets; /* the process that configures; max_buckets: relaxed loads */
  shared_u32 start_scale; /* of the first table of a histogram; the process that configures; relaxed loads */
  shared_u32 ids_top;     /* the number after the highest series ever used; ids_lock, store-release; load-acquire */
  /* Number of live series, without overflow series. The thread that creates or drops one, under its stripe. */
  shared_u32 live;
  /* Number of dropped series. The thread that drops one, under its stripe; the holder, when it reclaims one. */
  shared_u32 quarantined;
  shared_u32 metric_top; /* the number after the highest metric ever used; registry lock, store-release; load-acquire */
  shared_u32 metrics_real; /* number of metric structs that are real; registry lock */
  shared_u32 series_real;  /* number of series structs that are real; ids_lock */
  uint32_t ids_free;       /* head of the list of free series numbers; ids_lock */
  shared_u32 generation;   /* of the configuration, rising; the process that configures */
  shared_u32 cursors_ever; /* 1: a cursor has existed; the holder */
  /*
   * 1: a thread died while it changed the number of series. The next owner of its lock stores 1. The holder counts the
   * series again.
   */
  shared_u32 recount;
  /*
   * 1, forever: a VM had to share slot 0 without a guest slot, so the metrics that it uses are unknown. That VM stores
   * it.
   */
  shared_u32 strangers;
  shared_u32 slot_top;   /* the number after the highest slot with a row ever used; registry lock; load-acquire */
  shared_u32 guest_top;  /* the number after the highest guest slot ever used; registry lock; load-acquire */
  shared_u32 slots_real; /* number of slots that are real; registry lock */
  /* Moves when a slot with a row becomes free; registry lock, or the process that looks for dead owners. */
  shared_u32 vacancies;
  /* When a process last looked for dead owners of rows, in ms. Compare-and-swap by the process that looks next. */
  shared_u32 looked;
  /*
   * What the event tap is on for, see tap.c; 0: off. Compare-and-swap by the holder, or by anybody who widens it;
   * relaxed loads after a record.
   */
  shared_u32 tap;
  shared_u32 tap_announced; /* the value of `tap` for which the epoch was moved; the process that switches */
  shared_u32 tap_turn;      /* counts the readers of the tap, see tap.c; the holder */
  shared_u32 tap_pass;      /* how often the reader has been through all rings; the holder */
  /* Events of writers without a ring, because there was no memory for one. Anybody, a statistic. */
  shared_u64 tap_lost;
  shared_u64 tap_lost_reported; /* those that have been reported; the holder, a statistic */
  shared_u64 folded;            /* number of folded lookups; anybody, a statistic */
  /*
   * When the loop of the holder last ran, and when it last flushed, as bits of doubles. The holder without a lock,
   * relaxed.
   */
  shared_u64 heartbeat, flushed;
  shared_u64 requested; /* the last ticket issued for a flush; anybody */
  shared_u64 done;      /* the last ticket served; the holder without a lock, rising */
  /* Counts the numbers given to locks on the file, see life.h. The process that takes one. */
  shared_u64 lives;
  shared_u32 done_word; /* a futex that moves after `done`; the holder without a lock */
  /* A claim on the flusher's role: generation << 32 | time in ms. The process that asks for the role. */
  shared_u64 claim;
  /* The seat in force, see role.h. The process that replaces a stopped holder, under `acting`. */
  shared_u32 seat;
  /* 1: the holder is in its last flush, so a process that ends now flushes itself. The holder without a lock. */
  shared_u32 leaving;
  owner flusher;      /* the holder; it stores this itself, without a lock; pid 0: no holder */
  uint64_t heap_top;  /* the end of the part that was ever used; heap_lock */
  uint64_t heap_real; /* the end of the part that is real; heap_lock */
  /* The first free block of each class. The first word of a free block is the offset of the next. heap_lock. */
  uint64_t heap_free[HEAP_CLASSES];
  shared_u64 memory; /* bytes that are real; the process that makes memory real, after it has done so */
  /*
   * The process that configures. `memory` may exceed it a little if several processes make memory real at the same
   * time.
   */
  shared_u64 memory_limit;
} header;

/*
 * A segment as one process sees it. The positions of its parts are read and checked once, when the segment is opened.
 * The header's copy of them is not used later, because any process that has the segment can overwrite it.
 */
struct chalk_segment {
  union {
    char *base;
    header *head;
  };
  size_t size;                     /* in bytes */
  uint64_t cells, baselines, heap; /* offsets */
  uint32_t capacity;               /* number of series */
  uint32_t chunk_log;              /* a chunk of a row has 1 << chunk_log items */
  int fd;
  uint32_t references;     /* process lock */
  bool at_path;            /* the segment is a file, which stays when the segment is closed */
  shared_u32 seat, sitter; /* the seat, and the pid, with which this process last took the flusher's role */
  char *name;              /* process lock; NULL: the segment is private */
  dev_t device;            /* of its file */
  ino_t inode;
  uint64_t life, family; /* numbers of locks, see life.h; `life` is that of this process; registry lock */
  void *life_page;
  struct chalk_segment *next; /* the next segment of this process; process lock */
  struct slot *slots;
  struct stripe *stripes;
  struct cursor_head *cursors;
  struct metric *metrics;
  struct series *series;
};

/* The address of an offset that this process has checked, or has made itself. */
static inline void *segment_at(const chalk_segment *g, uint64_t offset) { return g->base + offset; }

/* The offset of an address in the mapping. */
static inline uint64_t segment_offset(const chalk_segment *g, const void *p) {
  return (uint64_t)((const char *)p - g->base);
}

/*
 * The address of a heap block whose offset came from shared memory. NULL: the offset cannot be a block of this size.
 *
 * Offsets from shared memory are followed only by this function. A reader without a lock may find that the memory with
 * the offset has been reused, which the generation of the series tells it afterwards; and a worker with less privilege
 * may have stored anything. For the same reason a number from shared memory is used as an index only after it was
 * compared with a limit: see segment_top.
 */
static inline void *segment_block(const chalk_segment *g, uint64_t offset, uint64_t size) {
  bool fits = offset >= g->heap && offset % 8 == 0 && size <= g->size && offset <= g->size - size;
  return fits ? segment_at(g, offset) : NULL;
}

/* The value of a word of the header, but at most `most`, so the result is a safe limit for an index. */
static inline uint32_t segment_top(const shared_u32 *top, uint32_t most) {
  uint32_t n = atomic_load_explicit((shared_u32 *)top, memory_order_acquire);
  return n < most ? n : most;
}

/* The number after the highest metric, slot with a row, or guest slot that was ever used. */
static inline uint32_t segment_metrics(const chalk_segment *g) { return segment_top(&g->head->metric_top, METRICS); }
static inline uint32_t segment_slots(const chalk_segment *g) { return segment_top(&g->head->slot_top, WRITERS); }
static inline uint32_t segment_guests(const chalk_segment *g) {
  uint32_t top = segment_top(&g->head->guest_top, OWNERS);
  return top < WRITERS ? WRITERS : top;
}

/* The offset of the row of cells of a slot; writer is below WRITERS. */
static inline uint64_t segment_row(const chalk_segment *g, uint32_t writer) {
  return g->cells + (uint64_t)writer * g->capacity * 8;
}

/*
 * The cell of a series in a slot; writer is below WRITERS, id below the capacity. The chunk with this cell may not be
 * real.
 */
static inline shared_u64 *segment_cell(const chalk_segment *g, uint32_t writer, uint32_t id) {
  return (shared_u64 *)(g->base + segment_row(g, writer)) + id;
}

/* The metric of a series. For a free series, the result is an arbitrary metric. */
static inline metric *segment_metric_of(const chalk_segment *g, uint32_t id) {
  uint32_t number = atomic_load_explicit(&g->series[id].metric, memory_order_relaxed);
  return &g->metrics[number % METRICS];
}

/* The baseline of a series in a cursor. The chunk with this baseline may not be real. */
static inline baseline *segment_baseline(const chalk_segment *g, uint32_t cursor, uint32_t id) {
  return (baseline *)(g->base + g->baselines) + (uint64_t)cursor * g->capacity + id;
}

/* The number of items in a chunk. */
static inline uint32_t segment_chunk_items(const chalk_segment *g) { return 1u << g->chunk_log; }

/* The number of the chunk with item `id`. */
static inline uint32_t segment_chunk_of(const chalk_segment *g, uint32_t id) { return id >> g->chunk_log; }

/* Whether the chunk with item `id` is real, by the bits of its row. A chunk that is not real must not be accessed. */
static inline bool segment_chunk_real(const chalk_segment *g, const shared_u64 *chunks, uint32_t id) {
  uint32_t chunk = segment_chunk_of(g, id);
  return atomic_load_explicit((shared_u64 *)&chunks[chunk / 64], memory_order_acquire) >> (chunk % 64) & 1;
}

/*
 * Makes the chunk with item `id` real. The row starts at offset `row`, and each item has `width` bytes. Returns
 * CHALK_OK also if the chunk was real already. `last` and failures are those of segment_make_real.
 */
int segment_chunk_make(chalk_segment *g, shared_u64 *chunks, uint64_t row, uint32_t width, uint32_t id, bool last);

/*
 * Makes a range real and adds it to header.memory. `last`: the range is for an overflow series, and may use the last
 * sixteenth below the limit. This part is reserved, because overflow series are needed just when memory runs out.
 * CHALK_EMEMORY: the file system or the limit does not allow it.
 */
int segment_make_real(chalk_segment *g, uint64_t offset, uint64_t size, bool last);

/* The pages of this machine that contain a range, up to the end of the segment. Moves *offset; returns the size. */
uint64_t segment_pages(const chalk_segment *g, uint64_t *offset, uint64_t size);

/*
 * Allocates a range of a file, without counting it. CHALK_EMEMORY: the file system does not allow it; errno says why.
 */
int segment_allocate(int fd, uint64_t offset, uint64_t size);

/* Makes the descriptors of named segments survive exec, or not, as process_hands_on says. */
void segments_mark(void);

/* Initialises all locks of the segment. Called only while no other process has the segment. */
void segment_locks_new(chalk_segment *g);
/*
 * Takes a lock and waits as long as necessary. True: the last owner died while it held the lock, and the caller has to
 * repair what the lock protects. Code that the master of a server runs uses segment_lock_reach instead.
 */
bool segment_lock_take(segment_lock *lock);
/* Takes a lock if it is free. False: it is not free. *orphaned is what segment_lock_take returns. */
bool segment_lock_try(segment_lock *lock, bool *orphaned);
/*
 * Takes a lock in code that the master of a server may run. False, in the master only: the lock was not released for
 * segment_lock_patience seconds; the caller treats this like missing memory. *orphaned is what segment_lock_take
 * returns.
 */
bool segment_lock_reach(segment_lock *lock, bool *orphaned);
/* The same for a lock that needs no repair after the death of its owner. */
bool segment_lock_reach_any(segment_lock *lock);
/* How long the master waits for a lock, in seconds. Tests set less. */
extern double segment_lock_patience;
/* Releases a lock. Called by the thread that took it. */
void segment_lock_give(segment_lock *lock);

/* The epoch, a whole number from 1 on. */
double segment_epoch(const chalk_segment *g);
/* Adds one to the epoch and returns the new one. */
double segment_epoch_move(chalk_segment *g);

/* Relaxed load and store of a double in shared memory. */
static inline double load_double(const shared_u64 *p) {
  return as_double(atomic_load_explicit((shared_u64 *)p, memory_order_relaxed));
}

static inline void store_double(shared_u64 *p, double d) { atomic_store_explicit(p, as_bits(d), memory_order_relaxed); }

#endif
