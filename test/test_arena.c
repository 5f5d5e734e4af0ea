/* What is lost when these fail: two readers write over each other's copies, or each flush pays faults for its memory. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "base/arena.h"

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
      cmocka_unit_test(pieces_are_apart),
      cmocka_unit_test(a_piece_larger_than_the_kept_block),
      cmocka_unit_test(arenas_of_one_size_take_no_faults),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
