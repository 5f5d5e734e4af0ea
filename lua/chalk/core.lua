-- The FFI binding: the only file that says ffi.load. Declarations exist once, in chalk.h; what stands there between
-- the two marker lines is loaded as it is, but that an array marked /*?*/ becomes variable-length. They are loaded
-- once a VM: a struct cannot be declared twice, and modules may be reloaded.

local ffi = require "ffi"

local M = { ffi = ffi }

local ABI = 4

---@param path string
---@return string?
local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "*a"
  file:close()
  return text
end

-- chalk.h stands beside this file where it is installed, and in src/ in a checkout.
local function header()
  local here = debug.getinfo(1, "S").source:match "^@(.*)core%.lua$" or ""
  local text = read(here .. "chalk.h") or read(here .. "../../src/chalk.h")
  if text then return text end
  local installed = package.searchpath and package.searchpath("chalk.chalk", (package.path:gsub("%.lua", ".h")))
  text = installed and read(installed)
  return text or error("chalk.h was not found beside " .. here .. "core.lua", 0)
end

local function declarations() return header():match "/%* ffi: begin %*/(.-)/%* ffi: end %*/" end

local function declare()
  if pcall(ffi.typeof, "chalk_series") then return end
  ffi.cdef((declarations():gsub("/%*%?%*/", "?")))
end

-- The places to look: $CHALK_LIBRARY, package.cpath, the system's loader. The flush thread's VM is told which library
-- the VM that started it has.
local function load()
  local told, path_told = pcall(require, "chalk.library")
  local named = told and path_told or os.getenv "CHALK_LIBRARY"
  if named and named ~= "" then return ffi.load(named), named end
  local path = package.searchpath and package.searchpath("libchalk", package.cpath)
  if path then return ffi.load(path), path end
  local ok, library = pcall(ffi.load, "chalk")
  if ok then return library, "chalk" end
  error("libchalk.so was not found: not in $CHALK_LIBRARY, on package.cpath or by the system's loader", 0)
end

declare()
M.C, M.path = load()

if M.C.chalk_abi() ~= ABI then
  error("restart needed: libchalk.so in this process belongs to another version of chalk", 0)
end

-- Looks every function up, which the FFI does once: when the VM is closed the library's own finalizer comes before
-- those of objects that are older, and nothing is found any more after it. What was found stays good, for the library
-- stays in memory.
local function look_up()
  for name in declarations():gsub("/%*.-%*/", ""):gmatch "[%s*](chalk_[%w_]+)%(" do
    local _ = M.C[name]
  end
end

pcall(look_up) -- where the files have been replaced meanwhile, functions are found when they are called

--- Seconds on a clock that never goes back, from an arbitrary start.
---@type fun(): number
M.now = M.C.chalk_now

--- The texts of a list as an array of pointers, which are good as long as the texts are kept.
---@param list string[]
---@return ffi.cdata*
function M.strings(list) return ffi.new("const char *[?]", math.max(#list, 1), list) end

M.message = ffi.new("char[?]", M.C.CHALK_MESSAGE)

--- The message that the last failing call wrote.
---@return string
function M.said() return ffi.string(M.message) end

--- Keeps `value` alive, and calls `close` when the VM is closed or nobody refers to the result any more.
---@param close fun()
---@return userdata
function M.finalizer(close)
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = close
  return proxy
end

return M
