--- Loads the application's modules to find out which functions they instrument.
--
-- The modules are loaded as the application loads them, except for what only a running service should do. chalk.init
-- neither listens nor exports, printed text goes to standard error, os.exit is an error, and `arg` is empty, because
-- the words and the name of this command are not the application's.

local failure = require "chalk.cli.failure"
local files = require "chalk.cli.files"

local M = {}

local function search_in(folders)
  local patterns = {}
  for _, folder in ipairs(folders) do
    folder = folder:gsub("(.)/+$", "%1")
    patterns[#patterns + 1] = folder .. "/?.lua"
    patterns[#patterns + 1] = folder .. "/?/init.lua"
  end
  patterns[#patterns + 1] = package.path
  package.path = table.concat(patterns, ";")
end

local function silence_chalk()
  local chalk = require "chalk"
  chalk.init = function() end
  chalk.try_init = function() return true end
end

local function to_stderr(...)
  local words = {}
  for i = 1, select("#", ...) do
    words[i] = tostring((select(i, ...)))
  end
  io.stderr:write(table.concat(words, "\t"), "\n")
end

-- Calls f with os.exit, print and the default output replaced.
local function restrained(f, ...)
  local exit, output, printer = os.exit, io.output(), print
  os.exit = function() error("os.exit must not be called while a module is loaded", 2) end -- luacheck: ignore 122
  print = to_stderr -- luacheck: ignore 121
  io.output(io.stderr)
  local ok, problem = pcall(f, ...)
  os.exit, print = exit, printer -- luacheck: ignore 121 122
  io.output(output)
  return ok, problem
end

-- Returns a short message in place of "module 'x' not found:" and the list of all paths that follows it.
local function readable(name, problem)
  local message = tostring(problem)
  local missing = message:match "^module '([^\n]-)' not found:"
  if missing ~= name then return message end
  local stem = name:match "([^/]+)%.lua$"
  return stem and ('not found: name the module without ".lua", as in --require %s'):format(stem)
    or "not found: name the directory to look in by -I DIR"
end

--- Loads modules, or ends the command.
---@param names string[]
---@param folders string[] searched before package.path
---@return table auto the module chalk.autometrics, which lists the functions that they instrumented
function M.load(names, folders)
  search_in(folders)
  silence_chalk()
  _G.arg = {}
  for _, name in ipairs(names) do
    local ok, problem = restrained(require, name)
    if not ok then failure.fail("cannot load module %s: %s", name, readable(name, problem)) end
  end
  return require "chalk.autometrics"
end

--- Returns the set of files that were loaded as modules, by real path.
---@return table<string, boolean>
function M.loaded_files()
  local found = {}
  for name in pairs(package.loaded) do
    local path = package.searchpath(name, package.path)
    local real = path and files.real(path)
    if real then found[real] = true end
  end
  return found
end

return M
