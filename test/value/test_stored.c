/*
 * What is lost when these fail: the record of what an exporter has sent of a histogram is wrong, so values are sent
 * twice or never; or each push takes memory that is never freed.
 */

#include "common.h"

#include "shm/heap.h"
#include "value/stored.h"

enum { BOUNDS = 5 };

typedef struct fixture {
  chalk_segment *g;
  chalk_writer *w;
  chalk_series *s;
} fixture;

static fixture open_histogram(const chalk_options *o) {
  fixture f = {.g = open_segment(o)};
  f.w = open_writer(f.g);
  f.s = bind(f.w, define(f.w, "latency", CHALK_HISTOGRAM, 1, BOUNDS), "a");
  return f;
}

static void close_histogram(fixture f) {
  free(f.s);
  chalk_writer_close(f.w);
  chalk_segment_close(f.g);
}

static chalk_sketch *new_sketch(void) {
  chalk_sketch *k = chalk_sketch_new(0.0001, 160);
  assert_non_null(k);
  return k;
}

/* Reads the present state of the series. The caller frees the sketch. */
static chalk_sketch *read_series(const fixture *f, histogram_sum *sum) {
  chalk_sketch *k = new_sketch();
  assert_int_equal(stored_read(f->g, f->s->series, sum, k), CHALK_OK);
  return k;
}

static void assert_same_side(const sketch_side *a, const sketch_side *b) {
  assert_int_equal(a->n, b->n);
  for (uint32_t i = 0; i < a->n; i++) assert_true(a->at[i].index == b->at[i].index && a->at[i].count == b->at[i].count);
}

/* Asserts that the block has exactly these counts and this sketch, to the last bucket. */
static void assert_stored(const fixture *f, uint64_t block, const histogram_sum *sum, const chalk_sketch *k) {
  histogram_sum again = {0};
  chalk_sketch *back = new_sketch();
  assert_int_equal(stored_load(f->g, block, &again, NULL), CHALK_OK);
  assert_int_equal(stored_sketch(f->g, block, back), CHALK_OK);
  assert_int_equal(again.les, sum->les);
  assert_true(again.sum == sum->sum);
  assert_memory_equal(again.le, sum->le, (sum->les + 1) * sizeof *sum->le);
  assert_true(back->count == k->count && back->zero == k->zero && back->scale == k->scale);
  assert_true(back->min == k->min && back->max == k->max);
  assert_same_side(&back->positive, &k->positive);
  assert_same_side(&back->negative, &k->negative);
  chalk_sketch_free(back);
}

static void test_a_block_reads_back_as_it_was_written(void **state) {
  (void)state;
  fixture f = open_histogram(NULL);
  for (int i = 0; i < 3000; i++) chalk_record(f.s, i % 10 == 0 ? 0 : (i % 7 == 0 ? -1 : 1) * exp(10 * random_unit()));
  histogram_sum sum = {0};
  chalk_sketch *k = read_series(&f, &sum);
  assert_int_equal(sum.les, BOUNDS);
  assert_int_equal(sum.le[BOUNDS], 3000);
  uint64_t block = stored_write(f.g, &sum, k, false);
  assert_stored(&f, block, &sum, k);
  assert_int_equal(stored_total(f.g, block, CHALK_HISTOGRAM), 3000);
  assert_int_equal(stored_sketched(f.g, block, CHALK_HISTOGRAM), 3000);
  assert_true(stored_is(f.g, block, &sum, k));
  chalk_record(f.s, 1);
  chalk_sketch *more = read_series(&f, &sum);
  assert_false(stored_is(f.g, block, &sum, more));
  uint64_t taken = stored_take(f.g, f.s->series);
  assert_stored(&f, taken, &sum, more);
  chalk_sketch_free(k), chalk_sketch_free(more);
  close_histogram(f);
}

static void test_an_offset_that_is_no_block_reads_as_an_empty_histogram(void **state) {
  (void)state;
  fixture f = open_histogram(NULL);
  histogram_sum sum = {0};
  chalk_sketch *k = read_series(&f, &sum);
  uint64_t block = stored_write(f.g, &sum, k, false);
  assert_stored(&f, block, &sum, k);
  const uint64_t none[] = {0, 8, f.g->size - 8, f.g->size, UINT64_MAX - 7};
  for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
    histogram_sum read = {.les = BOUNDS, .sum = 7};
    chalk_record(f.s, 1);
    assert_int_equal(stored_load(f.g, none[i], &read, k), CHALK_OK);
    assert_true(read.les == 0 && read.sum == 0 && read.le[0] == 0);
    assert_int_equal(chalk_sketch_count(k), 0);
    assert_int_equal(stored_total(f.g, none[i], CHALK_HISTOGRAM), 0);
    assert_false(stored_is(f.g, none[i], &read, k));
    stored_give(f.g, none[i]);
  }
  chalk_sketch_free(k);
  close_histogram(f);
}

/*
 * Each push of an exporter replaces the blocks of the push before: the memory does not grow with the number of pushes.
 */
static void test_pushes_reuse_replaced_blocks(void **state) {
  (void)state;
  fixture f = open_histogram(NULL);
  for (int i = 0; i < 100; i++) chalk_record(f.s, 1 + i);
  uint64_t block = 0, aside = 0, memory = 0;
  for (int push = 0; push < 1000; push++) {
    chalk_record(f.s, 1 + push % 100);
    histogram_sum sum = {0};
    chalk_sketch *k = read_series(&f, &sum);
    uint64_t next = stored_write_next(f.g, &sum, k, &aside);
    assert_true(next != 0 && next != block);
    assert_stored(&f, next, &sum, k);
    stored_set_aside(f.g, block, &aside);
    assert_true(aside == block);
    block = next;
    chalk_sketch_free(k);
    if (push == 10) memory = info_of(f.g).memory;
  }
  stored_give(f.g, aside);
  stored_give(f.g, block);
  assert_int_equal(info_of(f.g).memory, memory);
  close_histogram(f);
}

/* One block at a time is set aside. The block before it is freed. */
static void test_only_one_replaced_block_is_kept(void **state) {
  (void)state;
  fixture f = open_histogram(NULL);
  chalk_record(f.s, 1);
  uint64_t first = stored_take(f.g, f.s->series), second = stored_take(f.g, f.s->series), aside = 0;
  stored_set_aside(f.g, first, &aside);
  stored_set_aside(f.g, 0, &aside);
  assert_true(aside == first);
  stored_set_aside(f.g, second, &aside);
  assert_true(aside == second);
  assert_true(stored_take(f.g, f.s->series) == first);
  close_histogram(f);
}

/* Without memory no block is written. The state of an overflow series may use the memory reserved for those. */
static void test_a_full_heap_keeps_memory_for_overflow_series(void **state) {
  (void)state;
  chalk_options o = {.memory_limit = 8 << 20};
  fixture f = open_histogram(&o);
  for (int i = 0; i < 100; i++) chalk_record(f.s, 1 + i);
  histogram_sum sum = {0};
  chalk_sketch *k = read_series(&f, &sum);
  while (stored_write(f.g, &sum, k, false)) {
  }
  uint64_t aside = 0;
  assert_int_equal(stored_write_next(f.g, &sum, k, &aside), 0);
  assert_stored(&f, stored_write(f.g, &sum, k, true), &sum, k);
  chalk_sketch_free(k);
  close_histogram(f);
}

static bool is_sound(const fixture *f, uint64_t block) {
  heap_ledger l = {.g = f->g};
  bool sound = stored_is_sound(f->g, block, BOUNDS, false, &l);
  free(l.at);
  return sound;
}

/* A block in a damaged file. If any word of it is wrong, the check refuses the block, or a reader can still read it. */
static void test_damaged_blocks_are_refused_or_harmless(void **state) {
  (void)state;
  fixture f = open_histogram(NULL);
  for (int i = 0; i < 100; i++) chalk_record(f.s, i % 2 ? 1 + i : -i);
  uint64_t block = stored_take(f.g, f.s->series), refused = 0;
  assert_true(is_sound(&f, block));
  uint32_t words = (uint32_t)(*(uint64_t *)segment_at(f.g, block) / 8);
  static const uint64_t wrong[] = {0, 1, UINT32_MAX, 1ull << 63, UINT64_MAX};
  for (uint32_t i = 0; i < words; i++) {
    uint64_t *word = (uint64_t *)segment_at(f.g, block) + i, was = *word;
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
      *word = wrong[k];
      refused += !is_sound(&f, block);
      histogram_sum sum = {0};
      chalk_sketch *into = new_sketch();
      assert_true(stored_load(f.g, block, &sum, into) <= CHALK_OK);
      assert_true(sum.les <= CHALK_LES);
      chalk_sketch_free(into);
    }
    *word = was;
  }
  assert_true(is_sound(&f, block));
  assert_true(refused > words);
  close_histogram(f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_block_reads_back_as_it_was_written),
      cmocka_unit_test(test_an_offset_that_is_no_block_reads_as_an_empty_histogram),
      cmocka_unit_test(test_pushes_reuse_replaced_blocks),
      cmocka_unit_test(test_only_one_replaced_block_is_kept),
      cmocka_unit_test(test_a_full_heap_keeps_memory_for_overflow_series),
      cmocka_unit_test(test_damaged_blocks_are_refused_or_harmless),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
