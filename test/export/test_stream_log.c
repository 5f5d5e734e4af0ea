/*
 * What a user loses when these fail: a client of the event stream whose socket takes less than it is given gets half a
 * message, or a message twice; or the memory that a burst needed is never freed.
 */

#include "common.h"

#include "export/stream_log.h"

enum { LONGEST = 5000 };

/* Makes message n: its number, then bytes whose count follows from the number. Returns the size. */
static size_t message_of(uint64_t n, char *out) {
  size_t size = 8 + n * 7919 % (n % 100 == 0 ? LONGEST - 8 : 60);
  memset(out, (int)(n & 0x7f), size);
  memcpy(out, &n, 8);
  return size;
}

/* Reads at most `most` bytes from message `number` on and compares them. Returns how many there were. */
static size_t compare(const stream_log *l, uint64_t number, size_t most) {
  struct iovec slices[2];
  char bytes[2 * LONGEST], expected[3 * LONGEST];
  int n = stream_log_read(l, number, most, slices);
  size_t size = 0, made = 0;
  for (int i = 0; i < n; i++) memcpy(bytes + size, slices[i].iov_base, slices[i].iov_len), size += slices[i].iov_len;
  for (uint64_t m = number; made < size; m++) made += message_of(m, expected + made);
  assert_memory_equal(bytes, expected, size);
  return size;
}

static void test_readers_get_whole_messages(void **state) {
  (void)state;
  enum { MESSAGES = 200000 };
  stream_log l = {.most = 700};
  char message[LONGEST], rest_bytes[LONGEST];
  for (uint64_t n = 0; n < MESSAGES; n++) {
    if (stream_log_is_full(&l)) stream_log_drop(&l, l.first + 1 + random_bits() % 50);
    size_t size = message_of(n, message);
    assert_true(stream_log_add(&l, message, size));
    if (n % 16 || l.first == l.next) continue;
    uint64_t number = l.first + random_bits() % (l.next - l.first);
    size_t most = random_bits() % (2 * LONGEST), rest;
    size_t read = compare(&l, number, most);
    assert_true(read == most || read < most);
    /* A socket took `read` bytes: the rest of the message that was cut, and the next one, continue them. */
    uint64_t next = stream_log_after(&l, number, read, &rest);
    size_t whole = 0;
    for (uint64_t m = number; m < next; m++) whole += message_of(m, message);
    assert_int_equal(whole, read + rest);
    if (rest == 0) continue;
    size_t last = message_of(next - 1, message);
    assert_true(rest < last);
    stream_log_rest(&l, next, rest, rest_bytes);
    assert_memory_equal(rest_bytes, message + last - rest, rest);
  }
  assert_true(l.next == MESSAGES && l.next - l.first <= l.most);
  assert_true(l.capacity <= (uint64_t)4 * 700 * 100);
  stream_log_free(&l);
}

static void test_a_log_without_limit_gives_memory_back(void **state) {
  (void)state;
  enum { MANY = 100000 };
  stream_log l = {.most = UINT64_MAX};
  char message[LONGEST];
  uint64_t n = 0;
  for (int round = 0; round < 3; round++) {
    uint64_t first = n;
    for (int i = 0; i < MANY; i++, n++) assert_true(stream_log_add(&l, message, message_of(n, message)));
    for (uint64_t m = first; m < n; m += 997) compare(&l, m, 1000);
    assert_true(l.capacity > (uint64_t)30 * MANY);
    stream_log_drop(&l, l.next);
    stream_log_trim(&l);
    stream_log_trim(&l); /* nothing was added in between, so this call frees nothing */
    assert_true(l.capacity > (uint64_t)30 * MANY);
    assert_true(stream_log_add(&l, message, message_of(n, message))), n++;
    stream_log_trim(&l);
    compare(&l, n - 1, 1000);
    stream_log_drop(&l, l.next);
    stream_log_trim(&l);
    assert_int_equal(l.capacity, 0);
    assert_int_equal(l.ends_capacity, 0);
  }
  stream_log_free(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_readers_get_whole_messages),
      cmocka_unit_test(test_a_log_without_limit_gives_memory_back),
  };
  alarm(DEADLINE);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
