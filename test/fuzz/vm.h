/*
 * A LuaJIT VM in a fuzz target. It calls a function of a Lua file with each input. An error in that function is a crash
 * for libFuzzer.
 */
#ifndef FUZZ_VM_H
#define FUZZ_VM_H

#include <stddef.h>
#include <stdint.h>

/* Calls the function that test/fuzz/NAME.lua returns with the input. Returns 0. */
int vm_run(const char *name, const uint8_t *data, size_t size);

#endif
