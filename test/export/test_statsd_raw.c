/*
 * What a user loses when these fail: a recorded value is sent twice, with the tags of another series or with a wrong
 * rate; or a receiver that does not answer costs unlimited memory.
 */

#include "common.h"

#include "open/recover.h"

static const char *const labels[] = {"a"};
static const uint32_t value_most[] = {198};

/* A queue, a tap, and a writer that records into a histogram with one tag. */
typedef struct bed {
  chalk_segment *g;
  chalk_writer *w;
  chalk_tap *t;
  chalk_statsd_raw *k;
  chalk_statsd_family family;
  int metric;
} bed;

static void begin(bed *b, uint32_t max_packet, uint64_t most) {
  *b = (bed){.g = open_segment(NULL)};
  b->family = (chalk_statsd_family){.name = "lat",
                                    .labels = labels,
                                    .value_most = value_most,
                                    .n_labels = 1,
                                    .absent = "",
                                    .tags = "",
                                    .tail = "",
                                    .timestamp = "",
                                    .type = "d",
                                    .factor = 1,
                                    .max_weight = 1,
                                    .mode = CHALK_STATSD_RAW,
                                    .pack = 1};
  assert_int_equal(chalk_hold(b->g, 1), 1);
  b->w = open_writer(b->g);
  b->metric = define(b->w, "lat", CHALK_HISTOGRAM, 1, 5);
  char message[CHALK_MESSAGE] = "";
  b->t = chalk_tap_open(b->g, 0, message);
  if (!b->t) fail_msg("no tap: %s", message);
  chalk_tap_switch(b->g, 1 << CHALK_HISTOGRAM, 0, 0);
  b->k = chalk_statsd_raw_new(b->g, max_packet, most);
  assert_non_null(b->k);
}

static void end(bed *b) {
  chalk_statsd_raw_free(b->k);
  chalk_tap_close(b->t);
  chalk_writer_close(b->w);
  chalk_release(b->g);
  chalk_segment_close(b->g);
}

/* Takes a batch, and defines metrics with this rate when the queue asks. Returns how many it asked for. */
static int take_batch(bed *b, uint32_t n, double rate) {
  int asked = 0;
  for (int metric; (metric = chalk_statsd_raw_take(b->k, b->t, n)) >= 0; asked++) {
    assert_int_equal(chalk_statsd_raw_define(b->k, (uint32_t)metric, &b->family, rate), CHALK_OK);
  }
  return asked;
}

/* Takes all events until the rings are empty. Returns how many metrics were asked for. */
static int take_all(bed *b, double rate) {
  int asked = 0;
  for (uint32_t n; (n = chalk_tap_read(b->t)) > 0;) asked += take_batch(b, n, rate);
  return asked;
}

/* Removes the first packet from the queue and returns it as text; "" when there is none. */
static const char *next_packet(bed *b) {
  static char text[65536];
  uint32_t size = 0;
  const char *packet = chalk_statsd_raw_packet(b->k, &size);
  if (packet) memcpy(text, packet, size);
  text[size] = 0;
  chalk_statsd_raw_next(b->k);
  return text;
}

static chalk_statsd_raw_totals totals_of(const bed *b) {
  chalk_statsd_raw_totals totals;
  chalk_statsd_raw_count(b->k, &totals);
  return totals;
}

static void record(chalk_series *s, double v) { assert_true(chalk_record(s, v) >= CHALK_OK); }

static void test_lines_of_values(void **state) {
  (void)state;
  bed b;
  begin(&b, 1000, 100);
  b.family.tags = "env:prod", b.family.tail = "|c:me", b.family.type = "ms", b.family.factor = 1000;
  chalk_series *x = bind(b.w, b.metric, "x"), *y = bind(b.w, b.metric, "y|z");
  record(x, 0.25), record(y, -3), record(x, 1e300), record(x, 1e306), record(x, -1e306), record(x, 0);
  assert_int_equal(take_all(&b, 1), 1);
  assert_string_equal(next_packet(&b),
                      "lat:250|ms|#env:prod,a:x|c:me\n"
                      "lat:-3000|ms|#env:prod,a:y_z|c:me\n"
                      "lat:1e+303|ms|#env:prod,a:x|c:me\n"
                      "lat:1.7976931348623157e+308|ms|#env:prod,a:x|c:me\n"
                      "lat:-1.7976931348623157e+308|ms|#env:prod,a:x|c:me\n"
                      "lat:0|ms|#env:prod,a:x|c:me\n");
  assert_string_equal(next_packet(&b), "");
  assert_int_equal(totals_of(&b).values, 6);
  free(x), free(y);
  end(&b);
}

/* Events of counts, gauges and histograms in other modes are ignored. */
static void test_only_histograms_in_the_mode_raw_are_sent(void **state) {
  (void)state;
  bed b;
  begin(&b, 1000, 100);
  chalk_series *c = bind(b.w, define(b.w, "c", CHALK_COUNT, 1, 0), "x");
  chalk_series *h = bind(b.w, define(b.w, "h", CHALK_HISTOGRAM, 1, 5), "x"), *l = bind(b.w, b.metric, "x");
  chalk_tap_switch(b.g, 1 << CHALK_COUNT | 1 << CHALK_HISTOGRAM, 0, 0);
  assert_int_equal(chalk_statsd_raw_define(b.k, h->metric, NULL, 1), CHALK_OK);
  chalk_add(c, 1), record(h, 1), record(l, 2);
  assert_int_equal(take_all(&b, 1), 1);
  assert_string_equal(next_packet(&b), "lat:2|d|#a:x\n");
  assert_int_equal(totals_of(&b).dropped, 0);
  assert_int_equal(chalk_statsd_raw_define(b.k, METRICS, &b.family, 1), CHALK_EINVALID);
  const double bad[] = {-0.1, 1.1, NAN, 1e-7};
  for (int i = 0; i < 4; i++) assert_int_equal(chalk_statsd_raw_define(b.k, 0, &b.family, bad[i]), CHALK_EINVALID);
  free(c), free(h), free(l);
  end(&b);
}

static void test_packets_are_filled(void **state) {
  (void)state;
  bed b;
  begin(&b, 64, 1000);
  chalk_series *x = bind(b.w, b.metric, "x");
  for (int i = 10; i < 25; i++) record(x, i); /* lines of 14 bytes, 4 a packet */
  take_all(&b, 1);
  assert_int_equal(chalk_statsd_raw_packets(b.k, 0), 3);
  assert_int_equal(chalk_statsd_raw_packets(b.k, 1), 4);
  for (int i = 10; i < 22; i += 4) {
    char expected[64];
    snprintf(expected, sizeof expected, "lat:%d|d|#a:x\nlat:%d|d|#a:x\nlat:%d|d|#a:x\nlat:%d|d|#a:x\n", i, i + 1, i + 2,
             i + 3);
    assert_string_equal(next_packet(&b), expected);
  }
  /* No value is added to a packet that is being sent. */
  uint32_t size;
  const char *packet = chalk_statsd_raw_packet(b.k, &size);
  assert_int_equal(size, 3 * 14);
  record(x, 99);
  take_all(&b, 1);
  assert_int_equal(size, 3 * 14);
  assert_memory_equal(packet, "lat:22|d|#a:x\nlat:23|d|#a:x\nlat:24|d|#a:x\n", size);
  assert_int_equal(chalk_statsd_raw_packets(b.k, 1), 2);
  assert_int_equal(chalk_statsd_raw_packets(b.k, 0), 1);
  next_packet(&b);
  assert_string_equal(next_packet(&b), "lat:99|d|#a:x\n");
  assert_int_equal(chalk_statsd_raw_packets(b.k, 1), 0);
  chalk_statsd_raw_next(b.k);
  assert_null(chalk_statsd_raw_packet(b.k, &size));
  free(x);
  end(&b);
}

static void test_a_line_longer_than_a_packet_is_reported_once(void **state) {
  (void)state;
  bed b;
  begin(&b, 64, 1000);
  char value[101] = "";
  memset(value, 'v', 100);
  chalk_series *x = bind(b.w, b.metric, "x"), *y = bind(b.w, b.metric, value);
  assert_int_equal(chalk_statsd_raw_long(b.k), -1);
  for (int i = 0; i < 7; i++) record(y, i), record(x, i);
  take_all(&b, 1);
  assert_int_equal(totals_of(&b).too_long, 7);
  assert_int_equal(totals_of(&b).values, 7);
  assert_int_equal(totals_of(&b).dropped, 0);
  assert_int_equal(chalk_statsd_raw_long(b.k), b.metric);
  assert_int_equal(chalk_statsd_raw_long(b.k), -1);
  free(x), free(y);
  end(&b);
}

/* While no packet is taken, the queue keeps its first values up to the limit, and counts the others as dropped. */
static void test_the_queue_is_bounded(void **state) {
  (void)state;
  enum { MOST = 1000, ROUNDS = 50, EACH = 700 };
  bed b;
  begin(&b, 64, MOST);
  chalk_series *x = bind(b.w, b.metric, "x");
  for (int i = 0; i < ROUNDS * EACH; i++) {
    record(x, i);
    if (i % EACH == EACH - 1) take_all(&b, 1);
    if (i % (5 * EACH) == 0) { /* an attempt to send that fails */
      uint32_t size;
      chalk_statsd_raw_packet(b.k, &size);
    }
  }
  chalk_statsd_raw_totals totals = totals_of(&b);
  assert_int_equal(totals.values, MOST);
  assert_int_equal(totals.dropped, ROUNDS * EACH - MOST);
  /* Space that sent packets leave is used again. */
  int values = 0;
  for (const char *text; *(text = next_packet(&b));) {
    for (const char *line = text; *line; line = strchr(line, '\n') + 1, values++) {
      assert_int_equal(atoi(line + 4), values);
    }
  }
  assert_int_equal(values, MOST);
  for (int i = 0; i < MOST + 1; i++) record(x, i);
  take_all(&b, 1);
  assert_int_equal(totals_of(&b).values, 2 * MOST);
  assert_int_equal(totals_of(&b).dropped, totals.dropped + 1);
  free(x);
  end(&b);
}

/* Values are added to the queue while others are taken from it, and keep their order. */
static void test_values_keep_their_order(void **state) {
  (void)state;
  enum { VALUES = 20000 };
  bed b;
  begin(&b, 64, 64);
  chalk_series *x = bind(b.w, b.metric, "x");
  int sent = 0;
  for (int i = 0; i < VALUES; i++) {
    record(x, i);
    take_all(&b, 1);
    while (chalk_statsd_raw_packets(b.k, 1) > 0 && random_bits() % 3 > 0) {
      for (const char *line = next_packet(&b); *line; line = strchr(line, '\n') + 1) {
        assert_int_equal(atoi(line + 4), sent++);
      }
    }
    if (totals_of(&b).dropped) break;
  }
  assert_int_equal(totals_of(&b).dropped, 0);
  free(x);
  end(&b);
}

/* How many values a line stands for: its rate's inverse, cut as agents do. 0: the inverse is no whole number. */
static uint64_t weight_of(const char *line) {
  const char *at = strstr(line, "|d") + 2;
  double inverse = strncmp(at, "|@", 2) == 0 ? 1 / strtod(at + 2, NULL) : 1;
  return inverse - floor(inverse) < 1e-6 ? (uint64_t)inverse : 0;
}

/* Six standard deviations: a right sampler fails once in 10^9 runs, and one with a wrong mean always. */
static void test_samples_stand_for_all(void **state) {
  (void)state;
  const double rates[] = {0.9, 0.6, 1 / 3.0, 0.17, 0.011, 0.0007};
  const int n = SANITIZED ? 50000 : 400000;
  for (size_t r = 0; r < sizeof rates / sizeof *rates; r++) {
    bed b;
    begin(&b, 1000, 1u << 20);
    chalk_series *x = bind(b.w, b.metric, "x");
    double rate = rates[r], whole = floor(1 / rate), fraction = 1 / rate - whole;
    for (int i = 1; i <= n; i++) {
      record(x, i);
      if (i % 5000 == 0) take_all(&b, rate);
    }
    double sum = 0, lines = 0;
    for (const char *text; *(text = next_packet(&b));) {
      for (const char *line = text; *line; line = strchr(line, '\n') + 1, lines++) {
        double weight = (double)weight_of(line);
        assert_true(weight == whole || (fraction > 0 && weight == whole + 1));
        sum += weight;
      }
    }
    double squares = rate * (whole * whole * (1 - fraction) + (whole + 1) * (whole + 1) * fraction);
    assert_true(fabs(lines - n * rate) < 6 * sqrt(n * rate * (1 - rate)));
    assert_true(fabs(sum - n) < 6 * sqrt(n * (squares - 1)));
    assert_int_equal(totals_of(&b).values, lines);
    free(x);
    end(&b);
  }
}

static void test_the_lowest_rates(void **state) {
  (void)state;
  bed b;
  begin(&b, 1000, 1u << 20);
  chalk_series *x = bind(b.w, b.metric, "x");
  assert_int_equal(chalk_statsd_raw_define(b.k, (uint32_t)b.metric, &b.family, 0), CHALK_OK);
  for (int i = 0; i < 5000; i++) record(x, i);
  assert_int_equal(take_all(&b, 1), 0);
  assert_int_equal(chalk_statsd_raw_packets(b.k, 1), 0);
  assert_int_equal(chalk_statsd_raw_define(b.k, (uint32_t)b.metric, &b.family, 1e-6), CHALK_OK);
  int n = SANITIZED ? 100000 : 2000000;
  for (int i = 1; i <= n; i++) {
    record(x, i);
    if (i % 5000 == 0) take_all(&b, 1);
  }
  for (const char *text; *(text = next_packet(&b));) {
    for (const char *line = text; *line; line = strchr(line, '\n') + 1) {
      uint64_t weight = weight_of(line);
      assert_true(weight == 1000000 || weight == 1000001);
    }
  }
  assert_true(totals_of(&b).values < 40);
  free(x);
  end(&b);
}

/* When a series' number is used again for other tags, its line has the other tags. */
static void test_reused_numbers_of_series(void **state) {
  (void)state;
  bed b;
  begin(&b, 1000, 1000);
  uint32_t id = 0;
  bool is_again = false;
  for (int round = 0; round < 20; round++) {
    char value[16], expected[64];
    snprintf(value, sizeof value, "v%d", round);
    chalk_series *s = bind(b.w, b.metric, value);
    is_again = is_again || (round > 0 && s->series == id);
    id = s->series;
    record(s, round);
    drop(b.w, b.metric, value);
    free(s);
    chalk_writer_tick(b.w);
    for (int i = 0; i < 3; i++) sweep(b.g, 1000 + round, 0); /* the number is not reused before the event was read */
    take_all(&b, 1);
    snprintf(expected, sizeof expected, "lat:%d|d|#a:v%d\n", round, round);
    assert_string_equal(next_packet(&b), expected);
    for (int i = 0; i < 3; i++) chalk_writer_tick(b.w), chalk_tap_read(b.t), sweep(b.g, 1000 + round, 0);
  }
  assert_true(is_again);
  assert_int_equal(totals_of(&b).dropped, 0);
  end(&b);
}

/* When a metric's number goes to another metric, the queue asks for the definition again. */
static void test_reused_numbers_of_metrics(void **state) {
  (void)state;
  bed b;
  begin(&b, 1000, 1000);
  chalk_series *x = bind(b.w, b.metric, "x");
  record(x, 1);
  assert_int_equal(take_all(&b, 1), 1);
  record(x, 2);
  assert_int_equal(take_all(&b, 1), 0);
  free(x);
  chalk_clear(b.w, (uint32_t)b.metric);
  chalk_undefine(b.w, (uint32_t)b.metric);
  chalk_generation_reach(b.g, chalk_generation(b.g, 0) + 1);
  for (int i = 0; i < 4; i++) chalk_writer_tick(b.w), chalk_tap_read(b.t), sweep(b.g, 1000 + i, 0);
  int other = define(b.w, "other", CHALK_HISTOGRAM, 1, 5);
  assert_int_equal(other, b.metric);
  x = bind(b.w, other, "x");
  b.family.name = "other";
  record(x, 3);
  assert_int_equal(take_all(&b, 1), 1);
  assert_string_equal(next_packet(&b), "lat:1|d|#a:x\nlat:2|d|#a:x\nother:3|d|#a:x\n");
  free(x);
  end(&b);
}

static void test_an_overflow_series_has_its_own_line(void **state) {
  (void)state;
  bed b;
  begin(&b, 1000, 1000);
  int few = define_limited(b.w, "few", CHALK_HISTOGRAM, 1);
  b.family.name = "few";
  chalk_series *x = bind(b.w, few, "x"), *y = bind(b.w, few, "y");
  record(x, 1), record(y, 2);
  take_all(&b, 1);
  assert_string_equal(next_packet(&b), "few:1|d|#a:x\nfew:2|d|#a:__overflow__\n");
  free(x), free(y);
  end(&b);
}

/* Children record until they are killed: every value that is sent is a whole one of a child, and is sent once. */
static void test_children_and_kills(void **state) {
  (void)state;
  enum { CHILDREN = 8, WANTED = 3000 };
  bed b;
  begin(&b, 1432, 1u << 20);
  int64_t last[CHILDREN] = {0}, seen = 0;
  for (int child = 0; child < CHILDREN; child++) {
    char value[16];
    snprintf(value, sizeof value, "c%d", child);
    pid_t pid = fork_child();
    if (pid == 0) {
      chalk_series *s = bind(b.w, b.metric, value);
      for (int64_t i = 1;; i++) CHILD_CHECK(chalk_record(s, (double)i) >= CHALK_OK);
    }
    double end_at = chalk_now() + DEADLINE;
    int64_t start = seen;
    do {
      take_batch(&b, chalk_tap_read(b.t), 1);
      for (const char *text; *(text = next_packet(&b));) {
        for (const char *line = text; *line; line = strchr(line, '\n') + 1, seen++) {
          double v = strtod(line + 4, NULL);
          const char *tag = strstr(line, "|d|#a:c");
          assert_non_null(tag);
          int recorder = atoi(tag + 7);
          assert_true(recorder >= 0 && recorder <= child);
          assert_true(v > (double)last[recorder]); /* values are missing where a ring was full */
          last[recorder] = (int64_t)v;
        }
      }
    } while (seen - start < WANTED && chalk_now() < end_at);
    assert_true(seen - start >= WANTED);
    kill_child(pid);
  }
  assert_int_equal(totals_of(&b).dropped, 0);
  assert_true(recover_check(b.g));
  end(&b);
}

/* The memory after the end of a batch still has events of the batch before, which must not be taken. */
static void test_takes_no_more_than_was_read(void **state) {
  (void)state;
  bed b;
  begin(&b, 1000, 100);
  chalk_series *s = bind(b.w, b.metric, "x");
  for (int i = 0; i < 3; i++) record(s, 7);
  assert_int_equal(chalk_tap_read(b.t), 3);
  assert_int_equal(take_batch(&b, UINT32_MAX, 1), 1);
  record(s, 1);
  while (chalk_tap_read(b.t) == 0) {
  }
  assert_int_equal(take_batch(&b, 3, 1), 0);
  assert_string_equal(next_packet(&b), "lat:7|d|#a:x\nlat:7|d|#a:x\nlat:7|d|#a:x\nlat:1|d|#a:x\n");
  free(s);
  end(&b);
}

static void test_numbers_of_a_family_have_ranges(void **state) {
  (void)state;
  bed b;
  begin(&b, 1000, 100);
  assert_int_equal(chalk_statsd_raw_define(b.k, 0, &b.family, 1), CHALK_OK);
  b.family.n_labels = CHALK_TAGS + 1;
  assert_int_equal(chalk_statsd_raw_define(b.k, 0, &b.family, 1), CHALK_EINVALID);
  assert_int_equal(chalk_statsd_raw_define(b.k, 0, NULL, 1), CHALK_OK);
  assert_null(chalk_statsd_raw_new(b.g, 0, 100));
  end(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_lines_of_values),
      cmocka_unit_test(test_only_histograms_in_the_mode_raw_are_sent),
      cmocka_unit_test(test_packets_are_filled),
      cmocka_unit_test(test_a_line_longer_than_a_packet_is_reported_once),
      cmocka_unit_test(test_the_queue_is_bounded),
      cmocka_unit_test(test_values_keep_their_order),
      cmocka_unit_test(test_samples_stand_for_all),
      cmocka_unit_test(test_the_lowest_rates),
      cmocka_unit_test(test_reused_numbers_of_series),
      cmocka_unit_test(test_reused_numbers_of_metrics),
      cmocka_unit_test(test_an_overflow_series_has_its_own_line),
      cmocka_unit_test(test_children_and_kills),
      cmocka_unit_test(test_takes_no_more_than_was_read),
      cmocka_unit_test(test_numbers_of_a_family_have_ranges),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
