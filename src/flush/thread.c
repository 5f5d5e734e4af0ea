/*
 * The flush thread: an OS thread that runs a Lua chunk in a VM of its own. The host gives the few functions of the Lua
 * API that are needed, so the core needs no Lua. All signals are blocked in the thread. When the process exits, the
 * threads that it started (not those of a parent) are asked for a last flush and waited for.
 *
 *                    role is free                   chunk returns
 *   stand by --------------------------> run a VM ------------------> end
 *      ^                                     |
 *      +------------- after a pause ---------+  chunk fails
 *
 * Of many processes on a segment one flushes. The others stand by: their threads look ten times a second whether the
 * role is free. A thread that stands by has neither a VM nor a descriptor, so a process that has no descriptor left can
 * start one. As soon as a thread has the role it checks that the descriptors which a VM needs are free. If there are too
 * few, the role goes back, and from then on they are checked before each claim, because otherwise the holder would give
 * way to a process that cannot do the work. If a VM fails, it is closed, the role goes back, and after a pause the
 * thread tries again, until it is asked to stop. Requests reach a running VM through an eventfd that its loop polls.
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

/* Seconds that an exit waits for the last flush. */
#define LAST_FLUSH 5.0

/* Seconds of the pause after a VM has failed. Each pause is twice the one before, up to the longest. */
#define FIRST_PAUSE 0.5
#define LONGEST_PAUSE 30.0

/* The most seconds of a wait, some 30 years. */
#define LONGEST_WAIT 1e9

enum {
  /*
   * Descriptors that have to be free before a VM loads luv. libuv opens up to eight before its loop exists (epoll, an
   * eventfd, two pipes for signals, two rings of io_uring), and aborts if the first of the pipes cannot be made. The
   * other two are for the files that modules are loaded from.
   */
  DESCRIPTORS = 10,
  STACK_MOST = 8 << 20, /* bytes of the thread's stack; the default is the main thread's limit, which may be any size */
};

struct chalk_thread {
  pthread_t id; /* only if `started` */
  uint32_t pid;
  chalk_lua lua;
  char **texts; /* the chunk, then its arguments */
  size_t *sizes;
  uint32_t n;
  chalk_segment *segment;
  uint32_t generation;
  bool started;
  bool lacks_descriptors;        /* when the thread last looked; only the thread uses it */
  char complaint[CHALK_MESSAGE]; /* the last one; only the thread uses it */
  pthread_mutex_t lock;          /* over all fields that follow */
  pthread_cond_t changed;
  int fd; /* the eventfd; -1 until the thread first makes a VM */
  bool stopping, abandoned, ready, failed, ended;
  double stop_asked; /* when it was first asked to stop */
  char message[CHALK_MESSAGE];
  chalk_thread *next;
};

static chalk_thread *threads; /* of this process; process lock */
static _Thread_local chalk_thread *self;
static uint32_t exit_pid; /* the process that started the threads in the list */

/* Says that the thread is ready, or with a message why it is not. Only the first call counts. */
static void say_ready(chalk_thread *thread, const char *message) {
  pthread_mutex_lock(&thread->lock);
  if (!thread->ready) {
    thread->ready = true;
    thread->failed = message != NULL;
    process_say(thread->message, "%s", message ? message : "");
  }
  pthread_cond_broadcast(&thread->changed);
  pthread_mutex_unlock(&thread->lock);
}

/* The time of so many seconds from now, for pthread_cond_timedwait. Less than 0 seconds, and NaN, are 0. */
static struct timespec moment_in(double seconds) {
  double end = chalk_now() + (!(seconds > 0) ? 0 : seconds < LONGEST_WAIT ? seconds : LONGEST_WAIT);
  struct timespec moment = {.tv_sec = (time_t)end};
  moment.tv_nsec = (long)((end - (double)moment.tv_sec) * 1e9);
  return moment;
}

/* Waits some seconds, or until the thread is woken. A thread that was asked to stop does not wait. */
static void wait_awhile(chalk_thread *thread, double seconds) {
  struct timespec until = moment_in(seconds);
  pthread_mutex_lock(&thread->lock);
  if (!thread->stopping) pthread_cond_timedwait(&thread->changed, &thread->lock, &until);
  pthread_mutex_unlock(&thread->lock);
}

/*
 * Reports an error: to the process that waits for the thread to be ready, or later to stderr. The same message is not
 * written to stderr twice in a row.
 */
static void complain(chalk_thread *thread, const char *message) {
  bool again = strncmp(thread->complaint, message, sizeof thread->complaint - 1) == 0; /* a long one was cut */
  if (thread->ready && !again) fprintf(stderr, "chalk: error: flush thread: %s\n", message);
  process_say(thread->complaint, "%s", message);
  say_ready(thread, message);
}

int chalk_has_room(char *message) {
  int fds[DESCRIPTORS], n = 0;
  while (n < DESCRIPTORS && (fds[n] = eventfd(0, EFD_CLOEXEC)) >= 0) n++;
  int rc = errno;
  for (int i = 0; i < n; i++) close(fds[i]);
  if (n == DESCRIPTORS) return 1;
  process_say(message, "the flush loop needs %d free file descriptors: %s", DESCRIPTORS, strerror(rc));
  return 0;
}

/* Gets the descriptors that a VM needs: makes the thread's own one, and checks that others are free. */
static bool get_descriptors(chalk_thread *thread) {
  char message[CHALK_MESSAGE] = "";
  thread->lacks_descriptors = !chalk_has_room(message);
  if (thread->lacks_descriptors) complain(thread, message);
  pthread_mutex_lock(&thread->lock);
  if (!thread->lacks_descriptors && thread->fd < 0) thread->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (thread->fd < 0) thread->lacks_descriptors = true; /* another thread was quicker */
  pthread_mutex_unlock(&thread->lock);
  return !thread->lacks_descriptors;
}

/*
 * Takes the role, if a VM can be made. A thread that lacked descriptors when it last looked checks them before it takes
 * the role, too.
 */
static bool can_begin(chalk_thread *thread) {
  if (thread->lacks_descriptors && !get_descriptors(thread)) return false;
  if (thread->segment && !role_reserve(thread->segment, thread->generation)) {
    say_ready(thread, NULL);
    return false;
  }
  if (get_descriptors(thread)) return true;
  role_unreserve();
  return false;
}

static bool is_abandoned(chalk_thread *thread) {
  pthread_mutex_lock(&thread->lock);
  bool abandoned = thread->abandoned;
  pthread_mutex_unlock(&thread->lock);
  return abandoned;
}

/*
 * Waits until the thread has the flusher's role, before which the chunk has nothing to do. False: the thread was asked
 * to stop first, so the chunk is not called, because the holder flushes what this process has recorded. But if the
 * holder is in its last flush, it may have read the segment before this process recorded its last. Then the thread
 * waits for the role for a while, to flush that itself. A thread without a segment has no role to wait for.
 */
static bool stand_by(chalk_thread *thread) {
  enum { SOON = 5 }; /* milliseconds */
  const double look = 0.1;
  for (;;) {
    if (is_abandoned(thread)) return false;
    if (can_begin(thread)) break;
    bool stopping = chalk_thread_stopping(thread);
    bool left = thread->segment && role_is_left(thread->segment);
    if (stopping && !(left && chalk_now() - thread->stop_asked < LAST_FLUSH)) return false;
    if (stopping) poll(NULL, 0, SOON);
    wait_awhile(thread, look);
  }
  if (chalk_thread_stopping(thread)) chalk_thread_wake(thread); /* the request may be older than the eventfd */
  return true;
}

/* Runs the chunk in a VM. False: it failed, which was reported. */
static bool run_vm(chalk_thread *thread) {
  enum { TOP = -1 };
  const chalk_lua *lua = &thread->lua;
  void *state = lua->newstate();
  if (!state) {
    complain(thread, "no memory for its VM");
    return false;
  }
  lua->openlibs(state);
  int rc = lua->loadbuffer(state, thread->texts[0], thread->sizes[0], "=chalk");
  for (uint32_t i = 1; rc == 0 && i < thread->n; i++) lua->pushlstring(state, thread->texts[i], thread->sizes[i]);
  if (rc == 0) rc = lua->pcall(state, (int)thread->n - 1, 1, 0);
  const char *message = lua->tolstring(state, TOP, NULL);
  if (rc != 0 && !message) message = "it failed";
  if (message) complain(thread, message);
  bool failed = message;
  lua->close(state);
  return !failed;
}

static void *run(void *argument) {
  chalk_thread *thread = argument;
  double pause = FIRST_PAUSE;
  self = thread;
  while (stand_by(thread)) {
    bool ran = run_vm(thread);
    role_unreserve();
    if (ran || chalk_thread_stopping(thread)) break;
    wait_awhile(thread, pause);
    pause = pause * 2 < LONGEST_PAUSE ? pause * 2 : LONGEST_PAUSE;
  }
  say_ready(thread, "it has ended");
  pthread_mutex_lock(&thread->lock);
  thread->ended = true;
  pthread_cond_broadcast(&thread->changed);
  pthread_mutex_unlock(&thread->lock);
  return NULL;
}

static void at_exit(void) {
  if (exit_pid != (uint32_t)getpid()) return;
  for (chalk_thread *thread = threads; thread; thread = thread->next) chalk_thread_stop(thread);
  for (chalk_thread *thread = threads; thread; thread = thread->next) {
    double left = thread->stop_asked + LAST_FLUSH - chalk_now();
    chalk_thread_wait(thread, left > 0 ? left : 0);
  }
}

/* The threads in the list are the parent's: the child forgets them and leaves their memory alone. */
static void in_child(void) { threads = NULL; }

/* Starts the OS thread with all signals blocked. Returns what pthread_create does. */
static int start_blocked(chalk_thread *thread) {
  sigset_t all, before;
  pthread_attr_t attributes;
  size_t stack = 0;
  sigfillset(&all);
  pthread_attr_init(&attributes);
  if (pthread_attr_getstacksize(&attributes, &stack) == 0 && stack > STACK_MOST)
    pthread_attr_setstacksize(&attributes, STACK_MOST);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int rc = pthread_create(&thread->id, &attributes, run, thread);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  thread->started = rc == 0;
  return rc;
}

static void free_texts(chalk_thread *thread) {
  for (uint32_t i = 0; thread->texts && i < thread->n; i++) free(thread->texts[i]);
  free(thread->texts);
  free(thread->sizes);
}

static bool copy_texts(chalk_thread *thread, const char *const *texts, const size_t *sizes, uint32_t n) {
  thread->texts = calloc(n, sizeof *thread->texts);
  thread->sizes = calloc(n, sizeof *thread->sizes);
  thread->n = n;
  bool copied = thread->texts && thread->sizes;
  for (uint32_t i = 0; i < n && copied; i++) {
    copied = (thread->texts[i] = malloc(sizes[i] + 1)) != NULL;
    if (copied) memcpy(thread->texts[i], texts[i], thread->sizes[i] = sizes[i]);
  }
  return copied;
}

static void init_locks(chalk_thread *thread) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&thread->changed, &attributes);
  pthread_condattr_destroy(&attributes);
  pthread_mutex_init(&thread->lock, NULL);
}

/* Puts the thread into the list, so that it is stopped at the exit of the process. */
static void enlist(chalk_thread *thread) {
  static bool registered;
  process_at_fork(in_child);
  process_lock();
  if (!registered) atexit(at_exit);
  registered = true;
  exit_pid = thread->pid;
  thread->next = threads;
  threads = thread;
  process_unlock();
}

chalk_thread *chalk_thread_start(const chalk_lua *lua, const char *const *texts, const size_t *sizes, uint32_t n,
                                 chalk_segment *segment, uint32_t generation, char *message) {
  if (n == 0) {
    process_say(message, "cannot start the flush thread: it has no chunk");
    return NULL;
  }
  chalk_thread *thread = calloc(1, sizeof *thread);
  if (!thread || !copy_texts(thread, texts, sizes, n)) {
    process_say(message, "cannot start the flush thread: %s", strerror(errno));
    if (thread) free_texts(thread);
    free(thread);
    return NULL;
  }
  thread->lua = *lua;
  thread->segment = segment, thread->generation = generation;
  thread->pid = (uint32_t)getpid();
  thread->fd = -1;
  init_locks(thread);
  enlist(thread);
  int rc = start_blocked(thread);
  if (rc != 0) {
    process_say(message, "cannot start the flush thread: %s", strerror(rc));
    thread->ended = true;
    chalk_thread_free(thread);
    return NULL;
  }
  return thread;
}

chalk_thread *chalk_thread_self(void) { return self; }

int chalk_thread_fd(const chalk_thread *thread) { return thread->fd; }

void chalk_thread_wake(chalk_thread *thread) {
  uint64_t one = 1;
  pthread_mutex_lock(&thread->lock);
  ssize_t n = thread->fd >= 0 ? write(thread->fd, &one, sizeof one) : 0;
  (void)n; /* it fails if the counter is full, and then the descriptor is readable already */
  pthread_cond_broadcast(&thread->changed);
  pthread_mutex_unlock(&thread->lock);
}

void chalk_thread_drain(chalk_thread *thread) {
  uint64_t n;
  ssize_t got = read(thread->fd, &n, sizeof n);
  (void)got;
}

static void ask_to_end(chalk_thread *thread, bool abandon) {
  if (thread->pid != (uint32_t)getpid()) return;
  pthread_mutex_lock(&thread->lock);
  if (!thread->stopping) thread->stop_asked = chalk_now();
  thread->stopping = true;
  thread->abandoned |= abandon;
  pthread_mutex_unlock(&thread->lock);
  chalk_thread_wake(thread);
}

void chalk_thread_stop(chalk_thread *thread) { ask_to_end(thread, false); }
void chalk_thread_abandon(chalk_thread *thread) { ask_to_end(thread, true); }

int chalk_thread_stopping(const chalk_thread *thread) {
  pthread_mutex_lock((pthread_mutex_t *)&thread->lock);
  int stopping = thread->stopping;
  pthread_mutex_unlock((pthread_mutex_t *)&thread->lock);
  return stopping;
}

void chalk_thread_ready(chalk_thread *thread, const char *message) { say_ready(thread, message); }

/* Waits until *flag is true, or for so many seconds. Returns *flag. With the thread's lock held. */
static bool await(chalk_thread *thread, const bool *flag, double timeout) {
  struct timespec until = moment_in(timeout);
  while (!*flag && pthread_cond_timedwait(&thread->changed, &thread->lock, &until) != ETIMEDOUT) {
  }
  return *flag;
}

int chalk_thread_wait_ready(chalk_thread *thread, double timeout, char *message) {
  pthread_mutex_lock(&thread->lock);
  bool ready = await(thread, &thread->ready, timeout), failed = thread->failed;
  if (failed) process_say(message, "%s", thread->message);
  pthread_mutex_unlock(&thread->lock);
  if (!ready) process_say(message, "the flush thread did not start in time");
  return ready && !failed ? CHALK_OK : CHALK_EINVALID;
}

int chalk_thread_wait(chalk_thread *thread, double timeout) {
  if (thread->pid != (uint32_t)getpid()) return 1;
  pthread_mutex_lock(&thread->lock);
  bool ended = await(thread, &thread->ended, timeout);
  pthread_mutex_unlock(&thread->lock);
  return ended;
}

void chalk_thread_free(chalk_thread *thread) {
  if (!chalk_thread_wait(thread, 0)) return;
  if (thread->pid != (uint32_t)getpid()) return;
  process_lock();
  for (chalk_thread **p = &threads; *p; p = &(*p)->next) {
    if (*p == thread) {
      *p = thread->next;
      break;
    }
  }
  process_unlock();
  if (thread->started) pthread_join(thread->id, NULL);
  if (thread->fd >= 0) close(thread->fd);
  pthread_mutex_destroy(&thread->lock);
  pthread_cond_destroy(&thread->changed);
  free_texts(thread);
  free(thread);
}
