/*
 * What is lost when these fail: two modules of one nginx run with different options, or a reload continues with the
 * options of the configuration before it.
 */
#include "common.h"

static void test_members_share_one_text(void **state) {
  (void)state;
  chalk_agreement *one = chalk_agreement_join("chalk", 1), *two = chalk_agreement_join("chalk", 1);
  assert_null(chalk_agreement_text(one));
  assert_int_equal(chalk_agreement_put(one, "a"), CHALK_OK);
  assert_string_equal(chalk_agreement_text(two), "a");
  assert_int_equal(chalk_agreement_put(two, "b"), CHALK_OK);
  assert_string_equal(chalk_agreement_text(one), "b");
  chalk_agreement_leave(one);
  assert_string_equal(chalk_agreement_text(two), "b");
  chalk_agreement_leave(two);
}

static void test_the_text_ends_with_the_last_member(void **state) {
  (void)state;
  chalk_agreement *refused = chalk_agreement_join("chalk", 1);
  chalk_agreement_put(refused, "wrong");
  chalk_agreement_leave(refused);
  chalk_agreement *next = chalk_agreement_join("chalk", 1);
  assert_null(chalk_agreement_text(next));
  chalk_agreement_leave(next);
}

static void test_each_cycle_and_client_has_its_own_text(void **state) {
  (void)state;
  chalk_agreement *old = chalk_agreement_join("chalk", 1), *new = chalk_agreement_join("chalk", 2);
  chalk_agreement *other = chalk_agreement_join("other", 1);
  chalk_agreement_put(old, "old");
  assert_null(chalk_agreement_text(new));
  assert_null(chalk_agreement_text(other));
  chalk_agreement_leave(new);
  assert_string_equal(chalk_agreement_text(old), "old");
  chalk_agreement_leave(old);
  chalk_agreement_leave(other);
}

static void test_a_forked_child_does_not_change_the_text_of_its_parent(void **state) {
  (void)state;
  chalk_agreement *mine = chalk_agreement_join("chalk", 1);
  chalk_agreement_put(mine, "before");
  pid_t pid = fork_child();
  if (pid == 0) {
    bool found = strcmp(chalk_agreement_text(mine), "before") == 0;
    chalk_agreement_put(mine, "child's");
    _exit(found ? 0 : 1);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  assert_string_equal(chalk_agreement_text(mine), "before");
  chalk_agreement_leave(mine);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_members_share_one_text),
      cmocka_unit_test(test_the_text_ends_with_the_last_member),
      cmocka_unit_test(test_each_cycle_and_client_has_its_own_text),
      cmocka_unit_test(test_a_forked_child_does_not_change_the_text_of_its_parent),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
