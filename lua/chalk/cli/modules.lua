--- Loads the application's modules, to see what they instrument.
--
-- They are loaded as the application loads them, but for what only a running service should do: chalk.init neither
-- listens nor exports, what is printed goes to standard error, os.exit is an error, and `arg` is empty: the command's
-- own words are not the application's, nor is its name.

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

-- Calls f while what the modules must not do is held back.
local function restrained(f, ...)
  local exit, output, printer = os.exit, io.output(), print
  os.exit = function() error("it calls os.exit while it is loaded", 2) end -- luacheck: ignore 122
  print = to_stderr -- luacheck: ignore 121
  io.output(io.stderr)
  local ok, problem = pcall(f, ...)
  os.exit, print = exit, printer -- luacheck: ignore 121 122
  io.output(output)
  return ok, problem
end

-- The lines of "module 'x' not found:" that list where it was looked for are of no use to most; the first says it.
local function readable(name, problem)
  local message = tostring(problem)
  local missing = message:match "^module '([^\n]-)' not found:"
  if missing ~= name then return message end
  local stem = name:match "([^/]+)%.lua$"
  return stem and ('there is none; modules are named without ".lua": --require %s'):format(stem)
    or "it was not found; -I DIR names a directory to look in"
end

--- Loads modules.
---@param names string[]
---@param folders string[] where to look first
---@return table auto the module chalk.autometrics, which knows what they instrumented
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

--- The files that were loaded as modules, by real path.
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
