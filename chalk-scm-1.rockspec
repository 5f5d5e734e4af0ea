rockspec_format = "3.0"
package = "chalk"
version = "scm-1"
source = {
  -- `luarocks make` builds the current checkout and does not use this URL.
  url = "git+file://.",
}
description = {
  summary = "Metrics for LuaJIT, OpenResty and nginx, with a core in C",
  detailed = [[
Counts, gauges and histograms that are declared in metrics.json and kept in shared memory, so that forked processes and
Lua VMs share one total. A record costs a memory write. Exporters for Prometheus, OpenMetrics, StatsD and DogStatsD, and
custom exporters in Lua.]],
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = { "lua >= 5.1, < 5.2", "lua-cjson", "luv" }
build = {
  type = "cmake",
  variables = {
    CMAKE_INSTALL_PREFIX = "$(PREFIX)",
    CHALK_LIB_DIR = "$(LIBDIR)",
    CHALK_LUA_DIR = "$(LUADIR)",
    CHALK_ROCK = "ON",
    CHALK_TESTS = "OFF",
  },
  copy_directories = { "man" },
}
-- bin/chalk finds its modules and names LuaJIT as its interpreter. A LuaRocks wrapper could run it with another Lua 5.1.
deploy = { wrap_bin_scripts = false }
