-- luv, for drivers that live in the application's VM, and for the flush thread's.
--
-- lua_close unloads its library before it has finalized handles that the last flush makes, so the library is pinned.
--
-- luv makes its loop when it is loaded, and keeps the loop even if libuv could not make it: the VM then crashes in the
-- loop's finalizer, or later in a loop that a second `require` takes for whole. libuv itself aborts the process where a
-- pipe for signals cannot be made. So descriptors are counted before, and a loop that was not made is forgotten.

local core = require "chalk.core"

local ffi, C = core.ffi, core.C

local M = {}

local RTLD_LAZY, RTLD_NOLOAD, RTLD_NODELETE = 1, 4, 0x1000

local function pin()
  local path = package.searchpath and package.searchpath("luv", package.cpath)
  if not path then return end
  pcall(ffi.cdef, "void *dlopen(const char *path, int flags);")
  ffi.C.dlopen(path, RTLD_LAZY + RTLD_NOLOAD + RTLD_NODELETE)
end

-- What luv keeps in the registry: the context, which points to the loop, and the metatable that finalizes the loop.
-- Both are made anew when luv is loaded the next time.
local function forget_loop()
  local registry = debug.getregistry()
  local meta = registry["uv_loop.meta"]
  if type(meta) == "table" then meta.__gc = nil end
  registry["uv_loop.meta"], registry.luv_context = nil, nil
  package.loaded.luv = nil -- which marks a module that is being loaded
end

--- Raises what keeps luv from being loaded now, where that may be another time.
function M.need_room()
  if not package.loaded.luv and C.chalk_has_room(core.message) == 0 then error(core.said(), 0) end
end

--- luv, or nil and why it cannot be loaded. Raises where that is for want of descriptors.
---@return table?, string?
function M.load()
  M.need_room()
  local ok, uv = pcall(require, "luv")
  if not ok then
    forget_loop()
    return nil, tostring(uv)
  end
  pcall(pin)
  return uv
end

return M
