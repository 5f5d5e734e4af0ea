#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FORK_HOOKS = 8 };
#define ZOMBIE UINT64_MAX

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void (*hooks[FORK_HOOKS])(void);
static int n_hooks;
static struct {
  shared_u32 pid; /* stored last: several threads may find out at once */
  uint64_t start, space;
} self;

void process_lock(void) { pthread_mutex_lock(&lock); }
void process_unlock(void) { pthread_mutex_unlock(&lock); }

/* Only async-signal-safe work: another thread of the parent may have held any lock. */
static void in_child(void) {
  pthread_mutex_init(&lock, NULL);
  self.pid = 0;
  for (int i = 0; i < n_hooks; i++) hooks[i]();
}

void process_at_fork(void (*child)(void)) {
  process_lock();
  bool known = false;
  for (int i = 0; i < n_hooks; i++) known = known || hooks[i] == child;
  if (!known && n_hooks < FORK_HOOKS) {
    if (n_hooks == 0) pthread_atfork(NULL, NULL, in_child);
    hooks[n_hooks++] = child;
  }
  process_unlock();
}

/*
 * The start time in /proc/PID/stat (field 22); 0 when it cannot be read, ZOMBIE for a
 * process that has ended and waits for its parent. Fields are counted from behind the command's name, which may hold blanks and brackets.
 */
static uint64_t start_time(uint32_t pid) {
  char path[32], text[1024], state = 0;
  snprintf(path, sizeof path, "/proc/%u/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return 0;
  text[n] = 0;
  char *p = strrchr(text, ')');
  unsigned long threads = 0;
  for (int field = 2; p && field < 22; field++) {
    p = strchr(p + 1, ' ');
    if (p && field == 2) state = p[1];
    if (p && field == 19) threads = strtoul(p + 1, NULL, 10);
  }
  if (!p || ((state == 'Z' || state == 'X') && threads <= 1)) return ZOMBIE;
  return strtoull(p + 1, NULL, 10);
}

static uint64_t pid_space(void) {
  struct stat st;
  return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

static void know_self(void) {
  uint32_t pid = (uint32_t)getpid();
  if (self.pid == pid) return;
  self.start = start_time(pid);
  self.space = pid_space();
  self.pid = pid;
}

void process_own(owner *o) {
  know_self();
  atomic_store(&o->space, self.space);
  atomic_store(&o->start, self.start);
  atomic_store(&o->pid, self.pid);
}

bool process_is_own(const owner *o) {
  know_self();
  return atomic_load(&o->pid) == self.pid && atomic_load(&o->start) == self.start &&
         atomic_load(&o->space) == self.space;
}

bool process_is_dead(const owner *o) {
  know_self();
  uint32_t pid = atomic_load(&o->pid);
  if (pid == 0 || self.space == 0 || atomic_load(&o->space) != self.space) return false;
  if (kill((pid_t)pid, 0) != 0 && errno == ESRCH) return true;
  uint64_t recorded = atomic_load(&o->start), now = start_time(pid);
  if (now == ZOMBIE) return true;
  if (recorded == 0) return false;
  return now != 0 ? now != recorded : kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

void process_say(char *message, const char *format, ...) {
  if (!message) return;
  va_list args;
  va_start(args, format);
  vsnprintf(message, CHALK_MESSAGE, format, args);
  va_end(args);
}

uint32_t chalk_process(void) { return (uint32_t)getpid(); }

static double clock_seconds(clockid_t id) {
  struct timespec t;
  clock_gettime(id, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double chalk_now(void) { return clock_seconds(CLOCK_MONOTONIC); }
double chalk_wall(void) { return clock_seconds(CLOCK_REALTIME); }
int chalk_abi(void) { return CHALK_ABI; }
