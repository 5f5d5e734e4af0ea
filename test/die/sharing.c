#include "sharing.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "series/slot.h"

enum { FIRST = 3, VACANT = 4 }; /* slots: the survivor has the first, the bystander the second */

/* The others belong to nobody who could be asked about. */
void sharing_crowd(bed *b) {
  chalk_segment *g = b->segment;
  for (uint32_t i = FIRST; i < WRITERS; i++) atomic_store(&g->slots[i].taken, 1);
  atomic_store(&g->head->slot_top, WRITERS);
}

void sharing_disperse(bed *b) {
  chalk_segment *g = b->segment;
  for (uint32_t i = FIRST; i < WRITERS; i++) {
    if (!atomic_load(&g->slots[i].owner.pid)) atomic_store(&g->slots[i].taken, 0);
  }
}

static void share(bed *b, const char *tag) {
  chalk_series *c = bed_bind(b, b->count, tag), *h = bed_bind(b, b->latency, tag), *u = bed_bind(b, b->load, tag);
  bed_add(b, c), bed_record(b, h, 42);
  EXPECT(chalk_set(u, 7) >= CHALK_OK);
  free(c), free(h), free(u);
}

/* A process shares, and ends in good order, or does not. */
static void come_and_go(bed *b, const char *tag, bool killed) {
  pid_t pid = fork();
  if (pid == 0) {
    chalk_series *u = bed_bind(b, b->load, tag);
    EXPECT(chalk_writer_slot(b->writer) == 0 && chalk_set(u, 5) >= CHALK_OK);
    if (!killed) chalk_writer_close(b->writer);
    kill(getpid(), SIGKILL);
  }
  waitpid(pid, NULL, 0);
}

void sharing_crowd_and_leave(bed *b) {
  sharing_crowd(b);
  come_and_go(b, "shared", false);
}

void sharing_crowd_and_drop(bed *b) {
  sharing_crowd(b);
  for (int i = 0; i < 3; i++) come_and_go(b, "shared", true);
  const char *tag = "shared";
  size_t size = 6;
  EXPECT(chalk_remove(b->writer, (uint32_t)b->load, &tag, &size) == 1);
}

void sharing_record(bed *b) { share(b, "shared"); }
void sharing_close(bed *b) { chalk_writer_close(b->writer); }

static void give(bed *b, uint32_t number) {
  segment_lock_take(&b->segment->head->registry);
  slot_give(b->segment, number);
  segment_lock_give(&b->segment->head->registry);
}

void sharing_vacate(bed *b) {
  share(b, "shared");
  give(b, VACANT);
}

void sharing_get_row(bed *b) {
  sharing_vacate(b);
  share(b, "shared");
  EXPECT(chalk_writer_slot(b->writer) == VACANT);
}

/* Somebody has died in a slot with a row, and it is time to look. */
void sharing_orphan(bed *b) {
  share(b, "shared");
  give(b, VACANT);
  pid_t pid = fork();
  if (pid == 0) {
    free(bed_bind(b, b->last, "orphan"));
    EXPECT(chalk_writer_slot(b->writer) == VACANT);
    kill(getpid(), SIGKILL);
  }
  waitpid(pid, NULL, 0);
  header *h = b->segment->head;
  atomic_fetch_sub(&h->looked, 5000);
}

void sharing_is_gone(bed *b) {
  chalk_series *s = bed_bind(b, b->load, "shared");
  EXPECT(chalk_value(s) == 0);
  EXPECT(chalk_set(s, 3) >= CHALK_OK && chalk_value(s) == 3);
  free(s);
}
