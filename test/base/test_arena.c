/* What is lost when these fail: pieces of a snapshot overlap, so a scrape shows one series' name with another's number; or
   memory that a large scrape took stays with the process for ever, or each
   flush pays page faults for its memory. */

#include "common.h"

#include <sys/resource.h>

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

enum { PIECE = 240 };

/* Takes n pieces filled with `byte`. */
static void fill(arena *a, char **pieces, int n, char byte) {
  for (int i = 0; i < n; i++) {
    pieces[i] = arena_take(a, PIECE);
    assert_non_null(pieces[i]);
    assert_int_equal((uintptr_t)pieces[i] % _Alignof(max_align_t), 0);
    memset(pieces[i], byte, PIECE);
  }
}

static void assert_filled(char **pieces, int n, char byte) {
  for (int i = 0; i < n; i++) {
    for (int j = 0; j < PIECE; j++) assert_int_equal(pieces[i][j], byte);
  }
}

static void pieces_are_apart(void **state) {
  (void)state;
  enum { N = 20000 }; /* some megabytes: blocks of every size */
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

static void a_piece_larger_than_the_kept_block(void **state) {
  (void)state;
  arena a = {0};
  memset(arena_take(&a, 100), 1, 100);
  arena_free(&a);
  size_t size = 3 * 1024 * 1024;
  char *piece = arena_take(&a, size);
  assert_non_null(piece);
  memset(piece, 1, size);
  arena_free(&a);
}

static long faults(void) {
  struct rusage usage;
  assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
  return usage.ru_minflt;
}

static void arenas_of_one_size_take_no_faults(void **state) {
  (void)state;
  enum { N = 350, ROUNDS = 200, MOST = 100 };
  static char *pieces[N];
  long before = 0;
  for (int round = 0; round < ROUNDS; round++) {
    if (round == 5) before = faults();
    arena a = {0};
    fill(&a, pieces, N, 'a');
    arena_free(&a);
  }
  long taken = faults() - before;
  if (taken > MOST) fail_msg("%ld faults", taken);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_pieces_are_apart_and_aligned),
      cmocka_unit_test(test_bulk_memory_is_zeroed),
      cmocka_unit_test(pieces_are_apart),
      cmocka_unit_test(a_piece_larger_than_the_kept_block),
      cmocka_unit_test(arenas_of_one_size_take_no_faults),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
