/*
 * The segment: one MAP_SHARED mapping with everything that processes share.
 *
 *   header | stripes, cursors           made real at creation
 *   slots      OWNERS structs           the first WRITERS made real at creation, the others as VMs come, see slot.h
 *   metrics    METRICS structs          made real as definitions come
 *   series     `capacity` structs       made real as series come; the first METRICS are overflow series
 *   cells      WRITERS rows of `capacity` doubles, made real chunk by chunk, for each writer as it binds
 *   baselines  CURSORS rows of `capacity` pairs, the same
 *   heap       the rest: names, tag values, histograms, sketch tables
 *
 * The whole range is reserved at once, sparsely: addresses never move. Inside there are offsets, never pointers. A page
 * is made real, that is fallocate()d, before its first use, so a full disk is an error to handle and never SIGBUS.
 *
 * A series' number is also the number of its cells: cells[writer][series]. A cell whose bits are not zero was bound by
 * that writer.
 *
 *   count             the double that the slot's owner adds to, load and store relaxed. Binding stores BOUND. The cell
 *                     of slot 0 changes by compare-and-swap, or by a residue, under the lock of the series' stripe.
 *   histogram,        the heap offset of the writer's block, store-release by the slot's owner once the block is
 *   `across` gauge    filled. The holder empties the cell when it reclaims the series.
 *   `last` gauge      BOUND. The value stands in the series.
 *
 * Readers load a cell with acquire.
 *
 * Locks. All are robust and process-shared. Under each, every prefix of the stores leaves what the next owner can use,
 * or rebuild: what a lock protects is written so that one store publishes it.
 *
 *   seats       who flushes: the holder owns the seat in force all the time, see role.h
 *   acting      what only the holder changes: cursors, baselines, the reading of events, sweeps
 *   registry    definitions, slots, and the freeing of cells
 *   stripes     series of one stripe: their chains, creation and drop, slot 0's records of them
 *   ids_lock    the list of free series numbers
 *   tap_lock    the event ring of slot 0
 *   heap_lock   the lists of free blocks and the heap's top
 *
 * A thread that holds one waits only for those below it. No thread waits for a stripe while it holds another one,
 * except to count all series anew, which takes all stripes in their order.
 *
 * Memory order. A field of an atomic type is loaded and stored with sequential consistency, unless its comment names a
 * weaker order; that is then the least which holds, and an access may be stronger. A plain field is used under the
 * lock, or by the writer, that its comment names, or is read as peek.h says. A comment names the writer: "the owner" is
 * the VM whose slot it is, "the holder" holds the flusher's role and, unless otherwise said, `acting`; "anybody" is any
 * thread of any process that has the segment. A statistic orders nothing: it is relaxed.
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
  OWNERS = 4096, /* all slots: the others have none, their VMs share the row of slot 0 */
  METRICS = 4096,
  STRIPES = 64,
  CURSORS = 16,
  SEATS = 4,          /* one more than processes that may be stopped, each while it flushed */
  CHUNKS = 2048,      /* most pieces in which a row of cells or baselines is made real */
  CHUNK_LEAST = 512,  /* fewest items in a piece: a page of cells */
  HEAP_CLASSES = 160, /* four a doubling */
  NONE = 0xffffffffu
};

typedef _Atomic uint64_t shared_u64;
typedef _Atomic uint32_t shared_u32;

/* A lock in shared memory, on a cache line of its own. */
typedef struct segment_lock {
  _Alignas(64) pthread_mutex_t mutex;
} segment_lock;

/*
 * Who owns a slot or the flusher's role: enough to prove a death. A slot's is written by whoever takes the slot, under
 * the registry lock, before `turn` and `taken`; header.flusher by the holder. Anybody reads both, so what was read is
 * one owner's only if the slot's `turn` has not moved meanwhile.
 */
typedef struct owner {
  shared_u32 pid;
  shared_u32 image; /* of its program: another one after exec; 0: not known */
  shared_u64 start; /* the process's start time, in clock ticks since boot */
  shared_u64 space; /* its pid namespace; 0: not known, or the /proc that it sees is of another one */
  shared_u64 life;  /* the byte of the file that it, or its family, has a lock on, see life.h; 0: none. A slot's only */
} owner;

/*
 * A writer's slot. It is taken, given back and freed in a dead owner's name under the registry lock; in between its
 * owner writes it. What follows `uses` belongs to a row of cells: guests' slots have none.
 */
typedef struct slot {
  /* 1 taken, store-release once all that follows is the owner's; 0 free. */
  _Alignas(64) shared_u32 taken;
  shared_u32 turn; /* how often it was taken; moves after the owner is stored, before `taken` is */
  owner owner;
  /* The epoch its VM has acted on; the owner, store-release; load-acquire. */
  shared_u64 seen;
  /* Metrics that its VM uses; set under the registry lock, cleared by the owner without it. */
  shared_u64 uses[METRICS / 64];
  /* Pieces of its row of cells that are real; anybody, or-release after fallocate; load-acquire. */
  shared_u64 chunks[CHUNKS / 64];
  shared_u64 ring;     /* its events, see tap.h; the owner, store-release; of slot 0 under tap_lock */
  shared_u64 ring_old; /* one that was too small and is empty; as `ring`; the holder empties this and frees it */
  shared_u64 dropped;  /* events that found no room in its ring; as `ring`, but a statistic */
  shared_u64 dropped_reported; /* those of them that were reported; the holder, a statistic */
} slot;

/*
 * A stripe of the series table: chains of series through series.next. And a residue on its way, see handover.h. All is
 * written and read under the stripe's lock.
 */
typedef struct stripe {
  segment_lock lock;
  uint64_t heads;          /* heap offset of `size` uint32 */
  uint32_t size;           /* a power of two */
  uint32_t used;           /* series in the chains */
  shared_u32 handing_over; /* store-release of 1: what follows is whole and not yet, or not quite, in place */
  uint32_t handover_from, handover_to;
  uint64_t handover_value, handover_at_drop;
} stripe;

enum { METRIC_FREE, METRIC_LIVE, METRIC_SUPERSEDED };

/*
 * A definition. Written under the registry lock, published by `state` and immutable until it leaves, but for what says
 * otherwise. Anybody reads what is atomic without the lock, and asks afterwards whether the generation of the metric's
 * overflow series has moved; plain fields are read under the registry lock.
 */
typedef struct metric {
  shared_u32 state; /* store-release of LIVE; load-acquire */
  shared_u32 kind, across, tags, les;
  shared_u32 max_series;  /* may change while the metric stays */
  shared_u32 series;      /* live ones, overflow left out; whoever creates or drops one, its stripe's lock */
  shared_u32 generation;  /* of the configuration that last defined it */
  uint64_t hash;          /* of the name */
  shared_u64 name, shape; /* heap offsets */
  uint64_t name_size, shape_size;
  shared_u64 blob;            /* heap offset of its size, then its bytes; may be replaced while the metric stays */
  shared_u64 le;              /* heap offset of `les` doubles */
  shared_u64 folded;          /* lookups that were folded; anybody, a statistic */
  shared_u64 folded_reported; /* those of them that were reported; the holder without a lock, a statistic */
} metric;

enum { SERIES_FREE, SERIES_RESERVED, SERIES_LIVE, SERIES_DROPPED };
enum { GAUGE_UNSET = 0, GAUGE_TOUCHED = 1, GAUGE_SET = 2 }; /* a gauge's mark, as a double */

/*
 * A gauge's value before anybody has stored one. Records turn -0.0 into 0.0, and adding to -0.0 gives what adding to
 * 0.0 does. So a compare-and-swap that finds -0.0 has found a gauge that nobody has begun to set.
 */
#define GAUGE_FRESH (-0.0)

/*
 * A series. Created and dropped under its stripe's lock; `state` is published last. `key` and `metric` stay readable
 * while it is quarantined, and `generation` moves before they are reused: a reader without the lock copies, then looks
 * again. "The creator" holds the stripe's lock and has the number RESERVED; an overflow series is created and left with
 * its metric, under the registry lock. "The holder's" fields are the creator's until the series is LIVE.
 */
typedef struct series {
  /* SERIES_..., and for RESERVED the stripe in the bits above 8. LIVE and DROPPED are stored under the stripe's lock,
     LIVE with release; RESERVED and FREE under ids_lock. Load-acquire. */
  shared_u32 state;
  shared_u32 generation; /* the holder, when it reclaims the series, before the key goes; load-acquire */
  shared_u32 metric;     /* the creator, relaxed */
  uint32_t next;         /* in its chain: stripe's lock; in the list of free ones: ids_lock */
  shared_u64 hash;       /* the creator, relaxed */
  shared_u64 key;        /* heap offset; the creator, after key_size; 0 by the holder, when it reclaims the series */
  shared_u32 key_size;   /* the creator, relaxed */
  uint32_t active;       /* the holder's: 1 something was recorded since creation; 2 seen_time is of the drop */
  uint32_t pass;         /* the holder's: the event tap's pass after which no event of it is left; 0: not dropped yet */
  shared_u64 drop_epoch; /* stripe's lock; SERIES_UNSETTLED until `at_drop` is true, see series_is_settled */
  /* A `last` gauge: its value, a double, by a relaxed store or a compare-and-swap; then its mark, GAUGE_... as a
     double, store-release. Anybody; load-acquire of the mark before the value is read. The holder takes the mark by
     compare-and-swap. */
  shared_u64 gauge, mark;
  uint64_t seen_total; /* the holder's: total when last swept */
  double seen_time; /* the holder's: when it was last recorded into, or was first seen dropped; its clock's seconds */
  /* What it stood at when dropped: a count's total; a histogram's: the heap offset of a stored sketch; a gauge's: 1 if
     it was idle, so that a late value counts. Stripe's lock; 0 by the holder, when it reclaims the series. */
  shared_u64 at_drop;
} series;

/*
 * What a count's cell holds once it is bound, before anything is counted: the least normal double. It takes no part in
 * sums, which are of whole numbers, and adding to it is exact: adding zero leaves it, where it would make a -0.0 zero.
 */
#define BOUND 0x1p-1022

/*
 * A baseline: what a cursor has sent of a series. Written by the holder: where the generation is another one, first a
 * total of 0, then the generation; then the total. The holder's thread reads it without a lock.
 */
typedef struct baseline {
  shared_u64 total; /* a count's total as int64; a histogram's: heap offset of a stored sketch; store-release */
  shared_u32 generation;
  uint32_t spare; /* not used */
} baseline;

/* A cursor. Written and read by the holder, but for `state`, which anybody reads. */
typedef struct cursor_head {
  shared_u32 state; /* 0 free; 1 in use, store-release after all else */
  uint32_t name_size;
  char name[240];                 /* without a NUL */
  double used;                    /* when it was opened, touched or committed last, by the holder's clock */
  shared_u64 chunks[CHUNKS / 64]; /* pieces of its row of baselines that are real; or-release after fallocate */
} cursor_head;

/*
 * The header. What stands before `epoch` is written once, by whoever creates the segment, before `ready`. A process
 * that opens the segment checks a copy of it, and reads no more than `layout` and `abi` again.
 */
typedef struct header {
  uint64_t magic;
  uint32_t layout;
  uint32_t abi;
  /* Of the machine: after another boot nobody of those in here lives. Stored anew by whoever opens a file that nobody
     else has open. */
  char boot[40];
  shared_u32 ready;  /* 1 once all else is written, store-release */
  uint32_t capacity; /* of series: structs, cells and baselines; a power of two */
  uint64_t size;     /* bytes in all */
  uint64_t slots, stripes, cursors, metrics, series, cells, baselines, heap; /* offsets */
  /* A double's bits. Moved by compare-and-swap, by who drops series, makes room for folded ones or switches the tap;
     load-acquire where something is bound by it, relaxed in a record. */
  _Alignas(64) shared_u64 epoch;
  _Alignas(64) segment_lock registry;
  segment_lock ids_lock;
  segment_lock heap_lock;
  segment_lock seats[SEATS]; /* of the flusher: the one in force is seats[seat % SEATS], see role.h */
  segment_lock acting;       /* over what only the flusher changes */
  segment_lock tap_lock;     /* over the ring of slot 0 */
  _Alignas(64) shared_u32 max_series, max_buckets; /* whoever configures; max_buckets: relaxed loads */
  shared_u32 start_scale;                          /* of a histogram's first table; whoever configures; relaxed loads */
  shared_u32 ids_top;      /* the number after the highest series ever used; ids_lock, store-release; load-acquire */
  shared_u32 live;         /* live series that count; whoever creates or drops one, its stripe's lock */
  shared_u32 quarantined;  /* dropped ones; whoever drops one, its stripe's lock; the holder, when it reclaims one */
  shared_u32 metric_top;   /* the number after the highest metric ever used; registry, store-release; load-acquire */
  shared_u32 metrics_real; /* metric structs made real; registry */
  shared_u32 series_real;  /* series structs made real; ids_lock */
  uint32_t ids_free;       /* head of the list of free series numbers; ids_lock */
  shared_u32 generation;   /* of the configuration; whoever configures, rising */
  shared_u32 cursors_ever; /* 1: there was a cursor; the holder */
  shared_u32 recount;      /* 1: who changed the number of series has died; who finds it so; the holder counts anew */
  shared_u32 strangers;  /* 1, for good: a VM shares slot 0 without a guest slot, so its metrics are unknown; that VM */
  shared_u32 slot_top;   /* the number after the highest slot with a row ever used; registry; load-acquire */
  shared_u32 guest_top;  /* the number after the highest guest slot ever used; registry; load-acquire */
  shared_u32 slots_real; /* slots made real; registry */
  shared_u32 vacancies;  /* moves when a slot with a row became free; registry, or who looks for deaths */
  shared_u32 looked;     /* ms of when rows of the dead were looked for; compare-and-swap of who then looks */
  /* What the event tap is on for, see tap.c; 0: off. Compare-and-swap by the holder, or by anybody who widens it;
     relaxed loads behind a record. */
  shared_u32 tap;
  shared_u32 tap_announced;     /* the value of `tap` for which the epoch was moved; who switches */
  shared_u32 tap_turn;          /* of the tap's readers, see tap.c; the holder */
  shared_u32 tap_pass;          /* how often the reader was through all rings; the holder */
  shared_u64 tap_lost;          /* events of writers that have no ring, for want of memory; anybody, a statistic */
  shared_u64 tap_lost_reported; /* those of them that were reported; the holder, a statistic */
  shared_u64 folded;            /* lookups that were folded; anybody, a statistic */
  /* When the holder's loop last turned, and last flushed: doubles' bits. The holder without a lock, relaxed. */
  shared_u64 heartbeat, flushed;
  shared_u64 requested; /* the last ticket for a flush; anybody */
  shared_u64 done;      /* the last ticket served; the holder without a lock, rising */
  shared_u64 lives;     /* numbers of locks on the file that were given out, see life.h; who takes one */
  shared_u32 done_word; /* moves after `done`; the holder without a lock; a futex */
  shared_u64 claim;     /* on the flusher's role: generation << 32 | milliseconds of when; who asks for the role */
  shared_u32 seat;      /* the seat in force, see role.h; who succeeds a stopped holder, under `acting` */
  shared_u32 leaving;   /* 1: the holder is in its last flush, so who ends now flushes too; the holder without a lock */
  owner flusher;        /* the holder itself, without a lock; pid 0: none */
  uint64_t heap_top;    /* the end of the part that was ever used; heap_lock */
  uint64_t heap_real;   /* the end of the part that is real; heap_lock */
  uint64_t heap_free[HEAP_CLASSES]; /* the first free block of a class, whose first word is the next; heap_lock */
  shared_u64 memory;                /* bytes made real; who makes some real, after that */
  shared_u64 memory_limit;          /* whoever configures; several who make memory real at once may pass it a little */
} header;

/*
 * The process's own view of a segment. Where its parts are is looked at once, when it is opened: what the header says
 * of that later is not asked again, since whoever has the segment can write there.
 */
struct chalk_segment {
  union {
    char *base;
    header *head;
  };
  size_t size;                     /* bytes */
  uint64_t cells, baselines, heap; /* offsets */
  uint32_t capacity;               /* of series */
  uint32_t chunk_log;              /* 1 << chunk_log items of a row are made real together */
  int fd;
  uint32_t references;     /* process lock */
  bool at_path;            /* a file's, which stays when the segment is closed */
  shared_u32 seat, sitter; /* of this process, when it took the flusher's role last, and as which process that was */
  char *name;              /* process lock; NULL: private */
  dev_t device;            /* of its file */
  ino_t inode;
  uint64_t life, family; /* see life.h; `life` is this process's; registry lock */
  void *life_page;
  struct chalk_segment *next; /* of this process; process lock */
  struct slot *slots;
  struct stripe *stripes;
  struct cursor_head *cursors;
  struct metric *metrics;
  struct series *series;
};

/* An offset that this process has checked, or that it has made itself, as an address. */
static inline void *segment_at(const chalk_segment *g, uint64_t offset) { return g->base + offset; }

/* The offset of an address in the mapping. */
static inline uint64_t segment_offset(const chalk_segment *g, const void *p) {
  return (uint64_t)((const char *)p - g->base);
}

/*
 * The block of the heap that an offset out of shared memory points to. NULL when it cannot be one: a reader without a
 * lock may find the cell in use for something else meanwhile, which the series' generation tells it afterwards; and
 * what a worker of less privilege stored may be anything. So no such offset is followed in any other way, and a number
 * out of shared memory is an index only where it was compared with what there is: see segment_top.
 */
static inline void *segment_block(const chalk_segment *g, uint64_t offset, uint64_t size) {
  bool fits = offset >= g->heap && offset % 8 == 0 && size <= g->size && offset <= g->size - size;
  return fits ? segment_at(g, offset) : NULL;
}

/* How many there are by a word of the header, but never more than `most`: so the result bounds an index. */
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

/* The offset of a slot's row of cells; writer is below WRITERS. */
static inline uint64_t segment_row(const chalk_segment *g, uint32_t writer) {
  return g->cells + (uint64_t)writer * g->capacity * 8;
}

/*
 * A slot's cell of a series; writer is below WRITERS, id below the capacity. The piece that holds it may not be real.
 */
static inline shared_u64 *segment_cell(const chalk_segment *g, uint32_t writer, uint32_t id) {
  return (shared_u64 *)(g->base + segment_row(g, writer)) + id;
}

/* The metric of a series. For a series that is free the result is some metric. */
static inline metric *segment_metric_of(const chalk_segment *g, uint32_t id) {
  uint32_t number = atomic_load_explicit(&g->series[id].metric, memory_order_relaxed);
  return &g->metrics[number % METRICS];
}

/* A cursor's baseline of a series. The piece that holds it may not be real. */
static inline baseline *segment_baseline(const chalk_segment *g, uint32_t cursor, uint32_t id) {
  return (baseline *)(g->base + g->baselines) + (uint64_t)cursor * g->capacity + id;
}

/* How many items of a row are made real together. */
static inline uint32_t segment_chunk_items(const chalk_segment *g) { return 1u << g->chunk_log; }

/* The number of the piece of a row that holds item `id`. */
static inline uint32_t segment_chunk_of(const chalk_segment *g, uint32_t id) { return id >> g->chunk_log; }

/* Whether the piece that holds item `id` is real, by the row's bits. A piece that is not real is not touched. */
static inline bool segment_chunk_real(const chalk_segment *g, const shared_u64 *chunks, uint32_t id) {
  uint32_t chunk = segment_chunk_of(g, id);
  return atomic_load_explicit((shared_u64 *)&chunks[chunk / 64], memory_order_acquire) >> (chunk % 64) & 1;
}

/*
 * Makes the piece of a row real that holds item `id`: the row starts at offset `row`, each item takes `width` bytes.
 * CHALK_OK also if it was. `last` and the failure are segment_make_real's.
 */
int segment_chunk_make(chalk_segment *g, shared_u64 *chunks, uint64_t row, uint32_t width, uint32_t id, bool last);

/*
 * Makes a range real and counts it in header.memory. With `last` it may take from the last sixteenth below the limit,
 * which is kept for overflow series, or there would be none when they are needed. CHALK_EMEMORY: the file system or the
 * limit does not allow it.
 */
int segment_make_real(chalk_segment *g, uint64_t offset, uint64_t size, bool last);

/* The whole pages of this machine that a range lies in, as far as the segment goes. Moves *offset; returns the size. */
uint64_t segment_pages(const chalk_segment *g, uint64_t *offset, uint64_t size);

/* Allocates a range of a file, uncounted. CHALK_EMEMORY: the file system does not allow it; errno says why. */
int segment_allocate(int fd, uint64_t offset, uint64_t size);

/* Makes the named segments' descriptors survive exec, or not, as process_hands_on says. */
void segments_mark(void);

/* Makes all the segment's locks anew. Only before anybody else has the segment. */
void segment_locks_new(chalk_segment *g);
/*
 * Takes a lock, for as long as it takes. True: the last owner died in it, and the caller has to put right what the lock
 * protects. Not for what the master of a server does.
 */
bool segment_lock_take(segment_lock *lock);
/* Takes a lock if it is free. False: it is not. *orphaned is what segment_lock_take returns. */
bool segment_lock_try(segment_lock *lock, bool *orphaned);
/*
 * Takes a lock where the master of a server may be the caller. False, in the master only: nobody let go of the lock for
 * seconds, which the caller answers as it does the want of memory. *orphaned is what segment_lock_take returns.
 */
bool segment_lock_reach(segment_lock *lock, bool *orphaned);
/* The same for a lock whose owner's death leaves nothing to put right. */
bool segment_lock_reach_any(segment_lock *lock);
/* How long the master waits, in seconds; tests have less. */
extern double segment_lock_patience;
/* Lets go of a lock. From the thread that took it. */
void segment_lock_give(segment_lock *lock);

/* The epoch: a whole number from 1 on. */
double segment_epoch(const chalk_segment *g);
/* Moves the epoch on by one and returns the new one. */
double segment_epoch_move(chalk_segment *g);

/* A double in shared memory, relaxed. */
static inline double load_double(const shared_u64 *p) {
  return as_double(atomic_load_explicit((shared_u64 *)p, memory_order_relaxed));
}

static inline void store_double(shared_u64 *p, double d) { atomic_store_explicit(p, as_bits(d), memory_order_relaxed); }

#endif
