/*
 * Opening segments: by name, at a path, or anonymous. A file whose maker died is made again, see layout.h. Everything
 * that comes from a file is checked before it is used.
 */
#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "open/inherit.h"
#include "open/layout.h"
#include "open/limits.h"
#include "shm/life.h"
#include "shm/process.h"
#include "open/recover.h"

static chalk_segment *segments; /* the segments of this process; process lock */

static int restart_needed(char *message) {
  process_say(message, "restart needed: the segment was made by another version of chalk");
  return CHALK_EINVALID;
}

static int overwritten(char *message) {
  process_say(message, "restart needed: the segment's memory was written over by something other than chalk");
  return CHALK_EINVALID;
}

static bool is_inside(uint64_t offset, uint64_t size) { return offset >= sizeof(header) && offset <= size; }

/* Whether the maker of the file died while it made the segment. */
static bool is_half_made(const chalk_segment *g, uint64_t size) {
  header h = {0};
  uint64_t read = size < sizeof h ? size : sizeof h;
  if (pread(g->fd, &h, read, 0) != (ssize_t)read || h.magic != LAYOUT_MAGIC) return false;
  bool ours = h.layout == 0 || h.layout == SEGMENT_LAYOUT;
  return size == sizeof h.magic || (size >= sizeof h && ours && !atomic_load(&h.ready));
}

/*
 * Two byte locks of the file. A process holds the first while it opens the segment. Every process that has the segment
 * open, and every forked child of one, shares the second; so a process that opens the file knows whether it is alone.
 */
enum { OPENING, IN_USE };

/* How long another process may take to open the segment, in seconds. */
#define OPENING_LIMIT 10.0

static int file_lock(int fd, int which, short type) {
  struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = which, .l_len = 1};
  return fcntl(fd, F_OFD_SETLK, &range);
}

/*
 * The wait has a limit: opening a segment takes a moment, but any process that may read the file can lock it forever.
 */
static int lock_opening(int fd) {
  static const struct timespec pause = {.tv_nsec = 5000000};
  double until = chalk_now() + OPENING_LIMIT;
  while (file_lock(fd, OPENING, F_WRLCK) != 0) {
    if (errno != EAGAIN && errno != EACCES && errno != EINTR) return -1;
    if (chalk_now() >= until) return -1;
    nanosleep(&pause, NULL);
  }
  return 0;
}

static bool is_in_use(int fd) {
  struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = IN_USE, .l_len = 1};
  return fcntl(fd, F_OFD_GETLK, &range) != 0 || range.l_type != F_UNLCK;
}

/*
 * Adopts a segment that another process made, after it is mapped. While a process uses it, it is taken as it is;
 * otherwise it is checked and repaired.
 */
static int adopt(chalk_segment *g, const header *h, char *message) {
  if (is_in_use(g->fd)) return CHALK_OK;
  char boot[sizeof h->boot];
  layout_boot(boot, sizeof boot);
  int rc = recover(g, memcmp(boot, h->boot, sizeof boot) != 0, message);
  if (rc == CHALK_OK) memcpy(g->head->boot, boot, sizeof boot);
  return rc;
}

/* Whether the header of a file of this size is consistent. Computes the geometry. */
static bool has_geometry(const header *h, uint64_t size, header *geometry) {
  return h->capacity >= LIMITS_LEAST_CAPACITY && h->capacity <= LIMITS_MOST_CAPACITY &&
         (h->capacity & (h->capacity - 1)) == 0 && is_inside(h->heap, h->size) && h->size == size &&
         layout_compute(geometry, h->capacity, h->size - h->heap) == h->size &&
         memcmp(&geometry->slots, &h->slots, offsetof(header, heap) + sizeof h->heap - offsetof(header, slots)) == 0;
}

/*
 * Maps a segment that another process made: at a path, or in memory inherited from the program that this one replaces.
 */
static int attach(chalk_segment *g, uint64_t size, bool inherited, char *message) {
  header h;
  if (size < sizeof h || pread(g->fd, &h, sizeof h, 0) != (ssize_t)sizeof h || h.magic != LAYOUT_MAGIC) {
    process_say(message, "the file is not a segment of chalk");
    return CHALK_EINVALID;
  }
  if (h.layout != SEGMENT_LAYOUT || h.abi != CHALK_ABI) return restart_needed(message);
  header geometry = {0};
  if (!has_geometry(&h, size, &geometry) || !atomic_load(&h.ready)) {
    process_say(message, "the file is a damaged segment of chalk");
    return CHALK_EINVALID;
  }
  void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, g->fd, 0);
  if (base == MAP_FAILED) {
    process_say(message, "cannot map the segment: %s", strerror(errno));
    return CHALK_EMEMORY;
  }
  g->base = base;
  g->size = size;
  layout_apply(g, &geometry);
  int rc = CHALK_OK;
  if (!inherited) rc = adopt(g, &h, message);
  if (rc == CHALK_OK && !recover_is_plausible(g)) rc = overwritten(message);
  if (rc == CHALK_OK) return CHALK_OK;
  munmap(g->base, g->size); /* the file is kept, so that it can be examined */
  g->base = NULL;
  return rc;
}

/*
 * Seals anonymous memory. Otherwise any process that has it open could truncate it, which kills all its users. A file
 * cannot be sealed.
 */
static void seal(const chalk_segment *g) { fcntl(g->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL); }

static int create_or_attach(chalk_segment *g, const chalk_options *o, char *message) {
  struct stat st;
  if (fstat(g->fd, &st) != 0) return CHALK_EINVALID;
  g->device = st.st_dev, g->inode = st.st_ino;
  if (st.st_size > 0) {
    uint64_t size = (uint64_t)st.st_size;
    bool remake = o->path && is_half_made(g, size) && !is_in_use(g->fd);
    if (!remake || ftruncate(g->fd, 0) != 0) return attach(g, size, !o->path, message);
  }
  header geometry = {0};
  int rc = layout_reserve(g, o, &geometry, message);
  if (rc != CHALK_OK) return rc;
  if (!o->path) seal(g);
  return layout_fill(g, &geometry, o, message);
}

/* Opens new memory, or the memory that the program before this one had under the name. */
static int open_memory(const char *name) {
  char label[200];
  snprintf(label, sizeof label, "chalk%s%s", name ? ":" : "", name ? name : "");
  int fd = name ? inherit_memory(label) : -1;
  if (fd < 0) fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd >= 0 && name) inherit_mark(fd);
  return fd;
}

/*
 * Checks whether a file can be trusted. A process that can write to a segment's file, or truncate it, can hang and kill
 * all processes that use it. So the file must belong to this user or root, and no other user may write to it; the group
 * may if the option segment_group is set. The descriptor is checked, not the path, because the path may name another
 * file by now. Returns what is wrong; NULL: nothing is.
 */
static const char *untrusted(const struct stat *st, const chalk_options *o) {
  if (!S_ISREG(st->st_mode)) return "it is not a regular file";
  if (st->st_uid != geteuid() && st->st_uid != 0) return "it belongs to another user";
  if (st->st_mode & S_IWOTH) return "everybody may write to it";
  if ((st->st_mode & S_IWGRP) && !o->segment_group) return "its group may write to it (segment_group allows that)";
  return NULL;
}

/* Opens the file. O_NONBLOCK: if it is a FIFO or a device, the call does not wait for another process. */
static int open_path(const chalk_options *o, char *message) {
  struct stat st;
  int fd = open(o->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600);
  if (fd < 0 || fstat(fd, &st) != 0) {
    process_say(message, "cannot open %s: %s", o->path, strerror(errno));
    if (fd >= 0) close(fd);
    return -1;
  }
  const char *problem = untrusted(&st, o);
  bool fresh = st.st_size == 0 && st.st_uid == geteuid();
  if (!problem && fresh && o->segment_group && fchmod(fd, 0660) != 0) problem = strerror(errno);
  if (!problem && lock_opening(fd) != 0) problem = "another process keeps it locked";
  if (!problem) return fd;
  process_say(message, "cannot use %s: %s", o->path, problem);
  close(fd);
  return -1;
}

static int open_file(const char *name, const chalk_options *o, char *message) {
  if (o->path) return open_path(o, message);
  int fd = open_memory(name);
  if (fd < 0) process_say(message, "cannot open anonymous memory: %s", strerror(errno));
  return fd;
}

/* Takes the locks of the opened file, or empties it if this process failed to make it, so that the next one can. */
static int finish_opening(chalk_segment *g, const char *path, int rc, char *message) {
  if (rc != CHALK_OK && g->base && ftruncate(g->fd, 0) != 0) rc = CHALK_EINVALID;
  if (rc == CHALK_OK && file_lock(g->fd, IN_USE, F_RDLCK) != 0) {
    process_say(message, "cannot lock %s: %s", path, strerror(errno));
    rc = CHALK_EINVALID;
  }
  if (rc == CHALK_OK) life_begin(g);
  file_lock(g->fd, OPENING, F_UNLCK);
  return rc;
}

static chalk_segment *open_new(const char *name, const chalk_options *o, char *message) {
  chalk_segment *g = calloc(1, sizeof *g);
  if (!g) {
    process_say(message, "out of memory");
    return NULL;
  }
  g->fd = open_file(name, o, message);
  if (g->fd < 0) {
    free(g);
    return NULL;
  }
  int rc = create_or_attach(g, o, message);
  if (o->path) rc = finish_opening(g, o->path, rc, message);
  if (rc != CHALK_OK) {
    if (g->base) munmap(g->base, g->size);
    close(g->fd);
    free(g);
    return NULL;
  }
  madvise(g->base, g->size, MADV_DONTDUMP);
  g->references = 1;
  g->at_path = o->path != NULL;
  if (name) g->name = strdup(name);
  return g;
}

static const chalk_options no_options;

static void in_child(void) {
  for (chalk_segment *g = segments; g; g = g->next) life_end(g, true);
}

chalk_segment *chalk_segment_open(const char *name, const chalk_options *options, char *message) {
  const chalk_options *o = options ? options : &no_options;
  process_say(message, "%s", "");
  if (limits_check(o, message) != CHALK_OK) return NULL;
  process_at_fork(in_child);
  process_lock();
  chalk_segment *g = NULL;
  for (chalk_segment *s = segments; s && name && !g; s = s->next) {
    if (s->name && strcmp(s->name, name) == 0) g = s;
  }
  if (g && (g->head->layout != SEGMENT_LAYOUT || g->head->abi != CHALK_ABI)) {
    restart_needed(message);
    g = NULL;
  } else if (g && !recover_is_plausible(g)) {
    overwritten(message);
    g = NULL;
  } else if (g) {
    g->references++;
  } else {
    g = open_new(name, o, message);
    if (g) g->next = segments, segments = g;
  }
  process_unlock();
  return g;
}

void segments_mark(void) {
  process_lock();
  for (chalk_segment *g = segments; g; g = g->next) {
    if (g->name) inherit_mark(g->fd);
  }
  process_unlock();
}

/*
 * A named segment stays open until the process ends. A private one gives its memory back, but keeps its range of
 * addresses mapped as private zeros, because a handle that outlived its client may still store through its
 * pointers.
 */
void chalk_segment_close(chalk_segment *g) {
  process_lock();
  if (--g->references > 0 || g->name) {
    process_unlock();
    return;
  }
  for (chalk_segment **p = &segments; *p; p = &(*p)->next) {
    if (*p == g) {
      *p = g->next;
      break;
    }
  }
  process_unlock();
  mmap(g->base, g->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  madvise(g->base, g->size, MADV_DONTDUMP);
  life_end(g, false);
  close(g->fd);
  free(g);
}

void chalk_segment_abandon(chalk_segment *g) {
  process_lock();
  if (g->references == 1 && g->at_path) free(g->name), g->name = NULL;
  process_unlock();
  chalk_segment_close(g);
}

void chalk_segment_info(chalk_segment *g, chalk_info *info) {
  header *h = g->head;
  *info = (chalk_info){
      .epoch = segment_epoch(g),
      .heartbeat = load_double(&h->heartbeat),
      .flushed = load_double(&h->flushed),
      .memory = atomic_load(&h->memory),
      .memory_limit = atomic_load(&h->memory_limit),
      .requested = atomic_load(&h->requested),
      .done = atomic_load(&h->done),
      .folded = atomic_load_explicit(&h->folded, memory_order_relaxed),
      .series = atomic_load(&h->live),
      .quarantined = atomic_load(&h->quarantined),
      .max_series = atomic_load(&h->max_series),
      .capacity = g->capacity,
      .generation = atomic_load(&h->generation),
      .holder = atomic_load(&h->flusher.pid),
  };
  for (uint32_t i = 0; i < segment_metrics(g); i++) {
    info->metrics += atomic_load(&g->metrics[i].state) != METRIC_FREE;
  }
  for (uint32_t i = 1; i < segment_slots(g); i++) info->writers += atomic_load(&g->slots[i].taken);
}
