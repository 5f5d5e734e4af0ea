/*
 * Listening sockets, opened where `init` runs and remembered like segments: a new VM of the same process goes on with
 * the socket of the one before, so a reload never fights over a port. A forked child closes its copies, or a port
 * would stay taken by somebody who never accepts; the workers of a server keep them, and take turns.
 */
#include "listen.h"

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

#include "inherit.h"
#include "process.h"

enum { BACKLOG = 511, ADDRESS = 256, COPIES = 64 };

typedef struct listener {
  char *client, *address;
  int fd;
  uint32_t opened_by; /* the process that made it: the file of a unix socket is its to remove */
  struct listener *next;
} listener;

static listener *listeners; /* process lock, as what follows */

/* Descriptors that were given to servers: closed by them, so each is known by its socket too. */
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
 * Closes it, but for its number: an event loop that came with the fork may be about to watch it, and libuv aborts where
 * that fails. What takes its place is never ready.
 */
static void blind(int fd) {
  int nothing = eventfd(0, EFD_CLOEXEC);
  if (nothing < 0 || dup3(nothing, fd, O_CLOEXEC) < 0) close(fd);
  if (nothing >= 0) close(nothing);
}

static void in_child(void) {
  if (inherit_is_on()) return;
  for (int i = 0; i < COPIES; i++) {
    if (copies[i].socket && is_socket(copies[i].fd, copies[i].socket)) blind(copies[i].fd);
    copies[i].socket = 0;
  }
  for (listener *l = listeners; l; l = l->next) {
    if (l->fd >= 0) close(l->fd);
    l->fd = -1;
  }
}

static int fail(int fd, const char *address, const char *why, char *message) {
  process_say(message, "cannot listen at %s: %s", address, why);
  if (fd >= 0) close(fd);
  return CHALK_EINVALID;
}

/* A socket file that nobody answers at is left over from a process that died. */
static void remove_stale(const struct sockaddr_un *a) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  if (connect(fd, (const struct sockaddr *)a, sizeof *a) != 0 && errno == ECONNREFUSED) unlink(a->sun_path);
  close(fd);
}

static int listen_unix(const char *address, const char *path, char *message) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof a.sun_path) return fail(-1, address, "the path is too long", message);
  strcpy(a.sun_path, path);
  int inherited = inherit_listener((struct sockaddr *)&a, sizeof a);
  if (inherited >= 0) return inherited;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return fail(fd, address, strerror(errno), message);
  inherit_sign(fd);
  remove_stale(&a);
  if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, BACKLOG) != 0) {
    return fail(fd, address, strerror(errno), message);
  }
  return fd;
}

/* Splits "host:port" and "[host]:port". */
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
  int e = getaddrinfo(host, port, &hints, &found);
  if (e != 0) return fail(-1, address, gai_strerror(e), message);
  int inherited = inherit_listener(found->ai_addr, found->ai_addrlen);
  if (inherited >= 0) {
    freeaddrinfo(found);
    return inherited;
  }
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
  bool bound = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
               bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0;
  e = errno;
  if (bound) inherit_sign(fd);
  freeaddrinfo(found);
  return bound ? fd : fail(fd, address, strerror(e), message);
}

static int open_listener(const char *address, char *message) {
  static const char scheme[] = "unix://";
  if (strncmp(address, scheme, sizeof scheme - 1) == 0) {
    return listen_unix(address, address + sizeof scheme - 1, message);
  }
  return listen_inet(address, message);
}

static listener *find(const char *client, const char *address) {
  listener *l = listeners;
  while (l && (strcmp(l->client, client) != 0 || strcmp(l->address, address) != 0)) l = l->next;
  return l;
}

/* Shut down: another process of the same server found that its configuration has no such address. */
static bool is_shut(int fd) {
  int listening = 0;
  socklen_t size = sizeof listening;
  return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && !listening;
}

void listeners_mark(void) {
  process_lock();
  for (listener *l = listeners; l; l = l->next) {
    if (l->fd >= 0) inherit_mark(l->fd);
  }
  process_unlock();
}

int chalk_listen(const char *client, const char *address, char *message) {
  process_at_fork(in_child);
  process_lock();
  listener *l = find(client, address);
  if (l && l->fd >= 0 && is_shut(l->fd)) {
    close(l->fd);
    l->fd = -1;
  }
  int fd = l ? l->fd : -1;
  if (fd < 0) {
    fd = open_listener(address, message);
    if (fd >= 0) inherit_mark(fd);
  }
  if (fd >= 0 && !l) {
    l = calloc(1, sizeof *l);
    if (l) {
      *l = (listener){strdup(client), strdup(address), fd, 0, listeners};
      listeners = l;
    } else {
      fd = fail(fd, address, "out of memory", message);
    }
  }
  if (l && fd >= 0 && (l->fd < 0 || !l->opened_by)) l->fd = fd, l->opened_by = (uint32_t)getpid();
  process_unlock();
  return fd >= 0 ? CHALK_OK : fd;
}

int chalk_accept_fd(const char *client, const char *address) {
  process_lock();
  listener *l = find(client, address);
  int fd = l && l->fd >= 0 ? fcntl(l->fd, F_DUPFD_CLOEXEC, 3) : CHALK_EINVALID;
  if (fd >= 0) note_copy(fd);
  process_unlock();
  return fd;
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
    close(l->fd);
    l->fd = -1;
    if (strncmp(l->address, "unix://", 7) == 0) unlink(l->address + 7);
  }
  process_unlock();
}

void chalk_unlisten(const char *client, const char *address) {
  process_lock();
  listener *l = find(client, address);
  if (l && l->fd >= 0) {
    close(l->fd);
    l->fd = -1;
    if (l->opened_by == (uint32_t)getpid() && strncmp(address, "unix://", 7) == 0) unlink(address + 7);
  }
  process_unlock();
}
