#include "shm/life.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/process.h"

enum { FIRST = 2, PAGE = 4096 }; /* the bytes before FIRST are those of open.c */

static struct flock range_of(uint64_t life, short type) {
  return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)(FIRST + life), .l_len = 1};
}

static bool lock(int fd, uint64_t life) {
  struct flock range = range_of(life, F_RDLCK);
  return fcntl(fd, F_OFD_SETLK, &range) == 0;
}

static uint64_t new_number(chalk_segment *g) { return atomic_fetch_add(&g->head->lives, 1) + 1; }

/* The program may have closed the descriptor, and its number may now belong to another file. */
static bool is_its_file(const chalk_segment *g, int fd) {
  struct stat st;
  return fstat(fd, &st) == 0 && st.st_dev == g->device && st.st_ino == g->inode;
}

void life_begin(chalk_segment *g) {
  uint64_t life = new_number(g);
  if (lock(g->fd, life)) g->family = life;
}

/* Locks a byte through `fd` and maps a page of the file, which keeps the lock for as long as it is mapped. */
static void *lock_and_map(const chalk_segment *g, int fd, uint64_t life) {
  if (fd < 0 || !is_its_file(g, fd) || !lock(fd, life)) return NULL;
  void *page = mmap(NULL, PAGE, PROT_NONE, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) return NULL;
  if (madvise(page, PAGE, MADV_DONTFORK) == 0) return page;
  munmap(page, PAGE);
  return NULL;
}

uint64_t life_take(chalk_segment *g) {
  if (g->life) return g->life;
  char path[32];
  uint64_t life = new_number(g);
  snprintf(path, sizeof path, "/proc/self/fd/%d", g->fd);
  /* The file is checked before it is opened: opening another file may block forever or have side effects. */
  int fd = is_its_file(g, g->fd) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  g->life_page = lock_and_map(g, fd, life);
  if (fd >= 0) close(fd);
  return g->life = g->life_page ? life : g->family;
}

void life_end(chalk_segment *g, bool forked) {
  if (g->life_page && !forked) munmap(g->life_page, PAGE);
  g->life_page = NULL;
  g->life = 0;
}

/*
 * Whether the lock is free, so that the processes that had it have ended. Locks of this process's own open file
 * descriptions do not show up in the question, so the lock of its family counts as held.
 */
static bool has_ended(const chalk_segment *g, uint64_t life) {
  if (life == 0 || life == g->family || life == g->life) return false;
  struct flock range = range_of(life, F_WRLCK);
  return fcntl(g->fd, F_OFD_GETLK, &range) == 0 && range.l_type == F_UNLCK && is_its_file(g, g->fd);
}

bool life_is_over(const chalk_segment *g, const owner *o) {
  return process_is_near(o) ? process_is_dead(o) : has_ended(g, atomic_load((shared_u64 *)&o->life));
}
