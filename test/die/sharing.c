#include "sharing.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "series/cells.h"
#include "series/series.h"
#include "series/slot.h"

/* Slots: the first one after those of survivor and bystander, and one that is given back on some paths. */
enum { FIRST = 3, VACANT = 4 };

/* The other slots are taken, without an owner whose death could be proven. */
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

/* A process shares slot 0, and closes its VM or is killed. */
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

/* The owner of a slot with a row has died, and the next search for dead owners is due. */
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

static chalk_writer *guest; /* the survivor's second VM */

static chalk_series *bind_as_guest(bed *b) {
  const char *tag = "late";
  size_t size = 4;
  return chalk_series_new(guest, (uint32_t)b->load, &tag, &size);
}

static void open_guest(bed *b) {
  chalk_writer *own = b->writer;
  b->writer = guest = chalk_writer_open(b->segment, NULL);
  EXPECT(guest && chalk_writer_slot(guest) == 0);
  EXPECT(bed_define(b, "load", CHALK_GAUGE, CHALK_SUM, "load") == b->load);
  b->writer = own;
}

/* A VM that shares gets a row. Its gauge is dropped as idle, and it stores into its link late. */
static void leave_late_link(bed *b) {
  sharing_crowd(b);
  open_guest(b);
  chalk_series *s = bind_as_guest(b);
  EXPECT(chalk_set(s, 3) >= CHALK_OK);
  give(b, VACANT);
  EXPECT(chalk_set(s, 4) >= CHALK_OK && chalk_writer_slot(guest) == VACANT);
  cells_gauge_take(b->segment, s->series);
  EXPECT(series_drop_idle(b->segment, &s->series, 1) == 1);
  s->cell[0] = 8, s->cell[1] = GAUGE_TOUCHED;
  free(s);
}

static void notice_drop(bed *b) {
  chalk_writer_tick(guest);
  bed_tick(b);
}

void sharing_leave_late(bed *b) {
  leave_late_link(b);
  notice_drop(b);
}

void sharing_leave_late_to_successor(bed *b) {
  leave_late_link(b);
  free(bed_bind(b, b->load, "late"));
  notice_drop(b);
}

void sharing_leave_late_to_vacancy(bed *b) {
  leave_late_link(b);
  come_and_go(b, "late", false);
  notice_drop(b);
}

void sharing_late_is_there(bed *b) {
  chalk_series *all = bed_bind(b, b->load, "late"), *s = bind_as_guest(b);
  EXPECT(chalk_value(all) == 8);
  EXPECT(chalk_set(s, 9) >= CHALK_OK && chalk_value(all) == 9);
  chalk_writer_close(guest);
  EXPECT(chalk_value(all) == 0);
  free(all), free(s);
}

void sharing_is_gone(bed *b) {
  chalk_series *s = bed_bind(b, b->load, "shared");
  EXPECT(chalk_value(s) == 0);
  EXPECT(chalk_set(s, 3) >= CHALK_OK && chalk_value(s) == 3);
  free(s);
}
