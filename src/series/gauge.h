/*
 * The blocks of gauges whose values are combined across VMs (`across`). A block is a value and a mark, and one VM
 * stores into it.
 *
 *   row of a slot      cell -> value | mark
 *   row 0, shared      cell -> value | mark | whose | next -> value | mark | whose | next -> ...
 *
 * Each VM that shares slot 0 has its own link in the list of a series. `whose` names the guest slot that the link
 * belongs to, and the turn of that slot. So a link is vacant once its VM has ended, without being freed.
 * A VM that gets a slot with a row keeps its guest slot and its links, and stores into them as into blocks of its row.
 * So no value ever moves, and a reader finds each value in one place. A late value keeps to that, too: it goes from a
 * VM's link of a dropped series to the same VM's link of the successor.
 *
 * A list changes under the lock of the series' stripe, and is freed only when the series is reclaimed. Readers follow
 * it without a lock, and look afterwards whether the series' generation has moved.
 */
#ifndef GAUGE_H
#define GAUGE_H

#include "shm/heap.h"
#include "shm/lives.h"
#include "shm/segment.h"

/* A link of a list. A block in the row of a slot has only the first two fields. */
typedef struct gauge_link {
  shared_u64 value; /* a double's bits; its VM, relaxed or compare-and-swap, before `mark` */
  shared_u64 mark;  /* GAUGE_..., a double's bits; its VM, store-release; the holder takes it by compare-and-swap */
  shared_u64 whose; /* a gauge_owner; stripe's lock, stored last when a vacant link is taken */
  shared_u64 next;  /* heap offset of the next link, 0: none; stripe's lock, before the link is published */
} gauge_link;

enum {
  GAUGE_BLOCK = offsetof(gauge_link, whose), /* bytes of a block in the row of a slot */
  GAUGE_STRANGER = 0                         /* as `whose`: the link that VMs without a guest slot share */
};

/* `whose` of the links of a guest slot's owner: the slot's number and its present turn. */
static inline uint64_t gauge_owner(const chalk_segment *g, uint32_t guest) {
  return (uint64_t)guest << 32 | atomic_load((shared_u32 *)&g->slots[guest].turn);
}

/*
 * The offset of a VM's link in the list of a series. If the VM has none, it gets a vacant link or a new one. 0: no
 * memory. Under the lock of the series' stripe.
 */
uint64_t gauge_link_of(chalk_segment *g, uint32_t id, uint64_t whose);

/* The offset of a new block for the row of a slot, whose gauge is not set. 0: no memory. */
uint64_t gauge_block_new(chalk_segment *g, bool is_overflow);

/* The first link of a list, and the one after a link. NULL: there is none. */
gauge_link *gauge_first(const chalk_segment *g, uint64_t list);
gauge_link *gauge_next(const chalk_segment *g, const gauge_link *link);
/* Whether the VM that a link belongs to has ended and given its slot back, or another has taken it since. */
bool gauge_is_vacant(const chalk_segment *g, const gauge_link *link);

/* A gauge that is being read: the combination of the blocks that were read so far. */
typedef struct gauge_sum {
  uint32_t across; /* CHALK_SUM, CHALK_MIN or CHALK_MAX */
  bool any;        /* whether any block was set */
  double value;
} gauge_sum;

/* Combines a block, if it was ever set. Its owner is alive. */
void gauge_add(gauge_sum *sum, const gauge_link *block);
/* Combines the links of a list whose owners are alive. */
void gauge_add_links(gauge_sum *sum, const chalk_segment *g, uint64_t list, lives *alive);
/*
 * Calls `ask` for the mark of a block or, in row 0, for the mark of each link of the list. True: one call returned
 * true.
 */
bool gauge_ask(const chalk_segment *g, uint32_t row, uint64_t offset, bool (*ask)(shared_u64 *mark));
/*
 * Whether no live VM can still store into a link of the list without having seen the epoch. VMs that share slot 0 store
 * under the stripe's lock, so it is asked of those that have a row by now.
 */
bool gauge_links_seen(const chalk_segment *g, uint64_t list, uint64_t epoch, lives *alive);
/* Empties a cell and frees its block, or its list link by link. Only the holder, under registry. */
void gauge_free(chalk_segment *g, uint32_t row, uint32_t id);
/*
 * Whether a sound block, or in row 0 a sound list, stands at the offset; notes its blocks in the ledger. Nobody else
 * has the segment.
 */
bool gauge_is_sound(const chalk_segment *g, uint32_t row, uint64_t offset, heap_ledger *blocks);

#endif
