/*
 * Opening segments: by name, at a path, or anonymous. A segment is laid out and filled in once; `ready` is stored last,
 * so a file that somebody died at making is told from a whole one and made anew. What comes from a file is checked
 * before it is used.
 */
#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/heap.h"
#include "open/inherit.h"
#include "shm/life.h"
#include "shm/process.h"
#include "open/recover.h"
#include "value/sketch.h"

#define MAGIC 0x31746e6d67657363ull /* "csegmnt1" */

enum { STRIPE_HEADS = 32 };
static const uint64_t DEFAULT_LIMIT = 1ull << 30, LEAST_LIMIT = 4ull << 20;
static const uint32_t DEFAULT_SERIES = 100000, LEAST_CAPACITY = 1u << 17, MOST_CAPACITY = 1u << 24;

static chalk_segment *segments; /* of this process; process lock */

/* Laying out and creating */

static uint64_t rounded_up(uint64_t n) { return (n + 4095) & ~4095ull; }

/* Places every region for this capacity and heap; returns the size of all. */
static uint64_t lay_out(header *h, uint32_t capacity, uint64_t heap) {
  uint64_t at = rounded_up(sizeof(header));
  h->capacity = capacity;
  h->stripes = at, at += rounded_up(sizeof(stripe) * STRIPES);
  h->cursors = at, at += rounded_up(sizeof(cursor_head) * CURSORS);
  h->slots = at, at += rounded_up(sizeof(slot) * OWNERS);
  h->metrics = at, at += rounded_up(sizeof(metric) * METRICS);
  h->series = at, at += rounded_up(sizeof(series) * (uint64_t)capacity);
  h->cells = at, at += (uint64_t)WRITERS * capacity * 8;
  h->baselines = at, at += (uint64_t)CURSORS * capacity * sizeof(baseline);
  h->heap = at;
  return h->size = at + rounded_up(heap);
}

static uint32_t capacity_for(uint32_t max_series) {
  uint32_t capacity = LEAST_CAPACITY;
  while (capacity < MOST_CAPACITY && capacity / 2 < max_series + METRICS) capacity *= 2;
  return capacity;
}

/* Where the parts are, by a header of this process's own. */
static void view(chalk_segment *g, const header *plan) {
  uint32_t items = plan->capacity / CHUNKS;
  g->capacity = plan->capacity;
  g->chunk_log = (uint32_t)__builtin_ctz(items < CHUNK_LEAST ? CHUNK_LEAST : items);
  g->cells = plan->cells;
  g->baselines = plan->baselines;
  g->heap = plan->heap;
  g->slots = segment_at(g, plan->slots);
  g->stripes = segment_at(g, plan->stripes);
  g->cursors = segment_at(g, plan->cursors);
  g->metrics = segment_at(g, plan->metrics);
  g->series = segment_at(g, plan->series);
}

static int file_limit(uint64_t size, char *message) {
  struct rlimit r;
  if (getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur != RLIM_INFINITY && size > r.rlim_cur) {
    process_say(message, "the file size limit (%llu bytes) is below what a segment reserves",
                (unsigned long long)r.rlim_cur);
    return CHALK_EMEMORY;
  }
  return CHALK_OK;
}

/* Reserves and maps; a smaller heap where the address space is limited. Fills in g->base, g->size, plan. */
static int reserve(chalk_segment *g, const chalk_options *o, header *plan, char *message) {
  uint64_t wanted = o->memory_limit ? o->memory_limit : DEFAULT_LIMIT, limit = wanted;
  uint32_t capacity = capacity_for(o->max_series ? o->max_series : DEFAULT_SERIES);
  struct rlimit r;
  bool limited = getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur != RLIM_INFINITY;
  for (;; limit /= 2) {
    uint64_t size = lay_out(plan, capacity, limit);
    if (limited && size > r.rlim_cur && limit > LEAST_LIMIT) continue;
    if (file_limit(size, message) != CHALK_OK) return CHALK_EMEMORY;
    void *base = MAP_FAILED;
    static const uint64_t magic = MAGIC;
    if (pwrite(g->fd, &magic, sizeof magic, 0) == sizeof magic && ftruncate(g->fd, (off_t)size) == 0) {
      base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, g->fd, 0);
    }
    if (base != MAP_FAILED) {
      g->base = base;
      g->size = size;
      if (limit < wanted) {
        process_say(message, "only %llu of %llu MiB could be reserved: the address space or file size is limited",
                    (unsigned long long)(limit >> 20), (unsigned long long)(wanted >> 20));
      }
      return CHALK_OK;
    }
    if (limit <= LEAST_LIMIT) {
      process_say(message, "cannot reserve memory for a segment: %s", strerror(errno));
      return ftruncate(g->fd, 0) == 0 ? CHALK_EMEMORY : CHALK_EINVALID;
    }
  }
}

/* Half of what a control group leaves: beyond its limit the kernel kills, where beyond ours series are folded. */
static uint64_t default_limit(void) {
  uint64_t half = process_memory_limit() / 2;
  return half > DEFAULT_LIMIT ? DEFAULT_LIMIT : half < LEAST_LIMIT ? LEAST_LIMIT : half;
}

static void set_limits(chalk_segment *g, const chalk_options *o) {
  header *h = g->head;
  uint32_t most = g->capacity / 2;
  if (o->max_series) atomic_store(&h->max_series, o->max_series < most ? o->max_series : most);
  if (o->max_buckets) atomic_store(&h->max_buckets, o->max_buckets);
  if (o->initial_error > 0) atomic_store(&h->start_scale, (uint32_t)sketch_scale_for(o->initial_error));
  if (o->memory_limit) atomic_store(&h->memory_limit, o->memory_limit);
}

static int check_options(const chalk_options *o, char *message) {
  if (o->max_buckets && (o->max_buckets < 8 || o->max_buckets > 8192)) {
    process_say(message, "max_buckets must be from 8 to 8192");
    return CHALK_EINVALID;
  }
  if (o->initial_error != 0 && !(o->initial_error >= 0.0001 && o->initial_error <= 0.5)) {
    process_say(message, "initial_error must be from 0.0001 to 0.5");
    return CHALK_EINVALID;
  }
  if (o->max_series > MOST_CAPACITY / 2) {
    process_say(message, "max_series must be at most %u", MOST_CAPACITY / 2);
    return CHALK_EINVALID;
  }
  if (o->memory_limit && o->memory_limit < LEAST_LIMIT) {
    process_say(message, "memory_limit must be at least %llu bytes", (unsigned long long)LEAST_LIMIT);
    return CHALK_EINVALID;
  }
  return CHALK_OK;
}

static void read_boot(char *boot, size_t size) {
  memset(boot, 0, size);
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t n = read(fd, boot, size - 1);
  if (n < 0) boot[0] = 0;
  close(fd);
}

/* Writes a new segment's header; the file is all zeroes. `ready` is stored last. */
static int create(chalk_segment *g, const header *plan, const chalk_options *o, char *message) {
  uint64_t start = 0, real = segment_pages(g, &start, plan->slots + rounded_up(sizeof(slot) * WRITERS));
  if (segment_allocate(g->fd, start, real) != CHALK_OK) {
    process_say(message, "no memory for a segment: %s", strerror(errno ? errno : ENOSPC));
    return CHALK_EMEMORY;
  }
  header *h = g->head;
  static const chalk_options defaults = {.max_series = 100000, .max_buckets = 512, .initial_error = 0.001};
  h->layout = SEGMENT_LAYOUT, h->abi = CHALK_ABI;
  lay_out(h, plan->capacity, plan->size - plan->heap);
  view(g, plan);
  atomic_store(&h->memory_limit, o->memory_limit ? o->memory_limit : default_limit());
  atomic_store(&h->memory, real);
  set_limits(g, &defaults);
  set_limits(g, o);
  atomic_store(&h->epoch, as_bits(1));
  h->heap_top = h->heap_real = g->heap;
  h->ids_free = NONE;
  atomic_store(&h->ids_top, METRICS);
  atomic_store(&h->series_real, METRICS);
  atomic_store(&h->slot_top, 1);
  atomic_store(&h->guest_top, WRITERS);
  atomic_store(&h->slots_real, WRITERS);
  read_boot(h->boot, sizeof h->boot);
  segment_locks_new(g);
  for (uint32_t i = 0; i < STRIPES; i++) {
    stripe *s = &g->stripes[i];
    s->size = STRIPE_HEADS;
    s->heads = heap_take(g, STRIPE_HEADS * sizeof(uint32_t));
    if (!s->heads) {
      process_say(message, "no memory for a segment");
      return CHALK_EMEMORY;
    }
    memset(segment_at(g, s->heads), 0xff, STRIPE_HEADS * sizeof(uint32_t));
  }
  atomic_store_explicit(&h->ready, 1, memory_order_release);
  return CHALK_OK;
}

/* Opening: by name, by path, or anonymous */

static int restart_needed(char *message) {
  process_say(message, "restart needed: the segment was made by another version of chalk");
  return CHALK_EINVALID;
}

static int overwritten(char *message) {
  process_say(message, "restart needed: the segment's memory was written over by something other than chalk");
  return CHALK_EINVALID;
}

static bool inside(uint64_t offset, uint64_t size) { return offset >= sizeof(header) && offset <= size; }

/* Whether the file was left by somebody who died at making it. */
static bool is_half_made(const chalk_segment *g, uint64_t size) {
  header h = {0};
  uint64_t read = size < sizeof h ? size : sizeof h;
  if (pread(g->fd, &h, read, 0) != (ssize_t)read || h.magic != MAGIC) return false;
  bool ours = h.layout == 0 || h.layout == SEGMENT_LAYOUT;
  return size == sizeof h.magic || (size >= sizeof h && ours && !atomic_load(&h.ready));
}

/*
 * Two locks of the file. The first is held while a segment is opened. Part of the second is held by all who have it open,
 * and by the forked children who do; so whoever opens it knows whether he is alone with what is in it.
 */
enum { OPENING, IN_USE };

/* How long somebody else may be at opening it, in seconds. */
#define OPENING_LIMIT 10.0

static int file_lock(int fd, int which, short type) {
  struct flock one = {.l_type = type, .l_whence = SEEK_SET, .l_start = which, .l_len = 1};
  return fcntl(fd, F_OFD_SETLK, &one);
}

/* Nobody opens a segment for long; but whoever may read the file can lock it for ever. */
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
  struct flock one = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = IN_USE, .l_len = 1};
  return fcntl(fd, F_OFD_GETLK, &one) != 0 || one.l_type != F_UNLCK;
}

/* What another process made, once mapped: as it is while somebody uses it, else looked through. */
static int take_up(chalk_segment *g, const header *h, char *message) {
  if (is_in_use(g->fd)) return CHALK_OK;
  char boot[sizeof h->boot];
  read_boot(boot, sizeof boot);
  int e = recover(g, memcmp(boot, h->boot, sizeof boot) != 0, message);
  if (e == CHALK_OK) memcpy(g->head->boot, boot, sizeof boot);
  return e;
}

/* Maps what another process made: at a path, or in memory that was inherited from the server which is replaced. */
static int attach(chalk_segment *g, uint64_t size, bool inherited, char *message) {
  header h;
  if (size < sizeof h || pread(g->fd, &h, sizeof h, 0) != (ssize_t)sizeof h || h.magic != MAGIC) {
    process_say(message, "the file is not a segment of chalk");
    return CHALK_EINVALID;
  }
  if (h.layout != SEGMENT_LAYOUT || h.abi != CHALK_ABI) return restart_needed(message);
  header plan = {0};
  bool sane = h.capacity >= LEAST_CAPACITY && h.capacity <= MOST_CAPACITY && (h.capacity & (h.capacity - 1)) == 0 &&
              inside(h.heap, h.size) && h.size == size && lay_out(&plan, h.capacity, h.size - h.heap) == h.size &&
              memcmp(&plan.slots, &h.slots, offsetof(header, heap) + sizeof h.heap - offsetof(header, slots)) == 0;
  if (!sane || !atomic_load(&h.ready)) {
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
  view(g, &plan);
  int e = CHALK_OK;
  if (!inherited) e = take_up(g, &h, message);
  if (e == CHALK_OK && !recover_is_plausible(g)) e = overwritten(message);
  if (e == CHALK_OK) return CHALK_OK;
  munmap(g->base, g->size); /* and the file stays as it is, for whoever wants to look at it */
  g->base = NULL;
  return e;
}

/* Of memory, not of a file: whoever has it open could else cut it, which kills all that use it. */
static void seal(const chalk_segment *g) { fcntl(g->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL); }

static int create_or_attach(chalk_segment *g, const chalk_options *o, char *message) {
  struct stat st;
  if (fstat(g->fd, &st) != 0) return CHALK_EINVALID;
  g->device = st.st_dev, g->inode = st.st_ino;
  if (st.st_size > 0) {
    uint64_t size = (uint64_t)st.st_size;
    bool anew = o->path && is_half_made(g, size) && !is_in_use(g->fd);
    if (!anew || ftruncate(g->fd, 0) != 0) return attach(g, size, !o->path, message);
  }
  header plan = {0};
  int e = reserve(g, o, &plan, message);
  if (e != CHALK_OK) return e;
  if (!o->path) seal(g);
  return create(g, &plan, o, message);
}

/* New memory, or what the program that this one replaced had under the name. */
static int open_memory(const char *name) {
  char label[200];
  snprintf(label, sizeof label, "chalk%s%s", name ? ":" : "", name ? name : "");
  int fd = name ? inherit_memory(label) : -1;
  if (fd < 0) fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd >= 0 && name) inherit_mark(fd);
  return fd;
}

/*
 * Whoever can write to a segment's file, or cut it, can hang and kill those who use it. So it has to be this user's or
 * root's, and nobody else's to write; its group's, where that is wanted. The descriptor is asked: what has the name may
 * be another file by now. Returns what is wrong; NULL: nothing.
 */
static const char *untrusted(const struct stat *st, const chalk_options *o) {
  if (!S_ISREG(st->st_mode)) return "it is no regular file";
  if (st->st_uid != geteuid() && st->st_uid != 0) return "it is another user's";
  if (st->st_mode & S_IWOTH) return "everybody may write to it";
  if ((st->st_mode & S_IWGRP) && !o->segment_group) return "its group may write to it (segment_group allows that)";
  return NULL;
}

/* Without waiting for anybody at the other end, should it be a FIFO or a device. */
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
  int e = create_or_attach(g, o, message);
  if (o->path) {
    /* A half-made file is emptied, so that the next to come makes it anew. */
    if (e != CHALK_OK && g->base && ftruncate(g->fd, 0) != 0) e = CHALK_EINVALID;
    if (e == CHALK_OK && file_lock(g->fd, IN_USE, F_RDLCK) != 0) {
      process_say(message, "cannot lock %s: %s", o->path, strerror(errno));
      e = CHALK_EINVALID;
    }
    if (e == CHALK_OK) life_begin(g);
    file_lock(g->fd, OPENING, F_UNLCK);
  }
  if (e != CHALK_OK) {
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
  if (check_options(o, message) != CHALK_OK) return NULL;
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
 * A named segment stays for the process's life. A private one gives its memory back, but keeps its range of addresses
 * as private zeroes: a series object that outlived its client may still be stored through.
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

int chalk_segment_configure(chalk_segment *g, const chalk_options *o, char *message) {
  int e = check_options(o, message);
  if (e == CHALK_OK && o->max_series > g->capacity / 2) {
    process_say(message, "max_series can be at most %u in this segment; give it before the first load",
                g->capacity / 2);
    e = CHALK_EINVALID;
  }
  uint64_t room = g->size - g->heap;
  if (e == CHALK_OK && o->memory_limit > room) {
    process_say(message, "memory_limit can be at most %llu in this segment; give it before the first load",
                (unsigned long long)room);
    e = CHALK_EINVALID;
  }
  if (e != CHALK_OK) return e;
  bool more =
      o->max_series > atomic_load(&g->head->max_series) || o->memory_limit > atomic_load(&g->head->memory_limit);
  set_limits(g, o);
  if (more) segment_epoch_move(g); /* handles that were folded look for their series again */
  return CHALK_OK;
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
