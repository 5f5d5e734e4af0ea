/*
 * Scrapes as Prometheus does, by GET over HTTP/1.1, but without compression.
 *
 *     scrape PORT PATH TIMES SECONDS [lines]
 *
 * Scrapes TIMES times, once every SECONDS. Prints a line for each scrape: the milliseconds from the request to the last
 * byte, the bytes of the body, and with `lines` the number of samples. Counting them adds to the milliseconds.
 */
#include "peer.h"

typedef struct body {
  const char *at, *end; /* bytes that were received and not parsed yet */
  bool ended;
  size_t chunk; /* bytes that are left of the current HTTP chunk, with its line end */
  size_t bytes, lines;
  bool counts;   /* whether lines are counted */
  bool at_start; /* whether the next byte begins a line */
  char number[20];
  size_t digits;
} body;

/* Counts the lines that are not comments. A comment has a # as its first character. */
static void count_lines(body *b, const char *s, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (b->at_start && s[i] != '#') b->lines++;
    b->at_start = s[i] == '\n';
  }
}

static void take_data(body *b) {
  size_t n = (size_t)(b->end - b->at);
  if (n > b->chunk) n = b->chunk;
  size_t data = b->chunk <= 2 ? 0 : n < b->chunk - 2 ? n : b->chunk - 2;
  if (b->counts) count_lines(b, b->at, data);
  b->bytes += data;
  b->chunk -= n;
  b->at += n;
}

static void take(body *b) {
  while (b->at < b->end && !b->ended) {
    if (b->chunk > 0) {
      take_data(b);
    } else if (*b->at++ == '\n') {
      b->number[b->digits] = 0;
      b->digits = 0;
      b->chunk = strtoul(b->number, NULL, 16) + 2;
      b->ended = b->chunk == 2;
    } else if (b->digits < sizeof b->number - 1) {
      b->number[b->digits++] = b->at[-1];
    }
  }
}

static char *after_head(char *buffer, size_t n) {
  buffer[n] = 0;
  char *end = strstr(buffer, "\r\n\r\n");
  if (!end) return NULL;
  if (strncmp(buffer, "HTTP/1.1 200", 12) != 0 || !strcasestr(buffer, "\r\nTransfer-Encoding: chunked")) {
    fprintf(stderr, "scrape: expected a 200 in chunks, got: %.*s\n", (int)(end - buffer), buffer);
    exit(1);
  }
  return end + 4;
}

static void scrape(int port, const char *path, bool lines) {
  enum { CAPACITY = 1 << 18 };
  static char buffer[CAPACITY + 1];
  body b = {.counts = lines, .at_start = true};
  size_t head = 0;
  double started = peer_now();
  int fd = peer_connect(port, 0);
  dprintf(fd, "GET %s HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n", path);
  bool in_body = false;
  while (!b.ended) {
    ssize_t n = recv(fd, buffer + head, CAPACITY - head, 0);
    if (n <= 0) peer_die("scrape: the connection ended before the answer");
    b.at = buffer, b.end = buffer + head + n;
    if (!in_body) {
      head += (size_t)n;
      char *start = after_head(buffer, head);
      if (!start) continue;
      in_body = true;
      b.at = start;
      head = 0;
    }
    take(&b);
  }
  printf("%.3f %zu %zu\n", (peer_now() - started) * 1e3, b.bytes, b.lines);
  fflush(stdout);
  close(fd);
}

int main(int argc, char **argv) {
  if (argc < 5) return fprintf(stderr, "scrape PORT PATH TIMES SECONDS [lines]\n"), 2;
  double next = peer_now();
  for (int i = atoi(argv[3]); i > 0; i--) {
    scrape(atoi(argv[1]), argv[2], argc > 5);
    next += atof(argv[4]);
    double left = next - peer_now();
    if (i > 1 && left > 0) usleep((useconds_t)(left * 1e6));
  }
  return 0;
}
