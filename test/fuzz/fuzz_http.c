/*
 * What a user loses when this fails: a few bytes that any client sends to the metrics port end the flush thread, or are
 * taken for another request than the client sent.
 */
#include "vm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return vm_run("fuzz_http", data, size); }
