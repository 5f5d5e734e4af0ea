/*
 * Metric kinds. Everything that the core knows about a kind is in its row of one table. The numbers of the kinds are in
 * chalk.h.
 *
 * The content of a series decides how it is recorded, read, combined over the slots and sent:
 *
 *   a total        The cell of each slot is a double, to which only the owner of the slot adds. A reader adds up the
 *                  cells. A total never falls, and exporters that send differences send its growth.
 *   a value        A record sets it. `across` says whether all VMs share one value, which is stored in the series, or
 *                  each VM has its own value, to which its cell leads, and how readers combine these: see gauge.h.
 *   a histogram    The cell of each slot leads to a block: see histogram.h. A reader adds up the blocks. The total of a
 *                  histogram is the number of recorded values.
 *
 * Several kinds may have the same content. A new kind needs a number in chalk.h, a row in kind.c
 * and one in lua/chalk/define/kinds.lua, and its verbs in record/record.c. Records compare with the numbers themselves, because a lookup in this table would cost them
 * instructions.
 */
#ifndef KIND_H
#define KIND_H

#include "shm/segment.h"

enum {
  KIND_MOST =
      CHALK_HISTOGRAM, /* the highest number of a kind; numbers start at 1, so this is also the number of kinds */
  KIND_MASK = (1 << (KIND_MOST + 1)) - (1 << CHALK_COUNT) /* all kinds, each as the bit 1 << kind */
};

typedef enum kind_content { KIND_NOTHING, KIND_TOTAL, KIND_VALUE, KIND_HISTOGRAM } kind_content;

typedef struct kind {
  const char *name; /* as definitions spell it */
  kind_content holds;
  uint32_t stream_type; /* its number in the metadata of the event stream, see stream_encoder.h */
} kind;

/* Indexed by number. The first row is for numbers that are not a kind. */
extern const kind kind_table[KIND_MOST + 1];

static inline bool kind_is_known(uint32_t number) { return number >= CHALK_COUNT && number <= KIND_MOST; }

/* The row of a number. The number may come from shared memory, so any number is allowed. */
static inline const kind *kind_of(uint32_t number) { return &kind_table[number <= KIND_MOST ? number : 0]; }

static inline bool kind_has_total(uint32_t number) { return kind_of(number)->holds == KIND_TOTAL; }
static inline bool kind_has_value(uint32_t number) { return kind_of(number)->holds == KIND_VALUE; }
static inline bool kind_has_histogram(uint32_t number) { return kind_of(number)->holds == KIND_HISTOGRAM; }

/* Whether each VM has its own value for a series of the metric, to which its cell leads. */
static inline bool kind_is_split(const metric *m) { return m->across != CHALK_LAST && kind_has_value(m->kind); }

#endif
