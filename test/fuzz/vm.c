/*
 * libFuzzer cannot see which Lua code runs. So a line hook counts each line that runs in a table, which libFuzzer reads
 * like its own counters.
 *
 * The hook is expensive. Therefore one of EVERY executions has it, and the others run as fast as in production. Inputs
 * with new lines are found among the executions with the hook, and libFuzzer mutates these inputs for all executions.
 * With CHALK_FUZZ_TRACE set, every execution has the hook; merging a corpus needs that.
 */
#include "vm.h"

#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>
#include <lualib.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { COUNTERS = 1 << 14, EVERY = 16, COLLECT = 4096 };

__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t counters[COUNTERS];

static void on_line(lua_State *l, lua_Debug *at) {
  lua_getinfo(l, "S", at);
  uintptr_t i = ((uintptr_t)at->source >> 3) * 31 + (uintptr_t)at->currentline;
  uint8_t *counter = &counters[i % COUNTERS];
  if (*counter < UINT8_MAX) ++*counter;
}

static void die(lua_State *l) {
  fprintf(stderr, "error in the VM: %s\n", lua_tostring(l, -1));
  abort();
}

/* Leaves the Lua file's function at stack index 1 and debug.traceback at 2. */
static lua_State *open_vm(const char *name) {
  lua_State *l = luaL_newstate();
  if (!l) abort();
  luaL_openlibs(l);
  lua_getglobal(l, "package");
  lua_pushliteral(l, CHALK_FUZZ_SOURCE "/lua/?.lua;" CHALK_FUZZ_SOURCE "/test/fuzz/?.lua;");
  lua_getfield(l, -2, "path");
  lua_concat(l, 2);
  lua_setfield(l, -2, "path");
  lua_settop(l, 0);
  lua_getglobal(l, "require");
  lua_pushstring(l, name);
  if (lua_pcall(l, 1, 1, 0) != 0) die(l);
  lua_getglobal(l, "debug");
  lua_getfield(l, -1, "traceback");
  lua_remove(l, 2);
  return l;
}

int vm_run(const char *name, const uint8_t *data, size_t size) {
  static lua_State *l;
  static unsigned executions;
  static bool always;
  if (!l) {
    l = open_vm(name);
    always = getenv("CHALK_FUZZ_TRACE") != NULL;
  }
  bool traced = always || executions % EVERY == 0;
  if (traced) {
    luaJIT_setmode(l, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
    lua_sethook(l, on_line, LUA_MASKLINE, 0);
  }
  lua_pushvalue(l, 1);
  lua_pushlstring(l, (const char *)data, size);
  if (lua_pcall(l, 1, 0, 2) != 0) die(l);
  if (traced && !always) {
    lua_sethook(l, NULL, 0, 0);
    luaJIT_setmode(l, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_ON);
  }
  if (++executions % COLLECT == 0) lua_gc(l, LUA_GCCOLLECT, 0);
  return 0;
}
