/*
 * The flush thread: an OS thread that runs a Lua chunk in a VM of its own. The host gives the few functions of the Lua
 * API that are needed, so that the core needs no Lua. The VM is made when it has something to do: of many processes on
 * a segment one flushes, and the others only look whether it is their turn. All signals are blocked in the thread. When
 * the process exits, the threads that it started (not those of a parent) are asked for a last flush and waited for.
 *
 * A thread that stands by has no descriptor, so a process that has none left can start one. What a VM needs is tried
 * before the role is claimed, since nobody should give way to a process that cannot do the work. A VM that fails is
 * closed, the role goes back, and after a pause the thread tries again, until it is asked to stop. A running VM is asked
 * for things through an eventfd that its loop polls.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "shm/process.h"
#include "shm/role.h"

/* How long an exit waits for the last flush, in seconds. */
#define LAST_FLUSH 5.0

/* Pauses between two VMs of a thread, when the first one failed: doubled each time, in seconds. */
#define FIRST_PAUSE 0.5
#define LONGEST_PAUSE 30.0

/* Seconds that a wait takes at most: some 30 years. */
#define LONGEST_WAIT 1e9

enum {
  /*
   * Descriptors that are free before a VM loads luv. libuv opens up to eight before its loop exists (epoll, an eventfd,
   * two pipes for signals, two rings of io_uring). It aborts when the first of the pipes cannot be made. The others are
   * for the files that modules are loaded from.
   */
  ROOM = 10,
  /* At most this much stack, in bytes: the default is the limit of the main thread's, and may be any size. */
  STACK = 8 << 20,
};

struct chalk_thread {
  pthread_t id; /* if `started` */
  uint32_t pid;
  chalk_lua lua;
  char **texts; /* the chunk, then its arguments */
  size_t *sizes;
  uint32_t n;
  chalk_segment *segment;
  uint32_t generation;
  bool started;
  bool poor;                /* descriptors were lacking when the thread last looked; its own */
  char said[CHALK_MESSAGE]; /* the last complaint; its own */
  pthread_mutex_t lock;     /* over what follows */
  pthread_cond_t changed;
  int fd; /* the eventfd; -1 until there is to be a VM */
  bool stopping, abandoned, ready, failed, ended;
  double asked; /* when it was first asked to stop */
  char message[CHALK_MESSAGE];
  chalk_thread *next;
};

static chalk_thread *threads; /* of this process; process lock */
static _Thread_local chalk_thread *self;
static uint32_t exit_pid; /* in which process the exit handler was set */

static void say_ready(chalk_thread *t, const char *message) {
  pthread_mutex_lock(&t->lock);
  if (!t->ready) {
    t->ready = true;
    t->failed = message != NULL;
    process_say(t->message, "%s", message ? message : "");
  }
  pthread_cond_broadcast(&t->changed);
  pthread_mutex_unlock(&t->lock);
}

/* The moment so many seconds from now, as pthread_cond_timedwait takes it: now at the least, years from now at the most. */
static struct timespec moment_in(double seconds) {
  double end = chalk_now() + (!(seconds > 0) ? 0 : seconds < LONGEST_WAIT ? seconds : LONGEST_WAIT);
  struct timespec t = {.tv_sec = (time_t)end};
  t.tv_nsec = (long)((end - (double)t.tv_sec) * 1e9);
  return t;
}

/* A pause that ends early when somebody wakes the thread or asks it to stop. */
static void rest(chalk_thread *t, double seconds) {
  struct timespec until = moment_in(seconds);
  pthread_mutex_lock(&t->lock);
  if (!t->stopping) pthread_cond_timedwait(&t->changed, &t->lock, &until);
  pthread_mutex_unlock(&t->lock);
}

/* Once, while it is the same. Whoever still waits for the thread to be ready is told instead. */
static void complain(chalk_thread *t, const char *message) {
  bool again = strncmp(t->said, message, sizeof t->said - 1) == 0; /* a long one was cut */
  if (t->ready && !again) fprintf(stderr, "chalk: error: flush thread: %s\n", message);
  process_say(t->said, "%s", message);
  say_ready(t, message);
}

int chalk_has_room(char *message) {
  int fds[ROOM], n = 0;
  while (n < ROOM && (fds[n] = eventfd(0, EFD_CLOEXEC)) >= 0) n++;
  int e = errno;
  for (int i = 0; i < n; i++) close(fds[i]);
  if (n == ROOM) return 1;
  process_say(message, "the flush loop needs %d free file descriptors: %s", ROOM, strerror(e));
  return 0;
}

/* What a VM needs of descriptors: some that are free, and the thread's own. */
static bool equip(chalk_thread *t) {
  char message[CHALK_MESSAGE] = "";
  t->poor = !chalk_has_room(message);
  if (t->poor) complain(t, message);
  pthread_mutex_lock(&t->lock);
  if (!t->poor && t->fd < 0) t->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (t->fd < 0) t->poor = true; /* another thread was quicker */
  pthread_mutex_unlock(&t->lock);
  return !t->poor;
}

/* Takes the role, when a VM could be made; whoever was poor makes sure of that before. */
static bool can_begin(chalk_thread *t) {
  if (t->poor && !equip(t)) return false;
  if (t->segment && !role_reserve(t->segment, t->generation)) {
    say_ready(t, NULL);
    return false;
  }
  if (equip(t)) return true;
  role_unreserve();
  return false;
}

static bool is_abandoned(chalk_thread *t) {
  pthread_mutex_lock(&t->lock);
  bool abandoned = t->abandoned;
  pthread_mutex_unlock(&t->lock);
  return abandoned;
}

/*
 * Until the flusher's role is to be had: the chunk has little to do before. False: it is not to be called at all, for
 * what this process recorded is the holder's to flush; but for one that leaves too, and may have looked before.
 */
static bool stand_by(chalk_thread *t) {
  enum { SOON = 5 }; /* milliseconds */
  const double look = 0.1;
  for (;;) {
    if (is_abandoned(t)) return false;
    if (can_begin(t)) break;
    bool stopping = chalk_thread_stopping(t);
    bool left = t->segment && role_is_left(t->segment);
    if (stopping && !(left && chalk_now() - t->asked < LAST_FLUSH)) return false;
    if (stopping) poll(NULL, 0, SOON);
    rest(t, look);
  }
  if (chalk_thread_stopping(t)) chalk_thread_wake(t); /* before there was an eventfd, perhaps */
  return true;
}

/* The chunk in a VM. False: it failed; whoever waits for the thread to be ready, or else stderr, is told why. */
static bool run_vm(chalk_thread *t) {
  enum { TOP = -1 };
  const chalk_lua *lua = &t->lua;
  void *state = lua->newstate();
  if (!state) {
    complain(t, "no memory for its VM");
    return false;
  }
  lua->openlibs(state);
  int e = lua->loadbuffer(state, t->texts[0], t->sizes[0], "=chalk");
  for (uint32_t i = 1; e == 0 && i < t->n; i++) lua->pushlstring(state, t->texts[i], t->sizes[i]);
  if (e == 0) e = lua->pcall(state, (int)t->n - 1, 1, 0);
  const char *message = lua->tolstring(state, TOP, NULL);
  if (e != 0 && !message) message = "it failed";
  if (message) complain(t, message);
  bool failed = message;
  lua->close(state);
  return !failed;
}

static void *run(void *argument) {
  chalk_thread *t = argument;
  double pause = FIRST_PAUSE;
  self = t;
  while (stand_by(t)) {
    bool ran = run_vm(t);
    role_unreserve();
    if (ran || chalk_thread_stopping(t)) break;
    rest(t, pause);
    pause = pause * 2 < LONGEST_PAUSE ? pause * 2 : LONGEST_PAUSE;
  }
  say_ready(t, "it has ended");
  pthread_mutex_lock(&t->lock);
  t->ended = true;
  pthread_cond_broadcast(&t->changed);
  pthread_mutex_unlock(&t->lock);
  return NULL;
}

static void at_exit(void) {
  if (exit_pid != (uint32_t)getpid()) return;
  for (chalk_thread *t = threads; t; t = t->next) chalk_thread_stop(t);
  for (chalk_thread *t = threads; t; t = t->next) {
    double left = t->asked + LAST_FLUSH - chalk_now();
    chalk_thread_wait(t, left > 0 ? left : 0);
  }
}

/* The threads are the parent's; their memory is left alone. */
static void in_child(void) { threads = NULL; }

static int start_blocked(chalk_thread *t) {
  sigset_t all, before;
  pthread_attr_t a;
  size_t stack = 0;
  sigfillset(&all);
  pthread_attr_init(&a);
  if (pthread_attr_getstacksize(&a, &stack) == 0 && stack > STACK) pthread_attr_setstacksize(&a, STACK);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int e = pthread_create(&t->id, &a, run, t);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&a);
  t->started = e == 0;
  return e;
}

static void free_texts(chalk_thread *t) {
  for (uint32_t i = 0; t->texts && i < t->n; i++) free(t->texts[i]);
  free(t->texts);
  free(t->sizes);
}

static bool copy_texts(chalk_thread *t, const char *const *texts, const size_t *sizes, uint32_t n) {
  t->texts = calloc(n, sizeof *t->texts);
  t->sizes = calloc(n, sizeof *t->sizes);
  t->n = n;
  bool copied = t->texts && t->sizes;
  for (uint32_t i = 0; i < n && copied; i++) {
    copied = (t->texts[i] = malloc(sizes[i] + 1)) != NULL;
    if (copied) memcpy(t->texts[i], texts[i], t->sizes[i] = sizes[i]);
  }
  return copied;
}

static void init_locks(chalk_thread *t) {
  pthread_condattr_t a;
  pthread_condattr_init(&a);
  pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
  pthread_cond_init(&t->changed, &a);
  pthread_condattr_destroy(&a);
  pthread_mutex_init(&t->lock, NULL);
}

/* Remembers the thread for the exit. */
static void enlist(chalk_thread *t) {
  static bool registered;
  process_at_fork(in_child);
  process_lock();
  if (!registered) atexit(at_exit);
  registered = true;
  exit_pid = t->pid;
  t->next = threads;
  threads = t;
  process_unlock();
}

chalk_thread *chalk_thread_start(const chalk_lua *lua, const char *const *texts, const size_t *sizes, uint32_t n,
                                 chalk_segment *segment, uint32_t generation, char *message) {
  if (n == 0) {
    process_say(message, "cannot start the flush thread: it has no chunk");
    return NULL;
  }
  chalk_thread *t = calloc(1, sizeof *t);
  if (!t || !copy_texts(t, texts, sizes, n)) {
    process_say(message, "cannot start the flush thread: %s", strerror(errno));
    if (t) free_texts(t);
    free(t);
    return NULL;
  }
  t->lua = *lua;
  t->segment = segment, t->generation = generation;
  t->pid = (uint32_t)getpid();
  t->fd = -1;
  init_locks(t);
  enlist(t);
  int e = start_blocked(t);
  if (e != 0) {
    process_say(message, "cannot start the flush thread: %s", strerror(e));
    t->ended = true;
    chalk_thread_free(t);
    return NULL;
  }
  return t;
}

chalk_thread *chalk_thread_self(void) { return self; }

int chalk_thread_fd(const chalk_thread *t) { return t->fd; }

void chalk_thread_wake(chalk_thread *t) {
  uint64_t one = 1;
  pthread_mutex_lock(&t->lock);
  ssize_t n = t->fd >= 0 ? write(t->fd, &one, sizeof one) : 0;
  (void)n; /* a full counter is readable all the same */
  pthread_cond_broadcast(&t->changed);
  pthread_mutex_unlock(&t->lock);
}

void chalk_thread_drain(chalk_thread *t) {
  uint64_t n;
  ssize_t got = read(t->fd, &n, sizeof n);
  (void)got;
}

static void ask_to_end(chalk_thread *t, bool abandon) {
  if (t->pid != (uint32_t)getpid()) return;
  pthread_mutex_lock(&t->lock);
  if (!t->stopping) t->asked = chalk_now();
  t->stopping = true;
  t->abandoned |= abandon;
  pthread_mutex_unlock(&t->lock);
  chalk_thread_wake(t);
}

void chalk_thread_stop(chalk_thread *t) { ask_to_end(t, false); }
void chalk_thread_abandon(chalk_thread *t) { ask_to_end(t, true); }

int chalk_thread_stopping(const chalk_thread *thread) {
  chalk_thread *t = (chalk_thread *)thread;
  pthread_mutex_lock(&t->lock);
  int stopping = t->stopping;
  pthread_mutex_unlock(&t->lock);
  return stopping;
}

void chalk_thread_ready(chalk_thread *t, const char *message) { say_ready(t, message); }

/* Waits until *flag or the end of the time; with the lock held. */
static bool await(chalk_thread *t, const bool *flag, double timeout) {
  struct timespec until = moment_in(timeout);
  while (!*flag && pthread_cond_timedwait(&t->changed, &t->lock, &until) != ETIMEDOUT) {
  }
  return *flag;
}

int chalk_thread_wait_ready(chalk_thread *t, double timeout, char *message) {
  pthread_mutex_lock(&t->lock);
  bool ready = await(t, &t->ready, timeout), failed = t->failed;
  if (failed) process_say(message, "%s", t->message);
  pthread_mutex_unlock(&t->lock);
  if (!ready) process_say(message, "the flush thread did not start in time");
  return ready && !failed ? CHALK_OK : CHALK_EINVALID;
}

int chalk_thread_wait(chalk_thread *t, double timeout) {
  if (t->pid != (uint32_t)getpid()) return 1;
  pthread_mutex_lock(&t->lock);
  bool ended = await(t, &t->ended, timeout);
  pthread_mutex_unlock(&t->lock);
  return ended;
}

void chalk_thread_free(chalk_thread *t) {
  if (!chalk_thread_wait(t, 0)) return;
  if (t->pid != (uint32_t)getpid()) return;
  process_lock();
  for (chalk_thread **p = &threads; *p; p = &(*p)->next) {
    if (*p == t) {
      *p = t->next;
      break;
    }
  }
  process_unlock();
  if (t->started) pthread_join(t->id, NULL);
  if (t->fd >= 0) close(t->fd);
  pthread_mutex_destroy(&t->lock);
  pthread_cond_destroy(&t->changed);
  free_texts(t);
  free(t);
}
