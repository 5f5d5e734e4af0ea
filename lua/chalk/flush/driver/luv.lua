-- Loads luv safely, in the application's VM or in the flush thread's. Loading luv by `require` alone has three dangers:
--
--   - lua_close unloads luv's library before it finalizes the handles that the last flush makes. So the library is
--     pinned in the process.
--   - luv makes its loop while it is loaded, and keeps the loop even if libuv could not initialize it. The VM then
--     crashes in the loop's finalizer, or later, when a second `require` returns luv with this loop. So a loop that was
--     not initialized is removed from the registry.
--   - libuv aborts the process if it cannot make its pipe for signals. So free descriptors are counted first.

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

-- Removes from the registry the context, which points to the loop, and the metatable that finalizes the loop. luv makes
-- both again when it is loaded the next time.
local function forget_loop()
  local registry = debug.getregistry()
  local meta = registry["uv_loop.meta"]
  if type(meta) == "table" then meta.__gc = nil end
  registry["uv_loop.meta"], registry.luv_context = nil, nil
  package.loaded.luv = nil -- `require` leaves a mark there after an error
end

--- Raises a message if luv is not loaded yet and the process has too few free descriptors to load it now.
function M.need_descriptors()
  if not package.loaded.luv and C.chalk_has_room(core.message) == 0 then error(core.said(), 0) end
end

--- Loads luv. Returns nil and a message if it cannot be loaded. Raises a message if there are too few descriptors.
---@return table?, string?
function M.load()
  M.need_descriptors()
  local ok, uv = pcall(require, "luv")
  if not ok then
    forget_loop()
    return nil, tostring(uv)
  end
  pcall(pin)
  return uv
end

return M
