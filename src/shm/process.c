#include "shm/process.h"

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
static uint32_t forks;

bool process_hands_on;

/* What distinguishes a process from others with the same id, and from itself before an exec. Zero: unknown. */
typedef struct identity {
  uint64_t start;
  uint32_t image; /* of its program: the random address of its stack */
  bool stopped;
} identity;

static struct {
  shared_u32 pid; /* stored last, because several threads may fill in these fields at once */
  shared_u64 space, start;
  shared_u32 image;
} self;

void process_lock(void) { pthread_mutex_lock(&lock); }
void process_unlock(void) { pthread_mutex_unlock(&lock); }

static void in_parent(void) { forks++; }

/* A child may only do async-signal-safe work: another thread of its parent may have held any lock at the fork. */
static void in_child(void) {
  forks++;
  pthread_mutex_init(&lock, NULL);
  self.pid = 0;
  for (int i = 0; i < n_hooks; i++) hooks[i]();
}

uint32_t process_forks(void) { return forks; }

void process_at_fork(void (*child)(void)) {
  process_lock();
  bool known = false;
  for (int i = 0; i < n_hooks; i++) known = known || hooks[i] == child;
  if (!known && n_hooks < FORK_HOOKS) {
    if (n_hooks == 0) pthread_atfork(NULL, in_parent, in_child);
    hooks[n_hooks++] = child;
  }
  process_unlock();
}

/*
 * Reads /proc/PID/stat: field 22 is the start time, field 28 the address of the stack, which is 0 without the right to
 * trace the process. PID 0 stands for this process. `start` is ZOMBIE for a process that has ended and was not waited
 * for yet. Fields are counted from the end of the command's name, which may contain blanks and brackets.
 */
static identity identity_of(uint32_t pid) {
  char path[32], text[1024], state = 0;
  identity found = {0};
  snprintf(path, sizeof path, pid ? "/proc/%u/stat" : "/proc/self/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return found;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return found;
  text[n] = 0;
  char *p = strrchr(text, ')');
  unsigned long threads = 0;
  for (int field = 3; p && field <= 28; field++) {
    p = strchr(p + 1, ' ');
    if (p && field == 3) state = p[1];
    if (p && field == 20) threads = strtoul(p + 1, NULL, 10);
    if (p && field == 22) found.start = strtoull(p + 1, NULL, 10);
    if (p && field == 28) found.image = (uint32_t)(strtoull(p + 1, NULL, 10) >> 4);
  }
  found.stopped = state == 'T' || state == 't';
  if ((state == 'Z' || state == 'X') && threads <= 1) found.start = ZOMBIE;
  return found;
}

/*
 * Whether /proc is of this process's own pid namespace. Otherwise its process ids are those of another namespace, and
 * it tells nothing about the processes of this one.
 */
static bool is_own_proc(uint32_t pid) {
  char link[16] = "", own[16];
  snprintf(own, sizeof own, "%u", pid);
  return readlink("/proc/self", link, sizeof link - 1) > 0 && strcmp(link, own) == 0;
}

static uint64_t pid_space(uint32_t pid) {
  struct stat st;
  if (!is_own_proc(pid)) return 0;
  return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

static void know_self(void) {
  uint32_t pid = (uint32_t)getpid();
  if (self.pid == pid) return;
  identity id = identity_of(0);
  self.start = id.start;
  self.image = id.image;
  self.space = pid_space(pid);
  self.pid = pid;
}

void process_own(owner *o) {
  know_self();
  atomic_store(&o->space, self.space);
  atomic_store(&o->start, self.start);
  atomic_store(&o->image, self.image);
  atomic_store(&o->pid, self.pid);
}

bool process_is_own(const owner *o) {
  know_self();
  return atomic_load(&o->pid) == self.pid && atomic_load(&o->start) == self.start &&
         atomic_load(&o->space) == self.space;
}

bool process_is_near(const owner *o) {
  know_self();
  return self.space != 0 && atomic_load(&o->space) == self.space;
}

static shared_u64 questions;

uint64_t process_questions(void) { return atomic_load(&questions); }

bool process_is_dead(const owner *o) {
  uint32_t pid = atomic_load(&o->pid);
  if (pid == 0 || !process_is_near(o)) return false;
  if (process_is_own(o) && atomic_load(&o->image) == self.image) return false;
  atomic_fetch_add_explicit(&questions, 1, memory_order_relaxed);
  if (kill((pid_t)pid, 0) != 0 && errno == ESRCH) return true;
  uint64_t start = atomic_load(&o->start);
  uint32_t image = atomic_load(&o->image);
  identity now = identity_of(pid);
  if (now.start == ZOMBIE) return true;
  if (now.start == 0) return start != 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
  return (start != 0 && now.start != start) || (image != 0 && now.image != 0 && now.image != image);
}

bool process_is_stopped(const owner *o) {
  uint32_t pid = atomic_load(&o->pid);
  if (pid == 0 || !process_is_near(o)) return false;
  identity now = identity_of(pid);
  return now.stopped && now.start == atomic_load(&o->start);
}

void process_say(char *message, const char *format, ...) {
  if (!message) return;
  va_list args;
  va_start(args, format);
  vsnprintf(message, CHALK_MESSAGE, format, args);
  va_end(args);
}

/*
 * The lowest limit of a control group and of all groups that contain it: files of this name in each folder from `group`
 * up to the root.
 */
static uint64_t group_limit(const char *root, const char *group, const char *name) {
  uint64_t least = UINT64_MAX;
  for (size_t n = strlen(group);; n--) {
    char path[600];
    unsigned long long limit;
    snprintf(path, sizeof path, "%s%.*s/%s", root, (int)n, group, name);
    FILE *file = n == 0 || group[n] == '/' || group[n] == 0 ? fopen(path, "re") : NULL;
    if (file && fscanf(file, "%llu", &limit) == 1 && limit < least) least = limit;
    if (file) fclose(file);
    if (n == 0) return least;
  }
}

/* Each line of /proc/self/cgroup is number:controllers:group. In version 2 of control groups `controllers` is empty. */
uint64_t process_memory_limit(void) {
  uint64_t least = UINT64_MAX;
  char line[512];
  FILE *file = fopen("/proc/self/cgroup", "re");
  while (file && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) continue;
    *group++ = 0;
    uint64_t limit = UINT64_MAX;
    if (!controllers[1]) limit = group_limit("/sys/fs/cgroup", group, "memory.max");
    if (strstr(controllers, "memory")) limit = group_limit("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes");
    if (limit < least) least = limit;
  }
  if (file) fclose(file);
  return least;
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
