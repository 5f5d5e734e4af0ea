/* What is lost when these fail: pieces of a snapshot overlap, so a scrape shows one series' name with another's number; or
   memory that a large scrape took stays with the process for ever. */

#include "common.h"

#include "base/arena.h"

static void test_pieces_are_apart_and_aligned(void **state) {
  (void)state;
  enum { PIECES = 3000 };
  arena a = {0};
  unsigned char *pieces[PIECES];
  size_t sizes[PIECES];
  for (int i = 0; i < PIECES; i++) {
    sizes[i] = i % 500 == 0 ? 200000 : random_bits() % 300;
    pieces[i] = arena_take(&a, sizes[i]);
    assert_non_null(pieces[i]);
    assert_int_equal((uintptr_t)pieces[i] % _Alignof(max_align_t), 0);
    memset(pieces[i], i & 255, sizes[i]);
  }
  for (int i = 0; i < PIECES; i++) {
    for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(pieces[i][k], i & 255);
  }
  arena_free(&a);
  assert_null(a.blocks);
  assert_non_null(arena_take(&a, 1)); /* it is as good as a new one */
  arena_free(&a);
  arena_free(&a);
}

static void test_bulk_memory_is_zeroed(void **state) {
  (void)state;
  static const size_t sizes[] = {1, 4096, 65535, 65536, 1 << 20};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    for (int round = 0; round < 3; round++) {
      unsigned char *p = bulk_take(sizes[i]);
      assert_non_null(p);
      for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(p[k], 0);
      memset(p, 0xa5, sizes[i]);
      bulk_free(p, sizes[i]);
    }
    bulk_free(NULL, sizes[i]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_pieces_are_apart_and_aligned),
      cmocka_unit_test(test_bulk_memory_is_zeroed),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
