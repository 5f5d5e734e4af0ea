#include "series/gauge.h"

#include "base/peek.h"
#include "shm/heap.h"

/*
 * The most links of a list: one for each guest slot, and one for strangers. It ends the walk of a reader whose series
 * was reclaimed meanwhile, so that it follows something that is no list any more.
 */
enum { LINKS = OWNERS - WRITERS + 1 };

gauge_link *gauge_first(const chalk_segment *g, uint64_t list) {
  return list ? segment_block(g, list, sizeof(gauge_link)) : NULL;
}

gauge_link *gauge_next(const chalk_segment *g, const gauge_link *link) { return gauge_first(g, peek_u64(&link->next)); }

/* The guest slot that a link belongs to; 0 for GAUGE_STRANGER. NONE: the slot has a later turn. */
static uint32_t guest_of(const chalk_segment *g, uint64_t whose) {
  uint32_t guest = (uint32_t)(whose >> 32);
  if (whose == GAUGE_STRANGER) return 0;
  return guest >= WRITERS && guest < segment_guests(g) && gauge_owner(g, guest) == whose ? guest : NONE;
}

/* Links */

bool gauge_is_vacant(const chalk_segment *g, const gauge_link *link) {
  uint32_t guest = guest_of(g, atomic_load((shared_u64 *)&link->whose));
  return guest == NONE || (guest != 0 && !atomic_load(&g->slots[guest].taken));
}

/*
 * Gives a vacant link to a VM. The mark becomes unset first, and `whose` is stored last. A reader that takes the link
 * for one of its last owner looks at both again after it has read the value, and finds one of them changed.
 */
static void link_take(gauge_link *link, uint64_t whose) {
  atomic_store(&link->mark, as_bits(GAUGE_UNSET));
  atomic_store(&link->value, as_bits(GAUGE_FRESH));
  atomic_store(&link->whose, whose);
}

/* Puts a new link at the front of a list. Returns its offset; 0: no memory. */
static uint64_t link_new(chalk_segment *g, shared_u64 *cell, uint64_t whose, bool is_overflow) {
  uint64_t offset = is_overflow ? heap_take_last(g, sizeof(gauge_link)) : heap_take(g, sizeof(gauge_link));
  if (!offset) return 0;
  gauge_link *link = segment_at(g, offset);
  store_double(&link->value, GAUGE_FRESH);
  atomic_store_explicit(&link->whose, whose, memory_order_relaxed);
  atomic_store_explicit(&link->next, atomic_load(cell), memory_order_relaxed);
  atomic_store_explicit(cell, offset, memory_order_release);
  return offset;
}

uint64_t gauge_block_new(chalk_segment *g, bool is_overflow) {
  uint64_t block = is_overflow ? heap_take_last(g, GAUGE_BLOCK) : heap_take(g, GAUGE_BLOCK);
  if (block) store_double(segment_at(g, block), GAUGE_FRESH);
  return block;
}

uint64_t gauge_link_of(chalk_segment *g, uint32_t id, uint64_t whose) {
  if (!segment_chunk_real(g, g->slots[0].chunks, id)) return 0;
  shared_u64 *cell = segment_cell(g, 0, id);
  gauge_link *vacant = NULL, *link = gauge_first(g, atomic_load(cell));
  for (uint32_t i = 0; link && i < LINKS; i++, link = gauge_next(g, link)) {
    if (atomic_load(&link->whose) == whose) return segment_offset(g, link);
    if (!vacant && gauge_is_vacant(g, link)) vacant = link;
  }
  if (!vacant) return link_new(g, cell, whose, id < METRICS);
  link_take(vacant, whose);
  return segment_offset(g, vacant);
}

/* Reading */

static double combined(uint32_t across, double a, double b) {
  if (across == CHALK_SUM) return a + b;
  return across == CHALK_MIN ? (b < a ? b : a) : (b > a ? b : a);
}

/*
 * The mark is read before the value: read after it, it could make a value of the zero from before the first set. The
 * mark is read once more afterwards, because a new owner may have reset the gauge in between.
 */
void gauge_add(gauge_sum *sum, const gauge_link *block) {
  if (as_double(peek_u64(&block->mark)) == GAUGE_UNSET) return;
  double v = as_double(peek_u64(&block->value));
  if (as_double(peek_u64(&block->mark)) == GAUGE_UNSET) return;
  sum->value = sum->any ? combined(sum->across, sum->value, v) : v;
  sum->any = true;
}

/* Whether the owner of a link is alive. VMs without a guest slot are taken for alive. */
static bool is_alive(const chalk_segment *g, uint64_t whose, lives *alive) {
  uint32_t guest = guest_of(g, whose);
  return guest == 0 || (guest != NONE && lives_on(alive, guest));
}

void gauge_add_links(gauge_sum *sum, const chalk_segment *g, uint64_t list, lives *alive) {
  const gauge_link *link = gauge_first(g, list);
  for (uint32_t i = 0; link && i < LINKS; i++, link = gauge_next(g, link)) {
    uint64_t whose = peek_u64(&link->whose);
    if (!is_alive(g, whose, alive)) continue;
    gauge_sum more = *sum;
    gauge_add(&more, link);
    if (peek_u64(&link->whose) == whose) *sum = more;
  }
}

bool gauge_ask(const chalk_segment *g, uint32_t row, uint64_t offset, bool (*ask)(shared_u64 *mark)) {
  gauge_link *block = row != 0 ? segment_block(g, offset, GAUGE_BLOCK) : NULL,
             *link = row == 0 ? gauge_first(g, offset) : NULL;
  bool any = block && ask(&block->mark);
  for (uint32_t i = 0; link && i < LINKS; i++, link = gauge_next(g, link)) any = ask(&link->mark) || any;
  return any;
}

bool gauge_links_seen(const chalk_segment *g, uint64_t list, uint64_t epoch, lives *alive) {
  const gauge_link *link = gauge_first(g, list);
  for (uint32_t i = 0; link && i < LINKS; i++, link = gauge_next(g, link)) {
    uint32_t guest = guest_of(g, atomic_load((shared_u64 *)&link->whose));
    if (guest == NONE || guest == 0) continue;
    bool seen = atomic_load_explicit(&g->slots[guest].seen, memory_order_acquire) >= epoch;
    if (!seen && lives_on(alive, guest)) return false;
  }
  return true;
}

/* Taking apart */

void gauge_free(chalk_segment *g, uint32_t row, uint32_t id) {
  shared_u64 *cell = segment_cell(g, row, id);
  for (uint64_t offset; (offset = atomic_load(cell)) != 0;) {
    const gauge_link *link = row == 0 ? gauge_first(g, offset) : NULL;
    atomic_store(cell, link ? peek_u64(&link->next) : 0);
    heap_give(g, offset, row == 0 ? sizeof(gauge_link) : GAUGE_BLOCK);
  }
}

bool gauge_is_sound(const chalk_segment *g, uint32_t row, uint64_t offset, heap_ledger *blocks) {
  if (row != 0) return heap_note(blocks, offset, GAUGE_BLOCK);
  for (uint32_t i = 0; offset && i < LINKS; i++) {
    if (!heap_note(blocks, offset, sizeof(gauge_link))) return false;
    offset = atomic_load(&((gauge_link *)segment_at(g, offset))->next);
  }
  return offset == 0;
}
