/*
 * Listening sockets. They are opened where `init` runs, and remembered like segments: a new VM of the process continues
 * with the socket of the VM before it, so a reload never competes for a port. A forked child closes its copies, because
 * otherwise the port would stay in use by a process that never accepts. The workers of a server keep their copies,
 * because the one that holds the flusher's role accepts, and any of them may come to hold it.
 *
 * A socket is provisional until its configuration is in force, that is until chalk_listen_settle says so or the process
 * has forked a child. A provisional socket is closed if its `init` fails, or if the server refuses the configuration
 * afterwards.
 */
#include "open/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "open/inherit.h"
#include "shm/process.h"

enum { BACKLOG = 511, ADDRESS = 256, COPIES = 64 };

typedef struct listener {
  char *client, *address;
  int fd;
  uint32_t opened_by; /* the process that opened it, which removes the file of a unix socket */
  uint32_t forks;     /* process_forks() at that time */
  bool in_force;
  struct listener *next;
} listener;

static listener *listeners; /* process lock, like `copies` */

/*
 * Descriptors that were given to servers, which close them themselves. A descriptor counts only while its number still
 * belongs to the same socket.
 */
static struct {
  int fd;
  ino_t socket;
} copies[COPIES];

static bool is_socket(int fd, ino_t socket) {
  struct stat st;
  return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_ino == socket;
}

static void note_copy(int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0) return;
  for (int i = 0; i < COPIES; i++) {
    if (copies[i].socket && copies[i].fd != fd && is_socket(copies[i].fd, copies[i].socket)) continue;
    copies[i].fd = fd;
    copies[i].socket = st.st_ino;
    return;
  }
}

/*
 * Closes a descriptor but keeps its number in use, for an eventfd that is never ready: an event loop that was copied by
 * the fork may be about to watch the number, and libuv aborts if that fails.
 */
static void replace_by_dead(int fd) {
  int never = eventfd(0, EFD_CLOEXEC);
  if (never < 0 || dup3(never, fd, O_CLOEXEC) < 0) close(fd);
  if (never >= 0) close(never);
}

static void in_child(void) {
  if (process_hands_on) return;
  for (int i = 0; i < COPIES; i++) {
    if (copies[i].socket && is_socket(copies[i].fd, copies[i].socket)) replace_by_dead(copies[i].fd);
    copies[i].socket = 0;
  }
  for (listener *l = listeners; l; l = l->next) {
    if (l->fd >= 0) close(l->fd);
    l->fd = -1;
  }
}

/* Closes fd, if it is open, and reports why the address cannot be used. */
static int fail(int fd, const char *address, const char *why, char *message) {
  process_say(message, "cannot listen at %s: %s", address, why);
  if (fd >= 0) close(fd);
  return CHALK_EINVALID;
}

static const char scheme[] = "unix://";

/* The path in the address of a unix socket. NULL: the address is of another kind. */
static const char *path_of(const char *address) {
  return strncmp(address, scheme, sizeof scheme - 1) == 0 ? address + sizeof scheme - 1 : NULL;
}

static bool fill_address(struct sockaddr_un *a, const char *path) {
  *a = (struct sockaddr_un){.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof a->sun_path) return false;
  strcpy(a->sun_path, path);
  return true;
}

/*
 * Whether any process listens at the address. If its queue is full, the nonblocking connect fails with EAGAIN, which
 * counts as an answer.
 */
static bool is_answered(const struct sockaddr_un *a) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return true;
  bool refused = connect(fd, (const struct sockaddr *)a, sizeof *a) != 0 && errno == ECONNREFUSED;
  close(fd);
  return !refused;
}

/*
 * Removes a unix socket that was left behind: it belongs to this user, and no process listens at it. Nothing else is
 * ever removed, and no link is followed. Returns what prevents a new socket there; NULL: nothing does. Between the
 * check and the removal, only this user, or one who may remove the file anyway, can put another socket there.
 */
static const char *remove_stale(const struct sockaddr_un *a) {
  struct stat st;
  if (lstat(a->sun_path, &st) != 0) return NULL;
  if (!S_ISSOCK(st.st_mode)) return "there is a file that is not a socket";
  if (st.st_uid != geteuid()) return "there is a socket of another user";
  if (is_answered(a)) return strerror(EADDRINUSE);
  return unlink(a->sun_path) == 0 ? NULL : strerror(errno);
}

/*
 * Closes a listener. The file of a unix socket is removed with the last descriptor that any process has of the socket:
 * the children of a server, or the program that replaces it, continue to listen.
 */
static void close_listener(listener *l) {
  struct sockaddr_un a;
  const char *path = path_of(l->address);
  close(l->fd);
  l->fd = -1, l->in_force = false;
  if (path && fill_address(&a, path)) remove_stale(&a);
}

/* In the process that opened a socket, and in all processes of a server, whose first process may have ended already. */
static void at_exit(void) {
  process_lock();
  for (listener *l = listeners; l; l = l->next) {
    if (l->fd >= 0 && (l->opened_by == (uint32_t)getpid() || process_hands_on)) close_listener(l);
  }
  process_unlock();
}

/* Whether the descriptor belongs to a listener, or to a server that it was given to, which will close it. */
static bool is_used(int fd) {
  for (const listener *l = listeners; l; l = l->next) {
    if (l->fd == fd) return true;
  }
  for (int i = 0; i < COPIES; i++) {
    if (copies[i].socket && copies[i].fd == fd && is_socket(fd, copies[i].socket)) return true;
  }
  return false;
}

/*
 * Returns the socket with this address that the process inherited, or a copy of it if another client uses it, because
 * each client closes its own. -1: there is none.
 */
static int take_over(const struct sockaddr *address, socklen_t size) {
  int fd = inherit_listener(address, size);
  return fd >= 0 && is_used(fd) ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : fd;
}

static int listen_unix(const char *address, const char *path, char *message) {
  struct sockaddr_un a;
  if (!fill_address(&a, path)) return fail(-1, address, "the path is too long", message);
  int inherited = take_over((struct sockaddr *)&a, sizeof a);
  if (inherited >= 0) return inherited;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return fail(fd, address, strerror(errno), message);
  inherit_sign(fd);
  const char *problem = remove_stale(&a);
  if (problem) return fail(fd, address, problem, message);
  if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0) return fail(fd, address, strerror(errno), message);
  if (listen(fd, BACKLOG) == 0) return fd;
  int reason = errno;
  remove_stale(&a);
  return fail(fd, address, strerror(reason), message);
}

/* Splits "host:port" or "[host]:port". False: the address has another form. */
static bool split(const char *address, char *host, char *port) {
  const char *colon = strrchr(address, ':');
  size_t n = colon ? (size_t)(colon - address) : 0;
  if (!colon || n == 0 || n >= ADDRESS || strlen(colon + 1) == 0 || strlen(colon + 1) > 5) return false;
  if (strspn(colon + 1, "0123456789") != strlen(colon + 1) || atoi(colon + 1) > 65535) return false;
  bool bracket = address[0] == '[';
  if (bracket && address[n - 1] != ']') return false;
  if (!bracket && memchr(address, ':', n)) return false;
  snprintf(host, ADDRESS, "%.*s", (int)(bracket ? n - 2 : n), address + bracket);
  snprintf(port, 8, "%s", colon + 1);
  return true;
}

static int listen_inet(const char *address, char *message) {
  char host[ADDRESS], port[8];
  if (!split(address, host, port)) {
    return fail(-1, address, "expected host:port, [host]:port or unix:///path", message);
  }
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
  int rc = getaddrinfo(host, port, &hints, &found);
  if (rc != 0) return fail(-1, address, gai_strerror(rc), message);
  int inherited = take_over(found->ai_addr, found->ai_addrlen);
  if (inherited >= 0) {
    freeaddrinfo(found);
    return inherited;
  }
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
  bool bound = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
               bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0;
  int reason = errno;
  if (bound) inherit_sign(fd);
  freeaddrinfo(found);
  return bound ? fd : fail(fd, address, strerror(reason), message);
}

static int open_listener(const char *address, char *message) {
  const char *path = path_of(address);
  return path ? listen_unix(address, path, message) : listen_inet(address, message);
}

static listener *find(const char *client, const char *address) {
  listener *l = listeners;
  while (l && (strcmp(l->client, client) != 0 || strcmp(l->address, address) != 0)) l = l->next;
  return l;
}

void listeners_mark(void) {
  process_lock();
  for (listener *l = listeners; l; l = l->next) {
    if (l->fd >= 0) inherit_mark(l->fd);
  }
  process_unlock();
}

/* The listener of the client at the address, which is added if there is none. NULL: out of memory. */
static listener *find_or_add(const char *client, const char *address) {
  listener *l = find(client, address);
  if (l || !(l = calloc(1, sizeof *l))) return l;
  *l = (listener){.client = strdup(client), .address = strdup(address), .fd = -1, .next = listeners};
  if (l->client && l->address) return listeners = l;
  free(l->client), free(l->address), free(l);
  return NULL;
}

static int ensure_open(listener *l, char *message) {
  /* The socket was shut down by another process of the server, whose configuration no longer has this address. */
  if (l->fd >= 0 && !inherit_is_listening(l->fd)) {
    close(l->fd);
    l->fd = -1;
  }
  if (l->fd >= 0) return CHALK_OK;
  int fd = open_listener(l->address, message);
  if (fd < 0) return fd;
  inherit_mark(fd);
  l->fd = fd;
  l->opened_by = (uint32_t)getpid(), l->forks = process_forks();
  return CHALK_OK;
}

int chalk_listen(const char *client, const char *address, char *message) {
  static bool registered;
  process_at_fork(in_child);
  process_lock();
  if (!registered) atexit(at_exit);
  registered = true;
  listener *l = find_or_add(client, address);
  int rc = l ? ensure_open(l, message) : fail(-1, address, "out of memory", message);
  process_unlock();
  return rc;
}

int chalk_accept_fd(const char *client, const char *address) {
  process_lock();
  listener *l = find(client, address);
  int fd = l && l->fd >= 0 ? fcntl(l->fd, F_DUPFD_CLOEXEC, 3) : CHALK_EINVALID;
  if (fd >= 0) note_copy(fd);
  process_unlock();
  return fd;
}

/*
 * Lets every user connect. The mode is changed through a descriptor, so no other file that is put there meanwhile is
 * affected.
 */
static int let_connect(const char *path) {
  char proc_path[40];
  struct stat st;
  int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC), rc = -1;
  snprintf(proc_path, sizeof proc_path, "/proc/self/fd/%d", fd);
  if (fd >= 0 && fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_uid == geteuid()) rc = chmod(proc_path, 0666);
  if (fd >= 0) close(fd);
  return rc == 0 ? CHALK_OK : CHALK_EINVALID;
}

int chalk_listen_to_all(const char *address) {
  const char *path = path_of(address);
  return path ? let_connect(path) : CHALK_OK;
}

static bool is_provisional(const listener *l) {
  return !l->in_force && l->opened_by == (uint32_t)getpid() && l->forks == process_forks();
}

void chalk_listen_settle(const char *client, const char *address, int in_force) {
  process_lock();
  listener *l = find(client, address);
  if (l && l->fd >= 0) {
    if (in_force) l->in_force = true;
    if (is_provisional(l)) close_listener(l);
  }
  process_unlock();
}

static bool is_among(const char *address, const char *const *addresses, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    if (strcmp(address, addresses[i]) == 0) return true;
  }
  return false;
}

void chalk_listen_only(const char *client, const char *const *addresses, uint32_t n) {
  process_lock();
  for (listener *l = listeners; l; l = l->next) {
    if (l->fd < 0 || strcmp(l->client, client) != 0 || is_among(l->address, addresses, n)) continue;
    shutdown(l->fd, SHUT_RDWR);
    close_listener(l);
  }
  process_unlock();
}

void chalk_unlisten(const char *client, const char *address) {
  process_lock();
  listener *l = find(client, address);
  if (l && l->fd >= 0 && l->opened_by == (uint32_t)getpid()) {
    close_listener(l);
  } else if (l && l->fd >= 0) {
    close(l->fd);
    l->fd = -1, l->in_force = false;
  }
  process_unlock();
}
