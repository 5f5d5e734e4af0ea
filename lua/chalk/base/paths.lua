-- Makes the paths by which Lua and the system's loader find modules absolute. A VM that is created later then finds the
-- same modules as this one, even if the program has changed its directory in between.

local core = require "chalk.core"

local ffi = core.ffi

local M = {}

local LONGEST = 4096

pcall(ffi.cdef, 'char *chalk_paths_getcwd(char *path, size_t size) __asm__("getcwd");')

local function directory()
  local path = ffi.new("char[?]", LONGEST)
  return ffi.C.chalk_paths_getcwd(path, LONGEST) ~= nil and ffi.string(path) or nil
end

-- Makes templates of package.path, or one path, absolute. `from` is nil when the current directory was removed; the
-- templates then stay as they are.
local function absolute(templates, from)
  if not from then return templates end
  return (templates:gsub("[^;]+", function(one) return one:sub(1, 1) ~= "/" and from .. "/" .. one or nil end))
end

--- The paths with which another VM finds the modules and the library of this one.
---@return { path: string, cpath: string, library: string }
function M.absolute()
  local from = directory()
  -- The system's loader looks for a library without a directory in its name, so such a name stays as it is.
  local library = core.path:find("/", 1, true) and absolute(core.path, from) or core.path
  return { path = absolute(package.path, from), cpath = absolute(package.cpath, from), library = library }
end

return M
