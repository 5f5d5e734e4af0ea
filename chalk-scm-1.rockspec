rockspec_format = "3.0"
package = "chalk"
version = "scm-1"
source = {
  -- `luarocks make` builds the checkout it stands in.
  url = "git+file://.",
}
description = {
  summary = "Metrics for LuaJIT with a C core",
  detailed = "Typed metrics declared in metrics.json, recorded at the cost of a memory write, and exported to Prometheus.",
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
-- The command finds its modules itself, and names its interpreter: a wrapper would run it with any Lua 5.1.
deploy = { wrap_bin_scripts = false }
