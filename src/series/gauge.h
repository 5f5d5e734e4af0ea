/*
 * The blocks of gauges whose values are combined across VMs (`across`): a value and a mark, which only their VM stores
 * into.
 *
 *   row of a slot      cell -> value | mark
 *   row 0, shared      cell -> value | mark | whose | next -> value | mark | whose | next -> ...
 *
 * Each VM that shares slot 0 has a link of its own in the list of a series. `whose` says which guest slot the link
 * belongs to, and in which turn of that slot, so a link is vacant once that VM has ended: nobody has to look for what
 * it left. A VM that gets a slot with a row keeps its guest slot and its links, and stores into them as into blocks of
 * its own row. So no value ever moves, and a reader finds each in one place. That also holds for a late value, which
 * goes from a VM's link in a dropped series to the same VM's link in the successor.
 *
 * A list is changed under the lock of the series' stripe, and taken apart only when the series is reclaimed. Readers
 * follow it without a lock, and ask afterwards whether the series still is the one they meant.
 */
#ifndef GAUGE_H
#define GAUGE_H

#include "shm/lives.h"
#include "shm/heap.h"
#include "shm/segment.h"

/* A link; a block in the row of a slot is its first two fields. */
typedef struct gauge_link {
  shared_u64 value; /* a double's bits; its VM, relaxed or compare-and-swap, before `mark` */
  shared_u64 mark;  /* GAUGE_..., a double's bits; its VM, store-release; the holder takes it by compare-and-swap */
  shared_u64 whose; /* a gauge_owner; stripe's lock, stored last when a vacant link is taken */
  shared_u64 next;  /* heap offset of the next link, 0: none; stripe's lock, before the link is published */
} gauge_link;

enum {
  GAUGE_BLOCK = offsetof(gauge_link, whose), /* bytes of a block in the row of a slot */
  GAUGE_STRANGER = 0                         /* as `whose`: the link of all VMs that found no guest slot */
};

/* What `whose` of a guest's links is: its slot in its present turn. */
static inline uint64_t gauge_owner(const chalk_segment *g, uint32_t guest) {
  return (uint64_t)guest << 32 | atomic_load((shared_u32 *)&g->slots[guest].turn);
}

/*
 * The offset of a VM's link in the list of a series, which is made, or taken from who has ended, if there is none. 0:
 * no memory. Under the stripe's lock.
 */
uint64_t gauge_link_of(chalk_segment *g, uint32_t id, uint64_t whose);

/*
 * The offset of a new block for the row of a slot, which nobody has set. 0: no memory. `last`: for an overflow series.
 */
uint64_t gauge_block_new(chalk_segment *g, bool last);

/* The first link of a list, and the one after a link. NULL: there is none. */
gauge_link *gauge_first(const chalk_segment *g, uint64_t list);
gauge_link *gauge_next(const chalk_segment *g, const gauge_link *link);
/* Whether the VM that a link belongs to has ended and given its slot back, or another has taken it since. */
bool gauge_is_vacant(const chalk_segment *g, const gauge_link *link);

/* A gauge that is being read: what was combined so far. */
typedef struct gauge_sum {
  uint32_t across; /* CHALK_SUM, CHALK_MIN or CHALK_MAX */
  bool any;        /* whether any block was set */
  double value;
} gauge_sum;

/* Combines a block of somebody alive, if it was ever set. */
void gauge_add(gauge_sum *sum, const gauge_link *block);
/* Combines the links of a list that belong to somebody alive. */
void gauge_add_links(gauge_sum *sum, const chalk_segment *g, uint64_t list, lives *alive);
/* Calls `ask` for the mark of a block or, of row 0, for the marks of all links of the list. True: one call said so. */
bool gauge_ask(const chalk_segment *g, uint32_t row, uint64_t offset, bool (*ask)(shared_u64 *mark));
/* Whether every VM that lives and may store into a link of the list without the stripe's lock has seen the epoch. */
bool gauge_links_seen(const chalk_segment *g, uint64_t list, uint64_t epoch, lives *alive);
/* Empties the cell and gives back what it pointed to, one block at a time. Only the holder, under registry. */
void gauge_free(chalk_segment *g, uint32_t row, uint32_t id);
/* Whether a block, or a list in row 0, stands at the offset; notes its blocks. Nobody else has the segment. */
bool gauge_is_sound(const chalk_segment *g, uint32_t row, uint64_t offset, heap_ledger *blocks);

#endif
