/*
 * What a user loses when this fails: a damaged file ends every process that opens it, at each start.
 *
 * A file with something of everything in it is made once. An input says which bytes of it to overwrite. Then the file
 * is opened: it is refused with a message, or can be read and recorded into, and the segment is whole afterwards.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kit.h"
#include "open/recover.h"
#include "record/tap.h"
#include "record/writer.h"
#include "value/kind.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_set_death_callback(void (*callback)(void));

enum { PAGE = 4096, LEAST_MEMORY = 4 << 20, SERIES = 16, WRITTEN = 3, RING = 9 };

/* The file as it was made: its `real` pages with content, and their offsets. */
static struct {
  char path[64];
  int fd;
  char *now; /* the file, mapped */
  size_t size, real;
  blkcnt_t blocks;
  off_t *offsets;
  char *pages;
  uint64_t at[10], length[10]; /* the regions that inputs overwrite */
} file;

static void remove_file(void) { unlink(file.path); }

/* Making the file */

static void fill(chalk_writer *w, const kit *k, int from, int to) {
  for (int i = from; i < to; i++) {
    char tag[16];
    snprintf(tag, sizeof tag, "value %d", i);
    kit_record(w, k, i % KINDS, tag, i % 3 == 0 ? -i : i * 1.5);
    if (i % KINDS == HISTOGRAM) {
      for (int v = 0; v < 20; v++) kit_record(w, k, HISTOGRAM, tag, v * v);
    }
  }
}

static void make(void) {
  chalk_options o = {.path = file.path, .memory_limit = LEAST_MEMORY};
  chalk_segment *g = must(chalk_segment_open(NULL, &o, NULL));
  chalk_writer *w = must(chalk_writer_open(g, NULL)), *other = must(chalk_writer_open(g, NULL));
  kit k = kit_define(w);
  kit_define(other);
  fill(w, &k, 0, SERIES);
  fill(other, &k, SERIES / 2, SERIES);
  kit_record(w, &k, COUNT, "__overflow__", 1);
  kit_record(w, &k, HISTOGRAM, "__overflow__", 1);
  chalk_cursor *c = must(chalk_cursor_open(g, "one", 1, 1, NULL)), *d = must(chalk_cursor_open(g, "two", 1, 1, NULL));
  kit_commit(g, c), kit_commit(g, d);
  /* The numbers of some dropped series are free again, others are in quarantine. */
  kit_remove(w, &k, COUNT, "value 0"), kit_remove(w, &k, HISTOGRAM, "value 3");
  chalk_writer_tick(w), chalk_writer_tick(other);
  kit_sweep(g, 10, 0);
  fill(w, &k, SERIES, SERIES + 3);
  kit_remove(w, &k, COUNT, "value 6"), kit_remove(w, &k, HISTOGRAM, "value 9");
  chalk_cursor_close(c), chalk_cursor_close(d);
  const header *h = g->head;
  chalk_tap_switch(g, KIND_MASK, 0, 1);
  fill(w, &k, 0, KINDS);
  uint64_t ring = atomic_load(&g->slots[1].ring);
  check(ring != 0);
  chalk_writer_close(w), chalk_writer_close(other);
  uint64_t top = h->ids_top - METRICS + 4;
  const uint64_t at[] = {0,
                         h->slots,
                         h->stripes,
                         h->cursors,
                         h->metrics,
                         h->series + METRICS * sizeof(series),
                         h->cells + (h->capacity + METRICS) * 8,
                         h->baselines + METRICS * sizeof(baseline),
                         h->heap,
                         ring};
  const uint64_t length[] = {sizeof(header),
                             WRITTEN * sizeof(slot),
                             STRIPES * sizeof(stripe),
                             2 * sizeof(cursor_head),
                             (h->metric_top + 1) * sizeof(metric),
                             top * sizeof(series),
                             top * 8,
                             top * sizeof(baseline),
                             ring - h->heap,
                             sizeof(tap_ring) + 32 * sizeof(chalk_event)};
  memcpy(file.at, at, sizeof at);
  memcpy(file.length, length, sizeof length);
  kit_close(g);
}

static void remember(void) {
  struct stat st;
  file.fd = open(file.path, O_RDWR | O_CLOEXEC);
  check(file.fd >= 0 && fstat(file.fd, &st) == 0);
  file.size = (size_t)st.st_size, file.blocks = st.st_blocks;
  file.now = mmap(NULL, file.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file.fd, 0);
  file.pages = malloc((size_t)st.st_blocks * 512);
  file.offsets = malloc((size_t)st.st_blocks * 512 / PAGE * sizeof *file.offsets);
  check(file.now != MAP_FAILED && file.pages && file.offsets);
  for (off_t at = lseek(file.fd, 0, SEEK_DATA); at >= 0 && at < st.st_size; at = lseek(file.fd, at, SEEK_DATA)) {
    off_t end = lseek(file.fd, at, SEEK_HOLE);
    for (; at < end; at += PAGE) {
      memcpy(file.pages + file.real * PAGE, file.now + at, PAGE);
      file.offsets[file.real++] = at;
    }
  }
}

static void restore(void) {
  struct stat st;
  check(fstat(file.fd, &st) == 0);
  if (st.st_blocks != file.blocks || (size_t)st.st_size != file.size) {
    check(ftruncate(file.fd, 0) == 0 && ftruncate(file.fd, (off_t)file.size) == 0);
  }
  for (size_t i = 0; i < file.real; i++) {
    char *now = file.now + file.offsets[i], *then = file.pages + i * PAGE;
    if (memcmp(now, then, PAGE) != 0) memcpy(now, then, PAGE);
  }
  if (fstat(file.fd, &st) == 0 && st.st_blocks != file.blocks) {
    for (size_t i = 0; i < file.real; i++) check(posix_fallocate(file.fd, file.offsets[i], PAGE) == 0);
  }
}

/* Damaging the file */

/* An offset in the file: region 9, the ring, is chosen seldom. */
static uint64_t position(uint32_t region, uint32_t offset) {
  region = region > 247 ? RING : region % RING;
  return file.at[region] + offset % file.length[region];
}

/*
 * Replaces numbers in the file: by a number of the input, by the largest one, by one that differs in a bit or by a
 * small step, by an offset in the heap, or by a number from elsewhere in the file.
 */
static void damage(input *in) {
  while (in->n >= 5) {
    uint32_t how = take8(in), region = take8(in);
    uint64_t at = position(region, take16(in)), width = 1ull << (how & 3), value = 0;
    if (how & 4) at &= ~(width - 1);
    if (at > file.size - 8) continue;
    memcpy(&value, file.now + at, width);
    switch (how >> 3 & 7) {
      case 0:
        value = take8(in);
        break;
      case 1:
        value = take16(in);
        break;
      case 2:
        value = take64(in);
        break;
      case 3:
        value = UINT64_MAX;
        break;
      case 4:
        value += (uint64_t)(int64_t)(int8_t)take8(in);
        break;
      case 5:
        value ^= 1ull << (take8(in) & 63);
        break;
      case 6:
        value = file.at[8] + take16(in) * 8;
        break;
      default: {
        uint64_t other = position(take8(in), take16(in)) & ~7ull;
        memcpy(&value, file.now + other, 8);
      }
    }
    memcpy(file.now + at, &value, width);
  }
}

/* Using the segment */

/* Whatever the rings hold, a reader gets events that the stream can encode. */
static void read_events(chalk_segment *g) {
  static const char *const labels[] = {"tag"};
  const chalk_stream_metric d = {
      .name = "m", .unit = "", .description = "", .labels = labels, .kind = CHALK_COUNT, .n_labels = 1};
  chalk_tap *t = must(chalk_tap_open(g, 1, NULL));
  chalk_stream *k = must(chalk_stream_new(g, 100, -1));
  for (uint32_t n; (n = chalk_tap_read(t)) > 0;) {
    for (int metric; (metric = chalk_stream_take(k, t, n)) >= 0;) {
      check(chalk_stream_define(k, (uint32_t)metric, &d) == CHALK_OK);
    }
  }
  check(chalk_tap_dropped(t) < 1ull << 53);
  chalk_stream_free(k);
  chalk_tap_close(t);
}

static void use(chalk_segment *g, uint32_t how) {
  kit_read(g);
  if (how & 32) {
    read_events(g);
    chalk_tap_switch(g, KIND_MASK, how & 16 ? 2 * CHALK_TAP_LEAST : 0, 1);
  }
  if (how & 1) {
    chalk_writer *w = must(chalk_writer_open(g, NULL));
    kit k = kit_define(w);
    if (how & 2) fill(w, &k, 0, SERIES);
    if (how & 4) kit_remove(w, &k, COUNT, "value 6");
    if (how & 8) chalk_clear(w, (uint32_t)k.metrics[HISTOGRAM]);
    chalk_writer_tick(w);
    if (how & 16) kit_sweep(g, 1e6, 0);
    chalk_writer_close(w);
    kit_read(g);
  }
  if (how & 32) read_events(g);
  check(recover_check(g));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!file.fd) {
    snprintf(file.path, sizeof file.path, "/dev/shm/chalk-fuzz-%d", (int)getpid());
    __sanitizer_set_death_callback(remove_file);
    atexit(remove_file);
    make();
    remember();
  }
  input in = {data, size};
  uint32_t how = take8(&in);
  restore();
  if (how & 128) {
    check(ftruncate(file.fd, 0) == 0 && pwrite(file.fd, in.at, in.n, 0) == (ssize_t)in.n);
  } else {
    if (how & 64) *((header *)file.now)->boot ^= 1;
    damage(&in);
  }
  char message[CHALK_MESSAGE] = "";
  chalk_options o = {.path = file.path, .memory_limit = LEAST_MEMORY};
  chalk_segment *g = chalk_segment_open(NULL, &o, message);
  if (!g) {
    check(message[0]);
    return 0;
  }
  use(g, how);
  kit_close(g);
  return 0;
}
