/* A LuaJIT VM in a fuzz target: it runs what a driver script returns on each input, and an error is a crash. */
#ifndef FUZZ_VM_H
#define FUZZ_VM_H

#include <stddef.h>
#include <stdint.h>

/* Gives the input to the function that test/fuzz/NAME.lua returns. */
int vm_run(const char *name, const uint8_t *data, size_t size);

#endif
