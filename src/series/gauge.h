/*
 * The blocks of gauges that are combined `across` VMs: a value and a mark, which only their VM stores into.
 *
 *   row of a slot      cell -> value | mark
 *   row 0, shared      cell -> value | mark | whose | next -> value | mark | whose | next -> ...
 *
 * VMs that share slot 0 have a link each in the list of a series. `whose` says which guest slot it belongs to, and in
 * which turn of that slot, so a link is vacant once that VM has ended: nobody has to look for what it left. A VM that
 * gets a slot with a row keeps its guest slot, and has links from then on too, into which it stores as into blocks of its
 * own row: so no value ever moves, and a reader finds each in one place. That also holds for a late value, which goes
 * from a VM's link in a dropped series to the same VM's in the successor.
 *
 * A list is changed under the lock of the series' stripe, and taken apart only when the series is reclaimed. Readers
 * follow it without a lock, and ask afterwards whether the series still is the one they meant.
 */
#ifndef GAUGE_H
#define GAUGE_H

#include "shm/lives.h"
#include "shm/heap.h"
#include "shm/segment.h"

/* The first two are all there is of a block in the row of a slot. */
typedef struct gauge_link {
  shared_u64 value, mark; /* doubles' bits */
  shared_u64 whose;       /* a gauge_owner; stored last when a vacant link is taken */
  shared_u64 next;        /* heap offset */
} gauge_link;

enum { GAUGE_BLOCK = offsetof(gauge_link, whose), GAUGE_STRANGER = 0 /* as `whose`: VMs that found no guest slot */ };

/* A guest slot in its present turn, as `whose` of its links. */
static inline uint64_t gauge_owner(const chalk_segment *g, uint32_t guest) {
  return (uint64_t)guest << 32 | atomic_load((shared_u32 *)&g->slots[guest].turn);
}

/* The link of a VM in a series' list; made if there is none. Under the stripe's lock. 0: there is no memory. */
uint64_t gauge_link_of(chalk_segment *g, uint32_t id, uint64_t whose);

/* A block for the row of a slot, that nobody has set; 0 without memory. */
uint64_t gauge_block_new(chalk_segment *g, bool last);

/* The links of a list, one after the other; NULL: that was the last. */
gauge_link *gauge_first(const chalk_segment *g, uint64_t list);
gauge_link *gauge_next(const chalk_segment *g, const gauge_link *l);
/* Whether the VM that a link belongs to has ended. */
bool gauge_is_vacant(const chalk_segment *g, const gauge_link *l);

/* A gauge in the making: what was read of it so far. */
typedef struct gauge_sum {
  uint32_t across;
  bool any;
  double value;
} gauge_sum;

/* Adds a block that belongs to somebody alive, if it was ever set. */
void gauge_add(gauge_sum *sum, const gauge_link *block);
/* Adds those links of a list that belong to somebody alive. */
void gauge_add_links(gauge_sum *sum, const chalk_segment *g, uint64_t list, lives *alive);
/* Asks it of the mark of a block, or of every link of the list if it is row 0's; true: one of them says so. */
bool gauge_ask(const chalk_segment *g, uint32_t row, uint64_t offset, bool (*ask)(shared_u64 *mark));
/* Whether all who live and may store into a link of the list without the stripe's lock have seen the epoch. */
bool gauge_links_seen(const chalk_segment *g, uint64_t list, uint64_t epoch, lives *alive);
/* Empties the cell and gives back what it pointed to, one block at a time. */
void gauge_free(chalk_segment *g, uint32_t row, uint32_t id);
bool gauge_is_sound(const chalk_segment *g, uint32_t row, uint64_t offset, heap_ledger *blocks);

#endif
