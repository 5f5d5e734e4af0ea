-- Loads the library libchalk.so through the FFI. No other module does.
--
-- The declarations exist once, in chalk.h. The text between its two marker lines is given to the FFI as it is, except
-- that an array marked /*?*/ becomes one of variable length. This happens once in a VM, because a struct cannot be
-- declared twice, and modules may be loaded again.

local ffi = require "ffi"

local M = { ffi = ffi }

local ABI = 4

-- The content of a file; nil when it cannot be opened.
---@param path string
---@return string?
local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "*a"
  file:close()
  return text
end

-- The text of chalk.h. It is beside this file after an installation, and in src/ in a checkout. A package may install
-- it elsewhere on package.path, as chalk/chalk.h.
local function header()
  local here = debug.getinfo(1, "S").source:match "^@(.*)core%.lua$" or ""
  local text = read(here .. "chalk.h") or read(here .. "../../src/chalk.h")
  if text then return text end
  local installed = package.searchpath and package.searchpath("chalk.chalk", (package.path:gsub("%.lua", ".h")))
  text = installed and read(installed)
  return text or error(("chalk: chalk.h was not found: install it beside %score.lua"):format(here), 0)
end

local function declarations() return header():match "/%* ffi: begin %*/(.-)/%* ffi: end %*/" end

local function declare()
  if pcall(ffi.typeof, "chalk_series") then return end
  ffi.cdef((declarations():gsub("/%*%?%*/", "?")))
end

-- Returns the library and its path or name. The library is looked for at $CHALK_LIBRARY, then on package.cpath, then by
-- the system's loader. The flush thread's VM has a module `chalk.library`, which returns the path of the library in the
-- VM that started it.
local function load()
  local is_given, given = pcall(require, "chalk.library")
  local named = is_given and given or os.getenv "CHALK_LIBRARY"
  if named and named ~= "" then return ffi.load(named), named end
  local path = package.searchpath and package.searchpath("libchalk", package.cpath)
  if path then return ffi.load(path), path end
  local ok, library = pcall(ffi.load, "chalk")
  if ok then return library, "chalk" end
  error(
    "chalk: libchalk.so was not found: set CHALK_LIBRARY to its path, or put it on package.cpath or where the system's "
      .. "loader finds it",
    0
  )
end

declare()
M.C, M.path = load()

if M.C.chalk_abi() ~= ABI then
  error("chalk: restart needed: libchalk.so in this process belongs to another version of chalk", 0)
end

-- Resolves every function of the library. When a VM is closed, the library's finalizer runs before those of older
-- objects, and from then on the FFI resolves nothing. A function that was resolved before stays valid, because the
-- library stays in memory.
local function resolve_all()
  for name in declarations():gsub("/%*.-%*/", ""):gmatch "[%s*](chalk_[%w_]+)%(" do
    local _ = M.C[name]
  end
end

pcall(resolve_all) -- fails if chalk.h was replaced by another version; functions are then resolved when they are called

--- Seconds on a clock that never goes back, since an arbitrary moment.
---@type fun(): number
M.now = M.C.chalk_now

--- Makes an array of pointers to strings. It is valid as long as the list keeps the strings.
---@param list string[]
---@return ffi.cdata*
function M.strings(list) return ffi.new("const char *[?]", math.max(#list, 1), list) end

--- The buffer for the messages of calls that take one.
M.message = ffi.new("char[?]", M.C.CHALK_MESSAGE)

--- The message in the buffer: that of the last call that failed.
---@return string
function M.said() return ffi.string(M.message) end

--- Makes an object whose finalizer is `close`: it runs when the object is collected or the VM is closed.
---@param close fun()
---@return userdata
function M.finalizer(close)
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = close
  return proxy
end

return M
