/*
 * Metric kinds: what the core has to know of a kind stands in its row of one table. chalk.h has their numbers.
 *
 * What a series of a kind holds decides how it is recorded, read, combined over the slots and sent:
 *
 *   a total        The cell of each slot is a double, to which only its owner adds. A reader adds up the slots. A total
 *                  never falls, and exporters that send differences send what it grew by.
 *   a value        It is set. `across` says whether all VMs share one value, which stands in the series, or each has its
 *                  own, to which its cell leads, and how readers combine these: see gauge.h.
 *   a histogram    The cell of each slot leads to a block: see histogram.h. A reader adds up the blocks. The total of a
 *                  histogram is the number of values that were recorded.
 *
 * Several kinds may hold the same. A new kind is a number in chalk.h, a row here, and its verbs in record/record.c,
 * where each record compares with the numbers themselves: a look at the table would cost it instructions.
 */
#ifndef KIND_H
#define KIND_H

#include "shm/segment.h"

enum {
  KIND_MOST = CHALK_HISTOGRAM, /* the highest number of a kind; from 1, so also how many there are */
  KIND_MASK = (1 << (KIND_MOST + 1)) - (1 << CHALK_COUNT) /* all of them, each as 1 << kind */
};

typedef enum kind_content { KIND_NOTHING, KIND_TOTAL, KIND_VALUE, KIND_HISTOGRAM } kind_content;

typedef struct kind {
  const char *name; /* as in definitions */
  kind_content holds;
  uint32_t stream_type; /* in the event stream's metadata, see stream.c */
} kind;

/* By number; the first is what a number has that is no kind's. */
extern const kind kind_table[KIND_MOST + 1];

static inline bool kind_is_known(uint32_t number) { return number >= CHALK_COUNT && number <= KIND_MOST; }

/* The row of a number, which may come out of shared memory and be anything. */
static inline const kind *kind_of(uint32_t number) { return &kind_table[number <= KIND_MOST ? number : 0]; }

static inline bool kind_has_total(uint32_t number) { return kind_of(number)->holds == KIND_TOTAL; }
static inline bool kind_has_value(uint32_t number) { return kind_of(number)->holds == KIND_VALUE; }
static inline bool kind_has_histogram(uint32_t number) { return kind_of(number)->holds == KIND_HISTOGRAM; }

/* Whether a metric's series have a value for each VM, to which cells lead. */
static inline bool kind_is_split(const metric *m) { return m->across != CHALK_LAST && kind_has_value(m->kind); }

#endif
