/*
 * The flush thread: an OS thread that runs a Lua chunk in a VM of its own. The host gives the few functions of the Lua
 * API that are needed, so that the core needs no Lua. The VM is made when it has something to do: of many processes on
 * a segment one flushes, and the others only look whether it is their turn. All signals are blocked in the thread; it is asked for things through an eventfd that its loop polls. When the process exits, the threads that
 * it started (not those of a parent) are asked for a last flush and waited for.
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

#include "process.h"
#include "role.h"

/* How long an exit waits for the last flush, in seconds. */
#define LAST_FLUSH 5.0

struct chalk_thread {
  pthread_t id;
  uint32_t pid;
  int fd;
  chalk_lua lua;
  char **texts; /* the chunk, then its arguments */
  size_t *sizes;
  uint32_t n;
  chalk_segment *segment;
  uint32_t generation;
  pthread_mutex_t lock; /* over what follows */
  pthread_cond_t changed;
  bool stopping, ready, failed, ended;
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

/*
 * Until the flusher's role is to be had: the chunk has little to do before. False: it is not to be called at all, for
 * what this process recorded is the holder's to flush; but for one that leaves too, and may have looked before.
 */
static bool stand_by(chalk_thread *t) {
  enum { LOOK = 100, SOON = 5 }; /* milliseconds */
  while (t->segment && !role_reserve(t->segment, t->generation)) {
    bool stopping = chalk_thread_stopping(t);
    if (stopping && !(role_is_left(t->segment) && chalk_now() - t->asked < LAST_FLUSH)) return false;
    say_ready(t, NULL);
    poll(&(struct pollfd){t->fd, POLLIN, 0}, 1, stopping ? SOON : LOOK);
    chalk_thread_drain(t);
  }
  if (chalk_thread_stopping(t)) chalk_thread_wake(t); /* which was drained */
  return true;
}

/* Whoever started the thread no longer waits for a message. */
static void complain(const chalk_thread *t, const char *message) {
  if (t->ready && !t->failed && message) fprintf(stderr, "chalk: error: flush thread: %s\n", message);
}

/* The chunk in a VM; says how it ended, if whoever started the thread still waits for it to be ready. */
static void run_vm(chalk_thread *t) {
  enum { TOP = -1 };
  const chalk_lua *lua = &t->lua;
  void *state = lua->newstate();
  if (!state) {
    complain(t, "no memory for its VM");
    say_ready(t, "no memory for the flush thread's VM");
    return;
  }
  lua->openlibs(state);
  int e = lua->loadbuffer(state, t->texts[0], t->sizes[0], "=chalk");
  for (uint32_t i = 1; e == 0 && i < t->n; i++) lua->pushlstring(state, t->texts[i], t->sizes[i]);
  if (e == 0) e = lua->pcall(state, (int)t->n - 1, 1, 0);
  const char *message = lua->tolstring(state, TOP, NULL);
  complain(t, message);
  say_ready(t, message ? message : e ? "the flush thread failed" : "the flush thread ended");
  lua->close(state);
}

static void *run(void *argument) {
  chalk_thread *t = argument;
  self = t;
  if (stand_by(t)) {
    run_vm(t);
    role_unreserve();
  }
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
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int e = pthread_create(&t->id, NULL, run, t);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
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

chalk_thread *chalk_thread_start(const chalk_lua *lua, const char *const *texts, const size_t *sizes, uint32_t n,
                                 chalk_segment *segment, uint32_t generation, char *message) {
  static bool registered;
  chalk_thread *t = calloc(1, sizeof *t);
  if (!t || !copy_texts(t, texts, sizes, n) || (t->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
    process_say(message, "cannot start the flush thread: %s", strerror(errno));
    if (t) free_texts(t);
    free(t);
    return NULL;
  }
  t->lua = *lua;
  t->segment = segment, t->generation = generation;
  t->pid = (uint32_t)getpid();
  pthread_condattr_t a;
  pthread_condattr_init(&a);
  pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
  pthread_cond_init(&t->changed, &a);
  pthread_condattr_destroy(&a);
  pthread_mutex_init(&t->lock, NULL);
  process_at_fork(in_child);
  process_lock();
  if (!registered) atexit(at_exit);
  registered = true;
  exit_pid = t->pid;
  t->next = threads;
  threads = t;
  process_unlock();
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
  ssize_t n = write(t->fd, &one, sizeof one);
  (void)n; /* a full counter is readable all the same */
}

void chalk_thread_drain(chalk_thread *t) {
  uint64_t n;
  ssize_t got = read(t->fd, &n, sizeof n);
  (void)got;
}

void chalk_thread_stop(chalk_thread *t) {
  if (t->pid != (uint32_t)getpid()) return;
  pthread_mutex_lock(&t->lock);
  if (!t->stopping) t->asked = chalk_now();
  t->stopping = true;
  pthread_mutex_unlock(&t->lock);
  chalk_thread_wake(t);
}

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
  struct timespec until;
  double end = chalk_now() + timeout;
  until.tv_sec = (time_t)end;
  until.tv_nsec = (long)((end - (double)until.tv_sec) * 1e9);
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
  if (t->id) pthread_join(t->id, NULL);
  close(t->fd);
  pthread_mutex_destroy(&t->lock);
  pthread_cond_destroy(&t->changed);
  free_texts(t);
  free(t);
}
