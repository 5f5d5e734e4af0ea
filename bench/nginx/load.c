/*
 * An open-loop load generator: it sends requests at a fixed rate, whether earlier ones were answered or not.
 *
 *     load PORT PATH RATE SECONDS CONNECTIONS
 *
 * Request i is due at start + i / rate on connection i % CONNECTIONS. Its latency counts from that time, so it includes
 * the wait for an earlier answer on the same connection. A closed loop would send fewer requests while the server
 * stalls, and so would hide the stall. Prints the numbers of requests and failures, and p50, p99, p99.9 and the maximum
 * of the latency in milliseconds.
 *
 * The generator stands for clients on other machines, so it runs with SCHED_FIFO if it may: only the server is
 * measured.
 */
#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

#include "peer.h"

typedef struct peer {
  int fd;
  uint64_t next, due; /* requests of this connection: the first without an answer, and the first that is not due yet */
  bool waiting;       /* `next` was sent and its answer is not complete */
  size_t got, size;   /* bytes of the answer: received, and in all; size is 0 until its head is complete */
  char head[4096];
} peer;

static double start, rate;
static uint64_t total, answered, connections;
static double *latencies;
static char request[1024];
static size_t request_size;

static double intended(uint64_t i) { return start + (double)i / rate; }

static void send_next(peer *p) {
  if (p->waiting || p->next >= p->due) return;
  if (send(p->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) peer_die("send");
  p->waiting = true;
  p->got = p->size = 0;
}

static size_t answer_size(peer *p) {
  char *end, *length;
  p->head[p->got] = 0;
  if (!(end = strstr(p->head, "\r\n\r\n"))) return 0;
  length = strcasestr(p->head, "\r\nContent-Length:");
  if (!length || length > end || strncmp(p->head, "HTTP/1.1 200", 12) != 0) {
    fprintf(stderr, "load: expected a 200 with Content-Length, got: %.*s\n", (int)(end - p->head), p->head);
    exit(1);
  }
  return (size_t)(end + 4 - p->head) + strtoul(length + 17, NULL, 10);
}

static void receive(peer *p) {
  ssize_t n = recv(p->fd, p->head + p->got, sizeof p->head - 1 - p->got, MSG_DONTWAIT);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) peer_die("recv");
  p->got += (size_t)n;
  if (p->size == 0) p->size = answer_size(p);
  if (p->size == 0 || p->got < p->size) return;
  latencies[p->next] = peer_now() - intended(p->next);
  answered++;
  p->next += connections;
  p->waiting = false;
  send_next(p);
}

static void wait_until(int epoll, double until) {
  struct epoll_event events[64];
  double left = until - peer_now();
  if (left < 0) left = 0;
  struct timespec t = {(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
  int n = epoll_pwait2(epoll, events, 64, &t, NULL);
  for (int i = 0; i < n; i++) receive(events[i].data.ptr);
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double at(double quantile) { return latencies[(uint64_t)(quantile * (double)(total - 1))] * 1e3; }

int main(int argc, char **argv) {
  if (argc != 6) return fprintf(stderr, "load PORT PATH RATE SECONDS CONNECTIONS\n"), 2;
  rate = atof(argv[3]);
  total = (uint64_t)(rate * atof(argv[4]));
  connections = strtoul(argv[5], NULL, 10);
  request_size = (size_t)snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: bench\r\n\r\n", argv[2]);
  latencies = calloc(total, sizeof *latencies);
  peer *peers = calloc(connections, sizeof *peers);
  int epoll = epoll_create1(0);
  for (uint64_t i = 0; i < connections; i++) {
    peers[i] = (peer){.fd = peer_connect(atoi(argv[1]), 0), .next = i, .due = i};
    epoll_ctl(epoll, EPOLL_CTL_ADD, peers[i].fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &peers[i]});
  }
  prctl(PR_SET_TIMERSLACK, 1);
  sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 1});
  start = peer_now() + 0.01;
  for (uint64_t i = 0; i < total; i++) {
    while (peer_now() < intended(i)) wait_until(epoll, intended(i));
    peer *p = &peers[i % connections];
    p->due = i + 1;
    send_next(p);
  }
  double end = peer_now() + 5;
  while (answered < total && peer_now() < end) wait_until(epoll, peer_now() + 0.1);
  for (uint64_t i = 0; i < total; i++) {
    if (latencies[i] == 0) latencies[i] = end - intended(i);
  }
  qsort(latencies, total, sizeof *latencies, ascending);
  printf("%lu %lu %.4f %.4f %.4f %.4f\n", (unsigned long)total, (unsigned long)(total - answered), at(0.5), at(0.99),
         at(0.999), at(1));
  return 0;
}
