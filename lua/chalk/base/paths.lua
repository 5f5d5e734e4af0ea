-- The paths by which Lua and the system's loader find modules, made absolute: a VM that is made later finds what this
-- one does, also when the program has changed its directory.

local core = require "chalk.core"

local ffi = core.ffi

local M = {}

local LONGEST = 4096

pcall(ffi.cdef, 'char *chalk_paths_getcwd(char *path, size_t size) __asm__("getcwd");')

local function directory()
  local path = ffi.new("char[?]", LONGEST)
  return ffi.C.chalk_paths_getcwd(path, LONGEST) ~= nil and ffi.string(path) or nil
end

-- Templates of package.path, or one path. A directory that was removed leaves them as they are.
local function absolute(templates, from)
  if not from then return templates end
  return (templates:gsub("[^;]+", function(one) return one:sub(1, 1) ~= "/" and from .. "/" .. one or nil end))
end

--- What a VM is given to find the modules and the library of this one.
---@return { path: string, cpath: string, library: string }
function M.absolute()
  local from = directory()
  -- A library that is named without a directory is looked for where the system keeps them.
  local library = core.path:find("/", 1, true) and absolute(core.path, from) or core.path
  return { path = absolute(package.path, from), cpath = absolute(package.cpath, from), library = library }
end

return M
