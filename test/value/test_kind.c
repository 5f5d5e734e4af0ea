/*
 * What is lost when these fail: a metric of one kind is recorded, read or sent as another kind, or a damaged number of
 * a kind leads out of the table.
 */
#include "common.h"

#include "value/kind.h"

static void test_each_kind_has_a_name_and_a_content(void **state) {
  (void)state;
  for (uint32_t i = CHALK_COUNT; i <= KIND_MOST; i++) {
    assert_true(kind_is_known(i));
    assert_true(KIND_MASK >> i & 1);
    assert_int_not_equal(kind_of(i)->holds, KIND_NOTHING);
    assert_true(strlen(kind_of(i)->name) > 0);
    for (uint32_t j = CHALK_COUNT; j < i; j++) assert_string_not_equal(kind_of(i)->name, kind_of(j)->name);
  }
  assert_string_equal(kind_of(CHALK_COUNT)->name, "count");
  assert_string_equal(kind_of(CHALK_GAUGE)->name, "gauge");
  assert_string_equal(kind_of(CHALK_HISTOGRAM)->name, "histogram");
}

static void test_a_number_that_is_no_kind_is_harmless(void **state) {
  (void)state;
  static const uint32_t numbers[] = {0, KIND_MOST + 1, 255, UINT32_MAX};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    uint32_t n = numbers[i];
    assert_false(kind_is_known(n));
    assert_false(kind_has_total(n) || kind_has_value(n) || kind_has_histogram(n));
    assert_string_equal(kind_of(n)->name, "");
    if (n < 31) assert_false(KIND_MASK >> n & 1);
  }
}

static void test_only_gauges_have_a_value_for_each_vm(void **state) {
  (void)state;
  for (uint32_t kind = 0; kind <= KIND_MOST + 1; kind++) {
    for (uint32_t across = CHALK_LAST; across <= CHALK_MAX; across++) {
      metric m = {.kind = kind, .across = across};
      assert_int_equal(kind_is_split(&m), kind == CHALK_GAUGE && across != CHALK_LAST);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_each_kind_has_a_name_and_a_content),
      cmocka_unit_test(test_a_number_that_is_no_kind_is_harmless),
      cmocka_unit_test(test_only_gauges_have_a_value_for_each_vm),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
