/*
 * What a user loses when these fail: a client of the event stream gets bytes that it cannot decode, gets events twice,
 * never or out of order, or waits for another client; or a client that does not read costs unlimited memory.
 */

#include "failing.h"
#include "stream_reader.h"

typedef struct bed {
  chalk_segment *g;
  chalk_writer *w;
  chalk_tap *tap;
  chalk_stream *k;
  uint16_t port;
  int count, gauge, histogram;
} bed;

/* A listening socket at a free port. */
static int listen_anywhere(uint16_t *port) {
  static const char address[] = "127.0.0.1:0";
  char message[CHALK_MESSAGE] = "";
  struct sockaddr_in a;
  socklen_t size = sizeof a;
  assert_int_equal(chalk_listen("test", address, message), CHALK_OK);
  int fd = chalk_accept_fd("test", address);
  chalk_unlisten("test", address);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
  *port = ntohs(a.sin_port);
  return fd;
}

static void define_in_stream(bed *b, int metric, const char *name, uint32_t kind, const char *unit) {
  static const char *labels[] = {"a"}, *constants[] = {"env", "test"};
  chalk_stream_metric m = {.name = name,
                           .unit = unit,
                           .description = name,
                           .labels = labels,
                           .constants = constants,
                           .kind = kind,
                           .n_labels = 1,
                           .n_constants = 1};
  assert_int_equal(chalk_stream_define(b->k, (uint32_t)metric, &m), CHALK_OK);
}

static void define_all_in_stream(bed *b) {
  define_in_stream(b, b->count, "c", CHALK_COUNT, "bytes");
  define_in_stream(b, b->gauge, "l", CHALK_GAUGE, "");
  define_in_stream(b, b->histogram, "h", CHALK_HISTOGRAM, "seconds");
}

static bed open_bed(uint32_t most) {
  char message[CHALK_MESSAGE] = "";
  bed b = {.g = open_segment(NULL)};
  assert_int_equal(chalk_hold(b.g, 1), 1);
  b.w = open_writer(b.g);
  b.count = define(b.w, "c", CHALK_COUNT, 1, 0);
  b.gauge = define(b.w, "l", CHALK_GAUGE, 1, 0);
  b.histogram = define(b.w, "h", CHALK_HISTOGRAM, 1, 5);
  b.tap = chalk_tap_open(b.g, 0, message);
  assert_non_null(b.tap);
  b.k = chalk_stream_new(b.g, most, listen_anywhere(&b.port));
  assert_non_null(b.k);
  chalk_tap_switch(b.g, KIND_MASK, 1 << 20, 0);
  define_all_in_stream(&b);
  return b;
}

static void close_bed(bed *b) {
  chalk_stream_free(b->k);
  chalk_tap_close(b->tap);
  chalk_writer_close(b->w);
  chalk_release(b->g);
  chalk_segment_close(b->g);
}

/* A client that the stream has accepted. `buffer` is the size of its receive buffer; 0: the usual one. */
static reader connect_to(bed *b, int buffer) {
  reader r = open_reader(b->port, buffer);
  double end = chalk_now() + DEADLINE;
  int client;
  while ((client = chalk_stream_accept(b->k)) < 0 && chalk_now() < end) pause_ms(1);
  assert_true(client >= 0);
  return r;
}

/* Waits for the next event, and lets the stream send meanwhile. */
static event expect_event(bed *b, reader *r) {
  event e;
  double end = chalk_now() + DEADLINE;
  while (!next_event(r, &e)) {
    assert_true(chalk_now() < end && !r->ended);
    chalk_stream_send(b->k);
    if (receive(r, r->capacity) == 0) pause_ms(1);
  }
  return e;
}

static void expect_metadata(bed *b, reader *r) {
  static const char *names[] = {"c", "l", "h"}, *units[] = {"bytes", "", "seconds"};
  for (uint64_t i = 0; i < 3; i++) {
    event e = expect_event(b, r);
    assert_true(e.is_metadata);
    assert_string_equal(e.name, names[i]);
    assert_string_equal(e.description, names[i]);
    assert_string_equal(e.unit, units[i]);
    assert_int_equal(e.type, i);
  }
}

/* Hands all events to the stream, as the flusher does. */
static void pump(bed *b) {
  for (uint32_t n; (n = chalk_tap_read(b->tap)) > 0;) assert_int_equal(chalk_stream_take(b->k, b->tap, n), -1);
}

static void test_the_message_of_every_operation(void **state) {
  (void)state;
  static const struct {
    char name;
    uint8_t operation;
    double number;
  } expected[] = {{'c', 0x20, 3},    {'c', 0x20, 0},     {'c', 0x20, 9007199254740992.0},
                  {'l', 0x41, -2.5}, {'l', 0x31, 4},     {'l', 0x39, 1},
                  {'l', 0x41, NAN},  {'h', 0x49, 0.042}, {'h', 0x49, -3}};
  bed b = open_bed(0);
  chalk_series *c = bind(b.w, b.count, "x"), *l = bind(b.w, b.gauge, ""), *h = bind(b.w, b.histogram, "y");
  reader r = connect_to(&b, 0);
  double before = chalk_wall();
  chalk_add(c, 3), chalk_add(c, 0), chalk_add(c, 9007199254740992.0);
  chalk_set(l, -2.5), chalk_add(l, 4), chalk_add(l, -1), chalk_set(l, NAN);
  chalk_record(h, 0.042), chalk_record(h, -3);
  pump(&b);
  expect_metadata(&b, &r);
  for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
    event e = expect_event(&b, &r);
    assert_int_equal(e.name[0], expected[i].name);
    assert_int_equal(e.operation, expected[i].operation);
    assert_memory_equal(&e.number, &expected[i].number, 8);
    assert_string_equal(e.value, e.name[0] == 'c' ? "x" : e.name[0] == 'h' ? "y" : "test");
    double time = (double)e.seconds + (double)e.nanos * 1e-9;
    assert_true(e.nanos < 1000000000 && time > before - 0.01 && time < chalk_wall() + 0.01);
  }
  assert_int_equal(chalk_stream_dropped(b.k, 0) + chalk_stream_dropped(b.k, 1), 0);
  free(c), free(l), free(h);
  close_reader(&r);
  close_bed(&b);
}

/* Sockets take and readers read any number of bytes: messages stay whole, and metadata comes between them. */
static void test_messages_stay_whole_in_full_sockets(void **state) {
  (void)state;
  enum { EVENTS = SANITIZED ? 20000 : 60000, CLIENTS = 4, LATER = EVENTS / 2 };
  bed b = open_bed(0);
  chalk_series *l = bind(b.w, b.gauge, "x");
  reader r[CLIENTS];
  uint32_t metadata[CLIENTS] = {0};
  double number[CLIENTS] = {0}, end = chalk_now() + DEADLINE;
  for (int i = 0; i < CLIENTS; i++) r[i] = connect_to(&b, i % 2 ? 2048 : 0);
  int recorded = 0;
  for (int i = 0; i < CLIENTS;) {
    assert_true(chalk_now() < end);
    for (int n = (int)(random_bits() % 500); n > 0 && recorded < EVENTS; n--) {
      if (recorded++ == LATER) {
        int later = define(b.w, "later", CHALK_COUNT, 1, 0);
        pump(&b);
        define_in_stream(&b, later, "later", CHALK_COUNT, "");
      }
      chalk_set(l, recorded);
    }
    pump(&b);
    chalk_stream_send(b.k);
    for (int j = 0; j < CLIENTS; j++) {
      receive(&r[j], random_bits() % 5000);
      for (event e; next_event(&r[j], &e);) {
        metadata[j] += e.is_metadata;
        if (e.is_metadata && strcmp(e.name, "later") == 0) assert_true(number[j] <= LATER + 1);
        if (e.is_metadata) continue;
        assert_true(metadata[j] >= 3 && e.number == ++number[j]);
      }
    }
    while (i < CLIENTS && number[i] == EVENTS) assert_int_equal(metadata[i++], 4);
  }
  assert_int_equal(chalk_stream_dropped(b.k, 0) + chalk_stream_dropped(b.k, 1), 0);
  for (int i = 0; i < CLIENTS; i++) close_reader(&r[i]);
  free(l);
  close_bed(&b);
}

/* A client whose socket is full in the middle of the metadata gets the rest, and then the messages that are left. */
static void test_metadata_larger_than_a_socket(void **state) {
  (void)state;
  enum { DEFINED = 250000, MOST = 1000, RECORDED = 3 * MOST };
  bed b = open_bed(MOST);
  chalk_series *l = bind(b.w, b.gauge, "x");
  for (int i = 0; i < DEFINED; i++) define_in_stream(&b, b.histogram, "h", CHALK_HISTOGRAM, "milliseconds");
  reader r = connect_to(&b, 2048), fast = connect_to(&b, 0);
  chalk_stream_send(b.k);
  size_t seen = 0;
  for (int i = 1; i <= RECORDED; i++) {
    chalk_set(l, i);
    if (i % 100) continue;
    pump(&b);
    while (seen < (size_t)i) seen += !expect_event(&b, &fast).is_metadata;
  }
  assert_int_equal(fast.metadata, DEFINED + 3);
  for (int i = 0; i < DEFINED + 3; i++) assert_true(expect_event(&b, &r).is_metadata);
  for (int i = RECORDED - MOST + 1; i <= RECORDED; i++) {
    event e = expect_event(&b, &r);
    assert_true(!e.is_metadata && e.number == i);
  }
  assert_int_equal(chalk_stream_dropped(b.k, 1), RECORDED - MOST);
  close_reader(&r), close_reader(&fast);
  free(l);
  close_bed(&b);
}

static uint32_t clients_of(bed *b, uint32_t wanted) {
  double end = chalk_now() + DEADLINE;
  uint32_t n;
  while ((n = chalk_stream_clients(b->k)) != wanted && chalk_now() < end) chalk_stream_send(b->k), pause_ms(1);
  return n;
}

/* One client never reads. Another one gets every event, and the first one the newest, in whole messages. */
static void test_a_client_that_does_not_read(void **state) {
  (void)state;
  enum { MOST = 500, EVENTS = SANITIZED ? 300000 : 1000000, STEP = 100 };
  bed b = open_bed(MOST);
  chalk_series *l = bind(b.w, b.gauge, "x");
  reader blocked = connect_to(&b, 2048), r = connect_to(&b, 0);
  expect_metadata(&b, &r);
  for (int i = 0; i < EVENTS; i += STEP) {
    for (int j = 1; j <= STEP; j++) chalk_set(l, i + j);
    pump(&b);
    for (int j = 1; j <= STEP; j++) assert_true(expect_event(&b, &r).number == i + j);
  }
  expect_metadata(&b, &blocked);
  double number = 0;
  uint64_t gaps = 0, lost = 0;
  while (number < EVENTS) {
    event e = expect_event(&b, &blocked);
    assert_true(e.number > number);
    gaps += e.number != number + 1;
    lost += (uint64_t)(e.number - number - 1);
    number = e.number;
  }
  assert_true(lost > EVENTS / 10 && gaps >= 1);
  assert_int_equal(chalk_stream_dropped(b.k, 1), lost);
  close_reader(&blocked), close_reader(&r);
  assert_int_equal(clients_of(&b, 0), 0);
  free(l);
  close_bed(&b);
}

/* Clients that have ended are closed, what clients send is ignored, and the other clients miss nothing. */
static void test_clients_come_and_go(void **state) {
  (void)state;
  enum { ROUNDS = 300, AT_ONCE = 64 };
  bed b = open_bed(100);
  chalk_series *c = bind(b.w, b.count, "x");
  reader steady = connect_to(&b, 0);
  expect_metadata(&b, &steady);
  char garbage[3000];
  memset(garbage, 0xff, sizeof garbage);
  int first = dup(0);
  close(first);
  for (int i = 0; i < ROUNDS; i++) {
    reader r = connect_to(&b, 0);
    if (i % 4 == 0) assert_int_equal(send(r.fd, garbage, sizeof garbage, MSG_NOSIGNAL), sizeof garbage);
    if (i % 4 == 1) shutdown(r.fd, SHUT_WR);
    if (i % 4 == 2) setsockopt(r.fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    chalk_add(c, i);
    pump(&b);
    assert_true(expect_event(&b, &steady).number == i);
    if (i % 4 == 0) assert_int_equal(clients_of(&b, 2), 2);
    if (i % 4 != 1) close(r.fd), r.fd = -1;
    assert_int_equal(clients_of(&b, 1), 1);
    close_reader(&r);
  }
  int last = dup(0);
  close(last);
  assert_int_equal(first, last);
  /* A client beyond the limit is closed, with a code of its own. */
  reader r[AT_ONCE];
  for (int i = 0; i < AT_ONCE - 1; i++) r[i] = connect_to(&b, 0);
  reader refused = open_reader(b.port, 0);
  assert_int_equal(chalk_stream_accept(b.k), -EUSERS);
  for (double end = chalk_now() + DEADLINE; !refused.ended && chalk_now() < end;) receive(&refused, 1);
  assert_true(refused.ended && refused.size == 0);
  assert_int_equal(chalk_stream_accept(b.k), -EAGAIN);
  close_reader(&refused);
  for (int i = 0; i < AT_ONCE - 1; i++) close_reader(&r[i]);
  assert_int_equal(clients_of(&b, 1), 1);
  close_reader(&steady);
  assert_int_equal(clients_of(&b, 0), 0);
  assert_false(chalk_stream_knows(b.k, (uint32_t)b.count)); /* without clients nothing is kept */
  free(c);
  close_bed(&b);
}

/* Events of a series or metric whose number was another one's before have the new name and labels. */
static void test_reused_numbers(void **state) {
  (void)state;
  bed b = open_bed(0);
  reader r = connect_to(&b, 0);
  expect_metadata(&b, &r);
  uint32_t id = 0;
  for (int round = 0; round < 50; round++) {
    char value[16];
    snprintf(value, sizeof value, "v%d", round);
    chalk_series *c = bind(b.w, b.count, value);
    if (round > 0) assert_int_equal(c->series, id); /* the number is used again */
    id = c->series;
    chalk_add(c, round);
    pump(&b);
    event e = expect_event(&b, &r);
    assert_string_equal(e.value, value);
    assert_true(e.number == round);
    drop(b.w, b.count, value);
    chalk_writer_tick(b.w);
    for (int i = 0; i < 6 && info_of(b.g).quarantined; i++) sweep(b.g, 1000 * round + i, 0), pump(&b);
    assert_int_equal(info_of(b.g).quarantined, 0);
    free(c);
  }
  assert_true(chalk_stream_knows(b.k, (uint32_t)b.count));
  assert_int_equal(chalk_stream_dropped(b.k, 0), 0);
  /* The stream asks for a metric that is not defined. The caller may pass over the event. */
  int other = define(b.w, "other", CHALK_COUNT, 1, 0);
  chalk_series *o = bind(b.w, other, "x"), *c = bind(b.w, b.count, "x");
  chalk_add(o, 1), chalk_add(c, 2), chalk_add(o, 3);
  assert_int_equal(chalk_tap_read(b.tap), 3);
  assert_int_equal(chalk_stream_take(b.k, b.tap, 3), other);
  chalk_stream_pass_over(b.k);
  assert_int_equal(chalk_stream_take(b.k, b.tap, 3), other);
  define_in_stream(&b, other, "other", CHALK_COUNT, "");
  assert_int_equal(chalk_stream_take(b.k, b.tap, 3), -1);
  assert_int_equal(chalk_stream_dropped(b.k, 0), 1);
  assert_true(expect_event(&b, &r).is_metadata); /* before the next event of any metric */
  assert_true(expect_event(&b, &r).number == 2);
  assert_true(expect_event(&b, &r).number == 3);
  free(o), free(c);
  close_reader(&r);
  close_bed(&b);
}

/* Every one of very many series has its own labels, and so has the overflow series. */
static void test_many_series(void **state) {
  (void)state;
  enum { SERIES = SANITIZED ? 20000 : 120000, MORE = 100 };
  bed b = open_bed(0);
  chalk_options o = {.max_series = SERIES};
  char value[16], message[CHALK_MESSAGE];
  assert_int_equal(chalk_segment_configure(b.g, &o, message), 0);
  reader r = connect_to(&b, 0);
  expect_metadata(&b, &r);
  uint32_t folded = 0;
  for (int i = 0; i < SERIES + MORE; i++) {
    snprintf(value, sizeof value, "v%d", i);
    chalk_series *c = bind(b.w, b.count, value);
    chalk_add(c, i);
    free(c);
    if (i % 1000 == 999) pump(&b);
  }
  pump(&b);
  for (int i = 0; i < SERIES + MORE; i++) {
    event e = expect_event(&b, &r);
    snprintf(value, sizeof value, "v%d", i);
    assert_true(e.number == i);
    bool is_overflow = strcmp(e.value, "__overflow__") == 0;
    folded += is_overflow;
    if (!is_overflow) assert_string_equal(e.value, value);
  }
  assert_int_equal(folded, MORE);
  assert_int_equal(chalk_stream_dropped(b.k, 0), 0);
  close_reader(&r);
  close_bed(&b);
}

/* A forked child does not use its parent's clients, which end with the parent although the child lives. */
static void test_a_fork_with_clients(void **state) {
  (void)state;
  bed b = open_bed(0);
  chalk_series *c = bind(b.w, b.count, "x");
  reader r = connect_to(&b, 0);
  expect_metadata(&b, &r);
  pid_t pid = fork_child();
  if (pid == 0) {
    CHILD_CHECK(chalk_add(c, 5) >= CHALK_OK);
    chalk_stream_free(b.k);
    pause_ms(1000000);
    _exit(0);
  }
  event e;
  double end = chalk_now() + DEADLINE;
  for (bool seen = false; !seen && chalk_now() < end;) {
    pump(&b), chalk_stream_send(b.k);
    receive(&r, r.capacity);
    seen = next_event(&r, &e);
  }
  assert_true(e.number == 5);
  chalk_add(c, 7);
  pump(&b);
  assert_true(expect_event(&b, &r).number == 7);
  chalk_stream_free(b.k);
  b.k = NULL;
  while (!r.ended && chalk_now() < end) receive(&r, r.capacity), pause_ms(1);
  assert_true(r.ended); /* though the child lives */
  kill_child(pid);
  free(c);
  close_reader(&r);
  close_bed(&b);
}

/* The memory after the end of a batch still has events of the batch before, which must not be taken. */
static void test_takes_no_more_than_was_read(void **state) {
  (void)state;
  bed b = open_bed(0);
  reader r = connect_to(&b, 0);
  chalk_series *s = bind(b.w, b.count, "x");
  for (int i = 0; i < 3; i++) assert_true(chalk_add(s, 7) >= CHALK_OK);
  assert_int_equal(chalk_tap_read(b.tap), 3);
  assert_int_equal(chalk_stream_take(b.k, b.tap, UINT32_MAX), -1);
  assert_true(chalk_add(s, 1) >= CHALK_OK);
  while (chalk_tap_read(b.tap) == 0) {
  }
  assert_int_equal(chalk_stream_take(b.k, b.tap, 3), -1);
  expect_metadata(&b, &r);
  static const double expected[] = {7, 7, 7, 1};
  for (int i = 0; i < 4; i++) assert_true(expect_event(&b, &r).number == expected[i]);
  assert_int_equal(chalk_stream_dropped(b.k, 0), 0);
  free(s);
  close_reader(&r);
  close_bed(&b);
}

static void test_numbers_of_a_metric_have_ranges(void **state) {
  (void)state;
  bed b = open_bed(0);
  chalk_stream_metric m = {.name = "n", .unit = "", .description = "", .kind = CHALK_COUNT};
  assert_int_equal(chalk_stream_define(b.k, METRICS, &m), CHALK_EINVALID);
  m.kind = 0;
  assert_int_equal(chalk_stream_define(b.k, 0, &m), CHALK_EINVALID);
  m.kind = CHALK_HISTOGRAM + 1;
  assert_int_equal(chalk_stream_define(b.k, 0, &m), CHALK_EINVALID);
  assert_int_equal(chalk_stream_knows(b.k, METRICS), 0);
  close_bed(&b);
}

/* Each allocation fails once. Afterwards a client still gets the metric's metadata once. */
static void test_a_definition_without_memory_leaves_nothing(void **state) {
  (void)state;
  static const char *labels[] = {"a"}, *constants[] = {"env", "test"};
  bed b = open_bed(0);
  reader r = connect_to(&b, 0);
  expect_metadata(&b, &r);
  int metric = define(b.w, "n", CHALK_COUNT, 1, 0);
  chalk_stream_metric m = {.name = "n",
                           .unit = "",
                           .description = "",
                           .labels = labels,
                           .constants = constants,
                           .kind = CHALK_COUNT,
                           .n_labels = 1,
                           .n_constants = 1};
  int failures = 0;
  for (;; failures++) {
    failing_after = failures;
    int rc = chalk_stream_define(b.k, (uint32_t)metric, &m);
    failing_after = -1;
    if (rc == CHALK_OK) break;
    assert_int_equal(rc, CHALK_EMEMORY);
    assert_int_equal(chalk_stream_knows(b.k, (uint32_t)metric), 0);
  }
  assert_true(failures >= 5);
  chalk_series *s = bind(b.w, metric, "x");
  assert_true(chalk_add(s, 1) >= CHALK_OK);
  pump(&b);
  event e = expect_event(&b, &r);
  assert_true(e.is_metadata);
  assert_string_equal(e.name, "n");
  assert_false(expect_event(&b, &r).is_metadata);
  free(s);
  close_reader(&r);
  close_bed(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_message_of_every_operation),
      cmocka_unit_test(test_messages_stay_whole_in_full_sockets),
      cmocka_unit_test(test_metadata_larger_than_a_socket),
      cmocka_unit_test(test_a_client_that_does_not_read),
      cmocka_unit_test(test_clients_come_and_go),
      cmocka_unit_test(test_reused_numbers),
      cmocka_unit_test(test_many_series),
      cmocka_unit_test(test_a_fork_with_clients),
      cmocka_unit_test(test_takes_no_more_than_was_read),
      cmocka_unit_test(test_numbers_of_a_metric_have_ranges),
      cmocka_unit_test(test_a_definition_without_memory_leaves_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
