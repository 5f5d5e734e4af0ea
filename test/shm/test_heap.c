/*
 * What is lost when these fail: the memory of series that have left is never used again, two series share a block and
 * show each other's values, or a killed process leaves a heap that no process can use.
 */

#include "common.h"

#include "shm/heap.h"

static void test_freed_blocks_are_reused_and_zeroed(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  uint64_t blocks[200], memory = 0;
  for (int round = 0; round < 100; round++) {
    for (uint64_t i = 0; i < 200; i++) {
      uint64_t size = 1 + i * 37;
      blocks[i] = heap_take(g, size);
      assert_true(blocks[i] % 8 == 0 && blocks[i] >= g->head->heap);
      assert_true(heap_rounded(size) >= size && heap_rounded(size) <= size + size / 4 + 80);
      unsigned char *p = segment_at(g, blocks[i]);
      for (uint64_t k = 0; k < size; k++) assert_int_equal(p[k], 0);
      memset(p, 0xa5, size);
    }
    for (int i = 0; i < 199; i++) assert_true(blocks[i] != blocks[i + 1]);
    for (uint64_t i = 0; i < 200; i++) heap_give(g, blocks[i], 1 + i * 37);
    if (round == 0) memory = info_of(g).memory;
  }
  assert_int_equal(info_of(g).memory, memory);
  chalk_segment_close(g);
}

/* Blocks of one size class replace one another. A smaller or larger class does not use them. */
static void test_a_block_serves_its_size_class(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  uint64_t block = heap_take(g, 100), larger = heap_rounded(100) + 1;
  assert_int_equal(heap_rounded(heap_rounded(100)), heap_rounded(100));
  heap_give(g, block, 100);
  assert_true(heap_take(g, larger) != block);
  assert_true(heap_take(g, 50) != block);
  assert_int_equal(heap_take(g, heap_rounded(100)), block);
  chalk_segment_close(g);
}

/* The block of a histogram is read and written in cache lines. A line that two processes share slows both down. */
static void test_whole_cache_lines_begin_with_a_line(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  for (uint64_t size = 1; size <= 8192; size++) {
    uint64_t rounded = heap_rounded(size), block = heap_take(g, size);
    assert_true(rounded >= size && rounded >= heap_rounded(size - 1));
    assert_true(block % (rounded % 64 == 0 ? 64 : 8) == 0);
  }
  chalk_segment_close(g);
}

/*
 * A full segment refuses blocks, reserves some for overflow series, and can serve requests again once a block is freed.
 */
static void test_a_full_heap_refuses_and_recovers(void **state) {
  (void)state;
  enum { SIZE = 4096 };
  chalk_options o = {.memory_limit = 8 << 20};
  chalk_segment *g = open_segment(&o);
  uint64_t block, newest = 0, spare = 0;
  while ((block = heap_take(g, SIZE)) != 0) newest = block;
  assert_true(newest != 0);
  assert_int_equal(heap_take(g, SIZE), 0);
  while (spare < o.memory_limit / SIZE && heap_take_last(g, SIZE) != 0) spare++;
  assert_true(spare > 0);
  assert_int_equal(heap_take_last(g, SIZE), 0);
  assert_true(info_of(g).memory <= o.memory_limit);
  heap_give(g, newest, SIZE);
  assert_int_equal(heap_take(g, SIZE), newest);
  assert_int_equal(heap_take(g, 1ull << 62), 0);
  assert_int_equal(heap_take(g, UINT64_MAX), 0);
  chalk_segment_close(g);
}

/* An offset from shared memory may be anything. If it cannot be a block, it does not get into a list of free blocks. */
static void test_an_offset_that_is_no_block_is_not_freed(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  uint64_t block = heap_take(g, 64), before[HEAP_CLASSES];
  memcpy(before, g->head->heap_free, sizeof before);
  const uint64_t wrong[] = {0, 8, g->heap - 8, block + 4, g->size, g->size - 8, UINT64_MAX - 7};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) heap_give(g, wrong[i], 64);
  heap_give(g, block, UINT64_MAX);
  assert_memory_equal(before, g->head->heap_free, sizeof before);
  chalk_segment_close(g);
}

/* If a list of free blocks leads out of the heap, it is abandoned, and the caller gets another block. */
static void test_a_free_list_that_leads_out_of_the_heap_is_abandoned(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  uint64_t one = heap_take(g, 64), other = heap_take(g, 64);
  heap_give(g, one, 64);
  heap_give(g, other, 64);
  *(uint64_t *)segment_at(g, other) = g->size + 64;
  assert_int_equal(heap_take(g, 64), other);
  uint64_t block = heap_take(g, 64);
  assert_true(block != 0 && block != one && block != other);
  chalk_segment_close(g);
}

static bool is_sound(chalk_segment *g, const uint64_t *blocks, uint32_t n, uint64_t size) {
  heap_ledger l = {.g = g};
  bool sound = heap_note_free(&l);
  for (uint32_t i = 0; i < n; i++) sound = sound && heap_note(&l, blocks[i], size);
  sound = sound && heap_are_apart(&l);
  free(l.at);
  return sound;
}

/* The ledger distinguishes a damaged file from a sound one. */
static void test_a_ledger_finds_damage(void **state) {
  (void)state;
  chalk_segment *g = open_segment(NULL);
  uint64_t blocks[4];
  for (int i = 0; i < 4; i++) blocks[i] = heap_take(g, 64);
  assert_true(is_sound(g, blocks, 4, 64));
  const uint64_t twice[] = {blocks[0], blocks[0]}, across[] = {blocks[0], blocks[0] + 32};
  assert_false(is_sound(g, twice, 2, 64));
  assert_false(is_sound(g, across, 2, 64));
  const uint64_t top = g->head->heap_top, beyond = g->size;
  assert_false(is_sound(g, &top, 1, 64));
  assert_false(is_sound(g, &beyond, 1, 64));
  heap_give(g, blocks[2], 64);
  heap_give(g, blocks[3], 64);
  assert_true(is_sound(g, blocks, 2, 64));
  assert_false(is_sound(g, blocks, 3, 64)); /* one block is both free and in use */
  *(uint64_t *)segment_at(g, blocks[2]) = blocks[3];
  assert_false(is_sound(g, blocks, 2, 64)); /* the free list is a ring */
  chalk_segment_close(g);
}

/*
 * A process may be killed while it takes and frees blocks. Each block is then free, in use or lost, and no two overlap.
 */
static void test_a_kill_while_taking_and_freeing_leaves_a_sound_heap(void **state) {
  (void)state;
  enum { KILLS = 50, OWN = 8, SIZE = 100 };
  chalk_segment *g = open_segment(NULL);
  uint64_t own[OWN];
  for (int i = 0; i < OWN; i++) own[i] = heap_take(g, SIZE);
  for (int round = 0; round < KILLS; round++) {
    pid_t pid = fork_child();
    if (pid == 0) {
      for (uint64_t i = 0;; i++) heap_give(g, heap_take(g, 1 + i % 500), 1 + i % 500);
    }
    uint64_t before = info_of(g).memory;
    double end = chalk_now() + 0.002 * random_unit();
    while (chalk_now() < end) {
    }
    kill_child(pid);
    for (int i = 0; i < OWN; i++) {
      heap_give(g, own[i], SIZE);
      own[i] = heap_take(g, SIZE);
      assert_true(own[i] != 0);
    }
    assert_true(is_sound(g, own, OWN, SIZE));
    assert_true(info_of(g).memory >= before);
  }
  assert_true(info_of(g).memory < 16 << 20);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_freed_blocks_are_reused_and_zeroed),
      cmocka_unit_test(test_a_block_serves_its_size_class),
      cmocka_unit_test(test_whole_cache_lines_begin_with_a_line),
      cmocka_unit_test(test_a_full_heap_refuses_and_recovers),
      cmocka_unit_test(test_an_offset_that_is_no_block_is_not_freed),
      cmocka_unit_test(test_a_free_list_that_leads_out_of_the_heap_is_abandoned),
      cmocka_unit_test(test_a_ledger_finds_damage),
      cmocka_unit_test(test_a_kill_while_taking_and_freeing_leaves_a_sound_heap),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
