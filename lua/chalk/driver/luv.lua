-- luv, for drivers that live in the application's VM. lua_close unloads its library before it has finalized handles
-- that the last flush makes, so the library is pinned.

local ffi = require("chalk.core").ffi

local M = {}

local RTLD_LAZY, RTLD_NOLOAD, RTLD_NODELETE = 1, 4, 0x1000

local function pin()
  local path = package.searchpath and package.searchpath("luv", package.cpath)
  if not path then return end
  pcall(ffi.cdef, "void *dlopen(const char *path, int flags);")
  ffi.C.dlopen(path, RTLD_LAZY + RTLD_NOLOAD + RTLD_NODELETE)
end

--- luv, or nil and why it cannot be loaded.
---@return table?, string?
function M.load()
  local ok, uv = pcall(require, "luv")
  if not ok then return nil, tostring(uv) end
  pcall(pin)
  return uv
end

return M
