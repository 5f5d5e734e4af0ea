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
 * The whole range is reserved at once, sparsely: addresses never move. Offsets inside, never pointers. A page is
 * fallocate()d before its first use, so that a full disk is an error to handle and never SIGBUS.
 *
 * A series' number is also the number of its cells: cells[writer][series]. For a count the cell is the double that the
 * writer adds to; for a histogram and an `across` gauge it holds the heap offset of the writer's block. A cell whose
 * bits are not zero was bound by that writer: binding a count stores BOUND.
 *
 * Locks are robust and process-shared. Under each, every prefix of the stores leaves what the next owner can use, or
 * rebuild: what a lock protects is written so that one store publishes it. Order: stripe, then ids, then heap;
 * registry before stripe; acting before all of them; tap_lock before heap.
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

/* Who owns a slot or the flusher's role: enough to prove a death. */
typedef struct owner {
  shared_u32 pid;
  shared_u32 image; /* of its program: another one after exec; 0: not known */
  shared_u64 start; /* the process's start time, in clock ticks since boot */
  shared_u64 space; /* its pid namespace; 0: not known, or the /proc that it sees is of another one */
  shared_u64 life;  /* the byte of the file that it, or its family, has a lock on, see life.h; 0: none */
} owner;

/*
 * A writer's slot. Written by its owner; taken and given back under the registry lock. What follows `uses` belongs to a
 * row of cells: guests' slots have none.
 */
typedef struct slot {
  _Alignas(64) shared_u32 taken; /* 0 free, 1 taken */
  shared_u32 turn;               /* how often it was taken; moves after the owner is stored, before `taken` is */
  owner owner;
  shared_u64 seen;                /* the epoch its VM has acted on; store-release by the owner */
  shared_u64 uses[METRICS / 64];  /* metrics its VM has defined; set by the owner, read by the holder */
  shared_u64 chunks[CHUNKS / 64]; /* pieces of its row of cells that are real; store-release after fallocate */
  shared_u64 ring;                /* its events, see tap.h; by the owner, store-release */
  shared_u64 ring_old;            /* one that was too small and is empty; by the owner; freed by the reader */
  shared_u64 dropped;             /* events that found no room in its ring; by the owner, of slot 0 under tap_lock */
  shared_u64 dropped_told;        /* of them; the holder's */
} slot;

/* A stripe of the series table: chains of series through series.next. And a residue on its way, see pass.h. */
typedef struct stripe {
  segment_lock lock;
  uint64_t heads; /* heap offset of `size` uint32 */
  uint32_t size;
  uint32_t used;
  shared_u32 passing; /* 1: what follows is whole and not yet, or not quite, in place */
  uint32_t pass_from, pass_to;
  uint64_t pass_value, pass_at_drop;
} stripe;

enum { METRIC_FREE, METRIC_LIVE, METRIC_SUPERSEDED };

/* A definition. Written under the registry lock, published by `state`; immutable until it leaves. */
typedef struct metric {
  shared_u32 state;
  shared_u32 kind, across, tags, les;
  shared_u32 max_series; /* may change while the metric stays */
  shared_u32 series;     /* live ones, overflow left out */
  shared_u32 generation; /* of the configuration that last defined it */
  uint64_t hash;         /* of the name */
  shared_u64 name, shape;
  uint64_t name_size, shape_size;
  shared_u64 blob; /* its size, then its bytes; replaced under the registry lock */
  shared_u64 le;   /* heap offset of `les` doubles */
  shared_u64 folded;
  uint64_t folded_told; /* the holder's */
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
 * while it is quarantined, and `generation` moves before they are reused: a reader copies, then looks again.
 */
typedef struct series {
  shared_u32 state; /* SERIES_..., and for RESERVED the stripe in the bits above 8 */
  shared_u32 generation;
  shared_u32 metric;
  uint32_t next; /* in its chain, or in the list of free ones */
  shared_u64 hash;
  shared_u64 key;
  shared_u32 key_size;
  uint32_t active; /* the holder's: something was recorded since creation */
  uint32_t pass;   /* the holder's: of the event tap's reader, after which no event of it is left; 0: not dropped yet */
  shared_u64 drop_epoch;
  shared_u64 gauge; /* a `last` gauge: value and mark, doubles; written by every VM */
  shared_u64 mark;
  uint64_t seen_total; /* the holder's: total when last swept */
  double seen_time;
  shared_u64 at_drop; /* what it stood at when dropped: a count's total; a histogram's: a stored sketch; a gauge's: 1
                         if it was idle, so that a late value counts */
} series;

/*
 * What a count's cell holds once it is bound, before anything is counted: the least normal double. It takes no part in
 * sums, which are of whole numbers, and adding to it is exact: adding zero leaves it, where it would make a -0.0 zero.
 */
#define BOUND 0x1p-1022

/* A baseline: what a cursor has sent of a series. Written by the holder: a new generation with no total, then the total. */
typedef struct baseline {
  shared_u64 total; /* a count's total as int64; a histogram's: heap offset of a stored sketch */
  shared_u32 generation;
  uint32_t spare;
} baseline;

typedef struct cursor_head {
  shared_u32 state; /* 0 free, 1 in use; stored last */
  uint32_t name_size;
  char name[240];
  double used;
  shared_u64 chunks[CHUNKS / 64];
} cursor_head;

typedef struct header {
  uint64_t magic;
  uint32_t layout;
  uint32_t abi;
  char boot[40];    /* of the machine; after another boot nobody of those in here lives */
  shared_u32 ready; /* 1 once all else is written */
  uint32_t capacity;
  uint64_t size;
  uint64_t slots, stripes, cursors, metrics, series, cells, baselines, heap;
  _Alignas(64) shared_u64 epoch; /* a double's bits; moved by whoever drops, by compare-and-swap */
  _Alignas(64) segment_lock registry;
  segment_lock ids_lock;
  segment_lock heap_lock;
  segment_lock seats[SEATS]; /* of the flusher: the one in force is seats[seat % SEATS], see role.h */
  segment_lock acting;       /* over what only the flusher changes */
  segment_lock tap_lock;     /* over the ring of slot 0 */
  _Alignas(64) shared_u32 max_series, max_buckets;
  shared_u32 start_scale, ids_top;
  shared_u32 live, quarantined;
  shared_u32 metric_top, metrics_real;
  shared_u32 series_real; /* series structs made real */
  uint32_t ids_free;      /* head of the free list, ids lock */
  shared_u32 generation;
  shared_u32 cursors_ever;
  shared_u32 recount;    /* somebody died while he changed the number of series: the holder counts anew */
  shared_u32 strangers;  /* a VM shared slot 0 without a slot of its own, for want of one: nobody knows what it uses */
  shared_u32 slot_top;   /* slots with a row ever used */
  shared_u32 guest_top;  /* the one past the highest guest slot ever used; registry lock */
  shared_u32 slots_real; /* slots made real; registry lock */
  shared_u32 vacancies;  /* moves when a slot with a row became free; registry lock, or who looks for deaths */
  shared_u32 looked;     /* ms of when rows of the dead were looked for; by compare-and-swap of who then looks */
  shared_u32 tap;        /* what the event tap is on for, see tap.c; 0: off */
  shared_u32 tap_told;   /* what the epoch was moved for of that */
  shared_u32 tap_turn;   /* of its readers, see tap.c; the holder's */
  shared_u32 tap_pass;   /* of its reader: how often it was through all rings; the holder's */
  shared_u64 tap_lost;   /* events of writers that have no ring, for want of memory */
  shared_u64 tap_lost_told;
  shared_u64 folded;
  shared_u64 heartbeat, flushed; /* doubles' bits */
  shared_u64 requested, done;
  shared_u64 lives;     /* numbers of locks on the file that were given out, see life.h */
  shared_u32 done_word; /* moves with `done`; a futex */
  shared_u64 claim;     /* on the flusher's role: generation << 32 | milliseconds of when; by whoever asks for it */
  shared_u32 seat;
  shared_u32 leaving; /* the holder is in its last flush: whoever ends now may have recorded what it has not seen */
  owner flusher;
  uint64_t heap_top, heap_real;     /* heap lock */
  uint64_t heap_free[HEAP_CLASSES]; /* heap lock; a free block's first word is the next */
  shared_u64 memory, memory_limit;
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
  size_t size;
  uint64_t cells, baselines, heap; /* offsets */
  uint32_t capacity;
  uint32_t chunk_log; /* items of a row that are made real together: a power of two, as capacities are */
  int fd;
  uint32_t references;     /* process lock */
  bool at_path;            /* a file's, which stays when the segment is closed */
  shared_u32 seat, sitter; /* of this process, when it took the flusher's role last, and as which process that was */
  char *name;
  dev_t device; /* of its file */
  ino_t inode;
  uint64_t life, family; /* see life.h; `life` is this process's; registry lock */
  void *life_page;
  struct chalk_segment *next;
  struct slot *slots;
  struct stripe *stripes;
  struct cursor_head *cursors;
  struct metric *metrics;
  struct series *series;
};

static inline void *segment_at(const chalk_segment *g, uint64_t offset) { return g->base + offset; }

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

/* How many there are by a word of the header: never more than there can be. */
static inline uint32_t segment_top(const shared_u32 *top, uint32_t most) {
  uint32_t n = atomic_load_explicit((shared_u32 *)top, memory_order_acquire);
  return n < most ? n : most;
}

static inline uint32_t segment_metrics(const chalk_segment *g) { return segment_top(&g->head->metric_top, METRICS); }
static inline uint32_t segment_slots(const chalk_segment *g) { return segment_top(&g->head->slot_top, WRITERS); }
static inline uint32_t segment_guests(const chalk_segment *g) {
  uint32_t top = segment_top(&g->head->guest_top, OWNERS);
  return top < WRITERS ? WRITERS : top;
}

static inline uint64_t segment_row(const chalk_segment *g, uint32_t writer) {
  return g->cells + (uint64_t)writer * g->capacity * 8;
}

static inline shared_u64 *segment_cell(const chalk_segment *g, uint32_t writer, uint32_t id) {
  return (shared_u64 *)(g->base + segment_row(g, writer)) + id;
}

/* The metric of a series; of one that has none, any. */
static inline metric *segment_metric_of(const chalk_segment *g, uint32_t id) {
  uint32_t number = atomic_load_explicit(&g->series[id].metric, memory_order_relaxed);
  return &g->metrics[number % METRICS];
}

static inline baseline *segment_baseline(const chalk_segment *g, uint32_t cursor, uint32_t id) {
  return (baseline *)(g->base + g->baselines) + (uint64_t)cursor * g->capacity + id;
}

/* Items of a row that are made real together. */
static inline uint32_t segment_chunk_items(const chalk_segment *g) { return 1u << g->chunk_log; }

static inline uint32_t segment_chunk_of(const chalk_segment *g, uint32_t id) { return id >> g->chunk_log; }

static inline bool segment_chunk_real(const chalk_segment *g, const shared_u64 *chunks, uint32_t id) {
  uint32_t chunk = segment_chunk_of(g, id);
  return atomic_load_explicit((shared_u64 *)&chunks[chunk / 64], memory_order_acquire) >> (chunk % 64) & 1;
}

/* Makes the piece of a row real that holds item `id`; rows start at `row`, each item takes `width` bytes. */
int segment_chunk_make(chalk_segment *g, shared_u64 *chunks, uint64_t row, uint32_t width, uint32_t id, bool last);

/*
 * Makes a range real. CHALK_EMEMORY when the file system or the limit does not allow it. `last`: may take from the last
 * sixteenth below the limit, which is kept for overflow series, or there would be none when they are needed.
 */
int segment_make_real(chalk_segment *g, uint64_t offset, uint64_t size, bool last);

/* The whole pages of this machine that a range lies in, as far as the segment goes. Moves *offset; returns the size. */
uint64_t segment_pages(const chalk_segment *g, uint64_t *offset, uint64_t size);

/* Makes a range of a file real; CHALK_EMEMORY when the file system does not allow it. */
int segment_allocate(int fd, uint64_t offset, uint64_t size);

/* Marks the named segments' descriptors as what process_hands_on says. */
void segments_mark(void);

/* All the segment's locks anew; only before anybody else has it. */
void segment_locks_new(chalk_segment *g);
/* Takes a lock. True: its last owner died in it, and the caller has to put right what it protects. */
bool segment_lock_take(segment_lock *lock);
bool segment_lock_try(segment_lock *lock, bool *orphaned);
/*
 * The same for what the master of a server does too: false when nobody let go of it for seconds, which the caller
 * answers as it does the want of memory. Any other process waits for as long as it takes.
 */
bool segment_lock_reach(segment_lock *lock, bool *orphaned);
bool segment_lock_reach_any(segment_lock *lock); /* where a death leaves nothing to put right */
extern double segment_lock_patience;             /* in seconds; tests have less */
void segment_lock_give(segment_lock *lock);

double segment_epoch(const chalk_segment *g);
/* The epoch, moved on by one; returns the new one. */
double segment_epoch_move(chalk_segment *g);

static inline double load_double(const shared_u64 *p) {
  return as_double(atomic_load_explicit((shared_u64 *)p, memory_order_relaxed));
}

static inline void store_double(shared_u64 *p, double d) { atomic_store_explicit(p, as_bits(d), memory_order_relaxed); }

#endif
