/* What is lost when these fail: what a C host records shows under another name or not at all, or its definition
   replaces one that a Lua program uses. */
#include "common.h"

typedef struct bed {
  chalk_segment *g;
  chalk_writer *w;
  char message[CHALK_MESSAGE];
} bed;

static bed open_bed(void) {
  bed b = {.g = open_segment(NULL)};
  b.w = open_writer(b.g);
  return b;
}

static void close_bed(bed *b) {
  chalk_writer_close(b->w);
  chalk_segment_close(b->g);
}

static chalk_definition named(const char *name, uint32_t kind) {
  return (chalk_definition){.name = name, .name_size = strlen(name), .kind = kind};
}

static void assert_blob(bed *b, int metric, const char *text, size_t size) {
  char blob[64];
  assert_int_equal(chalk_metric_blob(b->g, (uint32_t)metric, blob, sizeof blob), size);
  assert_memory_equal(blob, text, size);
}

static void test_exporters_get_the_names_of_a_plain_definition(void **state) {
  (void)state;
  bed b = open_bed();
  chalk_definition d = named("host.sessions", CHALK_COUNT);
  static const char without[] = "=count\0last\0host.sessions";
  assert_blob(&b, chalk_define(b.w, &d, b.message), without, sizeof without - 1);
  chalk_definition e = named("load", CHALK_GAUGE);
  e.across = CHALK_SUM, e.shape = "peer\0side", e.shape_size = 9, e.tags = 2;
  static const char with[] = "=gauge\0sum\0load\0peer\0side";
  assert_blob(&b, chalk_define(b.w, &e, b.message), with, sizeof with - 1);
  close_bed(&b);
}

static void refuse(bed *b, chalk_definition d, const char *says) {
  assert_int_equal(chalk_define(b->w, &d, b->message), CHALK_EINVALID);
  if (!strstr(b->message, says)) fail_msg("%s is not in: %s", says, b->message);
}

static void test_names_that_a_format_cannot_carry_are_refused(void **state) {
  (void)state;
  bed b = open_bed();
  static const char *const wrong[] = {".a", "a.", "a..b", "9a", "a b", "a-b", "caf\xc3\xa9"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) refuse(&b, named(wrong[i], CHALK_COUNT), "bad metric name");
  char deep[70];
  for (int i = 0; i < 69; i++) deep[i] = i % 2 ? '.' : 'a';
  deep[67] = 0; /* 34 names */
  refuse(&b, named(deep, CHALK_COUNT), "bad metric name");
  static const struct {
    const char *shape;
    size_t size;
    uint32_t tags;
  } shapes[] = {{"a", 1, 0},  {"a", 1, 2},        {"", 0, 1},    {"a\0", 2, 2}, {"a\0b\0a", 5, 3},
                {"le", 2, 1}, {"quantile", 8, 1}, {"__a", 3, 1}, {"a b", 3, 1}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    chalk_definition d = named("ok", CHALK_COUNT);
    d.shape = shapes[i].shape, d.shape_size = shapes[i].size, d.tags = shapes[i].tags;
    refuse(&b, d, "the names of its");
  }
  chalk_definition d = named("ok", CHALK_COUNT);
  d.across = CHALK_SUM;
  refuse(&b, d, "only a gauge");
  close_bed(&b);
}

static void test_a_plain_definition_keeps_another_hosts_text(void **state) {
  (void)state;
  bed b = open_bed();
  chalk_writer *lua = open_writer(b.g);
  chalk_definition described = named("requests", CHALK_COUNT), plain = described;
  described.blob = "text", described.blob_size = 4, described.max_series = 7;
  int metric = chalk_define(lua, &described, b.message);
  assert_int_equal(chalk_define(b.w, &plain, b.message), metric);
  assert_blob(&b, metric, "text", 4);
  assert_int_equal(b.g->metrics[metric].max_series, 7);
  refuse(&b, named("requests", CHALK_GAUGE), "chalk_find"); /* it would supersede the one that is in use */
  assert_int_equal(chalk_metric_shown(b.g, (uint32_t)metric), 1);
  chalk_writer_close(lua);
  close_bed(&b);
}

static void test_a_later_text_replaces_a_plain_one(void **state) {
  (void)state;
  bed b = open_bed();
  chalk_definition plain = named("requests", CHALK_COUNT), described = plain;
  described.blob = "text", described.blob_size = 4;
  int metric = chalk_define(b.w, &plain, b.message);
  assert_int_equal(chalk_define(b.w, &described, b.message), metric);
  assert_blob(&b, metric, "text", 4);
  plain.kind = CHALK_GAUGE;
  chalk_definition own = named("own", CHALK_COUNT), changed = named("own", CHALK_GAUGE);
  int before = chalk_define(b.w, &own, b.message), after = chalk_define(b.w, &changed, b.message);
  assert_true(before >= 0 && after >= 0 && before != after); /* a host may change its own definition */
  close_bed(&b);
}

static void test_a_metric_is_found_by_its_name(void **state) {
  (void)state;
  bed b = open_bed();
  chalk_writer *other = open_writer(b.g);
  assert_int_equal(chalk_find(b.w, "requests", b.message), CHALK_EGONE);
  assert_non_null(strstr(b.message, "requests"));
  int metric = define(other, "requests", CHALK_HISTOGRAM, 0, 3);
  assert_int_equal(chalk_find(b.w, "requests", b.message), metric);
  chalk_series *s = chalk_series_new(b.w, (uint32_t)metric, NULL, NULL);
  assert_int_equal(chalk_record(s, 0.5), CHALK_OK);
  int newer = define(other, "requests", CHALK_HISTOGRAM, 0, 5);
  assert_int_not_equal(newer, metric);
  assert_int_equal(chalk_find(b.w, "requests", b.message), newer);
  free(s);
  chalk_writer_close(other);
  close_bed(&b);
}

static void test_a_found_metric_stays_while_it_is_used(void **state) {
  (void)state;
  bed b = open_bed();
  chalk_writer *lua = open_writer(b.g);
  int metric = define(lua, "requests", CHALK_COUNT, 0, 0);
  assert_int_equal(chalk_find(b.w, "requests", b.message), metric);
  chalk_writer_close(lua);
  chalk_generation(b.g, 1); /* a configuration that does not define it */
  chalk_hold(b.g, 1);
  for (int i = 0; i < 3; i++) {
    chalk_snapshot *s = chalk_snapshot_take(b.g, 0, NULL);
    sweep_all(s, chalk_now(), 0);
    chalk_snapshot_free(s);
  }
  assert_int_equal(chalk_metric_shown(b.g, (uint32_t)metric), 1);
  chalk_release(b.g);
  close_bed(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_exporters_get_the_names_of_a_plain_definition),
      cmocka_unit_test(test_names_that_a_format_cannot_carry_are_refused),
      cmocka_unit_test(test_a_plain_definition_keeps_another_hosts_text),
      cmocka_unit_test(test_a_later_text_replaces_a_plain_one),
      cmocka_unit_test(test_a_metric_is_found_by_its_name),
      cmocka_unit_test(test_a_found_metric_stays_while_it_is_used),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
