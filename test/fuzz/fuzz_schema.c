/*
 * What a user loses when this fails: a mistyped metrics.json ends the application, instead of being refused with a list
 * of errors.
 */
#include "vm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return vm_run("fuzz_schema", data, size); }
