/* What is lost when these fail: a machine with pages of 64 KiB (many with arm64 and ppc64) counts its memory wrong. */

#include "common.h"
#include "directory.h"

enum { LARGE_PAGE = 65536 };

/* The core's call for the page size reaches this function instead of that of the C library. */
long sysconf(int name) {
  if (name == _SC_PAGESIZE) return LARGE_PAGE;
  return name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF ? 1 : name == _SC_CLK_TCK ? 100 : -1;
}

static void record_some(chalk_segment *g) {
  chalk_writer *w = open_writer(g);
  int requests = define(w, "requests", CHALK_COUNT, 1, 0);
  for (int i = 0; i < 2000; i++) {
    char tag[8];
    snprintf(tag, sizeof tag, "%d", i);
    chalk_series *s = bind(w, requests, tag);
    assert_true(chalk_add(s, 1) >= CHALK_OK);
    free(s);
  }
  chalk_writer_close(w);
}

static void test_memory_is_counted_in_pages_of_the_machine(void **state) {
  (void)state;
  unlink(path);
  char message[CHALK_MESSAGE] = "";
  chalk_segment *g = open_path(message);
  assert_non_null(g);
  record_some(g);
  assert_int_equal(info_of(g).memory % LARGE_PAGE, 0);
  chalk_segment_close(g);

  /* No process has the segment open any more, so opening it counts the memory again. */
  g = open_path(message);
  assert_non_null(g);
  assert_int_equal(info_of(g).memory % LARGE_PAGE, 0);
  assert_int_equal(total_of(g, 0), 2000);
  chalk_segment_close(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory_is_counted_in_pages_of_the_machine)};
  alarm(DEADLINE);
  return cmocka_run_group_tests_name("pages", tests, directory_make, directory_remove);
}
