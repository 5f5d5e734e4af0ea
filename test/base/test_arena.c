/*
 * What is lost when these fail: allocations of a snapshot overlap, so a scrape shows the name of one series with the
 * number of another; memory that a large scrape took stays with the process forever; or each flush pays page faults for
 * its memory.
 */

#include "common.h"

#include <sys/resource.h>

#include "base/arena.h"

static void test_allocations_of_any_size_are_aligned_and_do_not_overlap(void **state) {
  (void)state;
  enum { ALLOCATIONS = 3000 };
  arena a = {0};
  unsigned char *allocations[ALLOCATIONS];
  size_t sizes[ALLOCATIONS];
  for (int i = 0; i < ALLOCATIONS; i++) {
    sizes[i] = i % 500 == 0 ? 200000 : random_bits() % 300;
    allocations[i] = arena_take(&a, sizes[i]);
    assert_non_null(allocations[i]);
    assert_int_equal((uintptr_t)allocations[i] % _Alignof(max_align_t), 0);
    memset(allocations[i], i & 255, sizes[i]);
  }
  for (int i = 0; i < ALLOCATIONS; i++) {
    for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(allocations[i][k], i & 255);
  }
  arena_free(&a);
  assert_null(a.blocks);
  assert_non_null(arena_take(&a, 1)); /* an arena that was freed may be used again */
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

enum { SIZE = 240 };

/* Takes n allocations and fills them with `byte`. */
static void fill(arena *a, char **allocations, int n, char byte) {
  for (int i = 0; i < n; i++) {
    allocations[i] = arena_take(a, SIZE);
    assert_non_null(allocations[i]);
    assert_int_equal((uintptr_t)allocations[i] % _Alignof(max_align_t), 0);
    memset(allocations[i], byte, SIZE);
  }
}

static void assert_filled(char **allocations, int n, char byte) {
  for (int i = 0; i < n; i++) {
    for (int j = 0; j < SIZE; j++) assert_int_equal(allocations[i][j], byte);
  }
}

static void test_allocations_of_two_arenas_do_not_overlap(void **state) {
  (void)state;
  enum { N = 20000 }; /* a few megabytes, so that blocks of every size are taken */
  static char *first[N], *second[N];
  for (int round = 0; round < 3; round++) {
    arena a = {0}, b = {0};
    for (int n = 0; n < N; n += N / 10) {
      fill(&a, first + n, N / 10, 'a');
      fill(&b, second + n, N / 10, 'b');
    }
    assert_filled(first, N, 'a');
    assert_filled(second, N, 'b');
    arena_free(&a);
    arena_free(&b);
  }
}

static void test_an_allocation_larger_than_the_kept_block(void **state) {
  (void)state;
  arena a = {0};
  memset(arena_take(&a, 100), 1, 100);
  arena_free(&a);
  size_t size = 3 * 1024 * 1024;
  char *large = arena_take(&a, size);
  assert_non_null(large);
  memset(large, 1, size);
  arena_free(&a);
}

static long faults(void) {
  struct rusage usage;
  assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
  return usage.ru_minflt;
}

static void test_repeated_arenas_of_one_size_take_no_faults(void **state) {
  (void)state;
  enum { N = 350, ROUNDS = 200, MOST = 100 };
  static char *allocations[N];
  long before = 0;
  for (int round = 0; round < ROUNDS; round++) {
    if (round == 5) before = faults();
    arena a = {0};
    fill(&a, allocations, N, 'a');
    arena_free(&a);
  }
  long taken = faults() - before;
  if (taken > MOST) fail_msg("%ld faults", taken);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_allocations_of_any_size_are_aligned_and_do_not_overlap),
      cmocka_unit_test(test_bulk_memory_is_zeroed),
      cmocka_unit_test(test_allocations_of_two_arenas_do_not_overlap),
      cmocka_unit_test(test_an_allocation_larger_than_the_kept_block),
      cmocka_unit_test(test_repeated_arenas_of_one_size_take_no_faults),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
