/*
 * The C record paths, for bench/instructions.lua. callgrind counts instructions only in `path` and what it calls.
 * Everything that a first record allocates is allocated before.
 *
 *     instructions NAME N
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chalk.h"

enum { ENDPOINTS = 40, COMBINATIONS = 80, VALUES = 1024, NEW = 20000 };

static const char *const STATUSES[] = {"success", "failure"};
static char endpoints[NEW][32];
static double values[VALUES];
static chalk_writer *writer;
static int metrics[CHALK_HISTOGRAM + 1];
static chalk_series *kept[CHALK_HISTOGRAM + 1], *summed;
static chalk_sketch *sketch;

static void fail(const char *what) {
  fprintf(stderr, "instructions: %s\n", what);
  exit(1);
}

static int define(const char *name, uint32_t kind, uint32_t across) {
  static const double le[] = {.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10};
  char message[CHALK_MESSAGE];
  chalk_definition d = {
      .name = name, .name_size = strlen(name), .shape = "", .blob = "", .kind = kind, .tags = 2, .across = across};
  if (kind == CHALK_HISTOGRAM) d.le = le, d.les = sizeof le / sizeof *le;
  int metric = chalk_define(writer, &d, message);
  if (metric < 0) fail(message);
  return metric;
}

static void bind(int metric, int endpoint, int status) {
  const char *texts[] = {endpoints[endpoint], STATUSES[status]};
  size_t sizes[] = {strlen(texts[0]), strlen(texts[1])};
  if (chalk_bind(writer, (uint32_t)metric, texts, sizes) != CHALK_OK) fail("no series");
}

static void set_up(void) {
  char message[CHALK_MESSAGE];
  for (int i = 0; i < NEW; i++) snprintf(endpoints[i], sizeof endpoints[i], "/api/v1/resource/%d", i);
  for (int i = 0; i < VALUES; i++) values[i] = 0.001 * pow(10, 3.0 * ((i * 619) % VALUES) / VALUES);
  chalk_segment *segment = chalk_segment_open(NULL, NULL, message);
  writer = segment ? chalk_writer_open(segment, message) : NULL;
  if (!writer) fail(message);
  const char *const tags[] = {"/api", "success"};
  const size_t sizes[] = {4, 7};
  for (uint32_t kind = CHALK_COUNT; kind <= CHALK_HISTOGRAM; kind++) {
    metrics[kind] = define((const char *[]){"", "count", "gauge", "histogram"}[kind], kind, CHALK_LAST);
    kept[kind] = chalk_series_new(writer, (uint32_t)metrics[kind], tags, sizes);
  }
  summed = chalk_series_new(writer, (uint32_t)define("sum", CHALK_GAUGE, CHALK_SUM), tags, sizes);
  for (int i = 0; i < COMBINATIONS; i++) bind(metrics[CHALK_COUNT], i % ENDPOINTS, i / ENDPOINTS);
  for (int i = 0; i < VALUES; i++) chalk_record(kept[CHALK_HISTOGRAM], values[i]);
  sketch = chalk_sketch_new(0.001, 512);
  for (int i = 0; i < VALUES; i++) chalk_sketch_add(sketch, values[i], 1);
}

static void add(int i) { chalk_add(kept[CHALK_COUNT], 1 + i % 8); }
static void set(int i) { chalk_set(kept[CHALK_GAUGE], values[i % VALUES]); }
static void shift(int i) { chalk_add(kept[CHALK_GAUGE], i % 8 - 4); }
static void set_summed(int i) { chalk_set(summed, values[i % VALUES]); }
static void shift_summed(int i) { chalk_add(summed, i % 8 - 4); }
static void record(int i) { chalk_record(kept[CHALK_HISTOGRAM], values[i % VALUES]); }
static void sketch_add(int i) { chalk_sketch_add(sketch, values[i % VALUES], 1); }
static void find(int i) { bind(metrics[CHALK_COUNT], i % ENDPOINTS, i / ENDPOINTS % 2); }
static void create(int i) { bind(metrics[CHALK_GAUGE], i, i % 2); }

static const struct {
  const char *name;
  void (*run)(int i);
} PATHS[] = {{"chalk_add, count", add},
             {"chalk_set, gauge", set},
             {"chalk_add, gauge", shift},
             {"chalk_set, gauge by sum", set_summed},
             {"chalk_add, gauge by sum", shift_summed},
             {"chalk_record, 11 bounds", record},
             {"chalk_sketch_add", sketch_add},
             {"chalk_bind, found", find},
             {"chalk_bind, new", create}};

__attribute__((noinline)) void path(void (*run)(int i), int n);
void path(void (*run)(int i), int n) {
  for (int i = 0; i < n; i++) run(i);
}

int main(int argc, char **argv) {
  int n = argc > 2 ? atoi(argv[2]) : 0;
  if (n < 1 || n > NEW) fail("N must be from 1 to 20000");
  for (size_t p = 0; p < sizeof PATHS / sizeof *PATHS; p++) {
    if (strcmp(argv[1], PATHS[p].name) != 0) continue;
    set_up();
    path(PATHS[p].run, n);
    return 0;
  }
  fail("NAME is not the name of a path");
}
