-- Checks the options of chalk.init, and has the checks that exporters and other modules use for their own options. All
-- problems of a table of options are reported together.
--
-- A check is a function of a value. It returns whether the value is allowed, and words for what the option must be; the
-- functions here make checks.

local definition = require "chalk.define.definition"
local kinds = require "chalk.define.kinds"
local lists = require "chalk.base.lists"
local shown = require "chalk.base.shown"
local suggest = require "chalk.base.suggest"

local M = {}

local function bytes_from(least)
  local words = ("a whole number of bytes, at least %d"):format(least)
  return function(v) return type(v) == "number" and v >= least and v % 1 == 0, words end
end

--- A check for a whole number in a range, both ends included.
---@param low integer
---@param high integer
---@return fun(v: any): boolean, string
function M.whole_between(low, high)
  return function(v)
    return type(v) == "number" and v >= low and v <= high and v % 1 == 0,
      ("a whole number from %d to %d"):format(low, high)
  end
end

--- A check for a number in a range, both ends included.
---@param low number
---@param high number
---@return fun(v: any): boolean, string
function M.number_between(low, high)
  return function(v)
    return type(v) == "number" and v >= low and v <= high, ("a number from %g to %g"):format(low, high)
  end
end

--- A check for a value of a Lua type.
---@param name type
---@param words string what the option must be
---@return fun(v: any): boolean, string
function M.of_type(name, words)
  return function(v) return type(v) == name, words end
end

--- A check for one of several values.
---@param ... string
---@return fun(v: any): boolean, string
function M.one_of(...)
  local allowed = { ... }
  return function(v)
    for _, a in ipairs(allowed) do
      if v == a then return true end
    end
    return false, "one of " .. table.concat(allowed, ", ")
  end
end

--- The check for a list of bounds.
---@param v any
---@return boolean, string
function M.is_buckets(v)
  local words = ("a list of 1 to %d finite numbers, each above the one before"):format(definition.MAX_BUCKETS)
  if type(v) ~= "table" or #v == 0 or #v > definition.MAX_BUCKETS then return false, words end
  for i, bound in ipairs(v) do
    if type(bound) ~= "number" or bound - bound ~= 0 or (i > 1 and v[i - 1] >= bound) then return false, words end
  end
  return true, words
end

local function is_idle(v)
  local words = "a number of seconds above 0, or a table of such numbers for " .. table.concat(kinds.names, ", ")
  if type(v) == "number" then return v > 0, words end
  if type(v) ~= "table" then return false, words end
  for kind, seconds in pairs(v) do
    if not kinds.of[kind] or type(seconds) ~= "number" or seconds ~= seconds or seconds <= 0 then
      return false, words
    end
  end
  return true, words
end

local SCALARS = { string = true, number = true, boolean = true }

--- The check for `global_tags`. Formats that have no - . and / in names write them as _, so no two names may be equal
--- after that.
---@param v any
---@return boolean, string
function M.is_tags(v)
  local words = "a table from names of letters, digits, _ - . and / to strings, numbers or booleans"
  if type(v) ~= "table" then return false, words end
  local seen = {}
  for name, value in pairs(v) do
    local label = type(name) == "string" and name:find "^[%a_][%w_./-]*$" and name:gsub("[./-]", "_")
    if not label or not SCALARS[type(value)] then return false, words end
    if seen[label] then
      return false, ("%s; %s and %s have one name in some formats"):format(words, seen[label], name)
    end
    seen[label] = name
  end
  return true, words
end

-- The items are checked by chalk.flush.exporters. An exporter that is not in a list, and a table that has exporters
-- under names, are refused here.
local function is_list_of_exporters(v)
  local words = "a list of exporters, without holes or names: { chalk.exporter.NAME{ ... }, ... }"
  if type(v) ~= "table" then return false, words end
  local items = 0
  for _ in pairs(v) do
    items = items + 1
  end
  return items == #v, words
end

local CHECKS = {
  exporters = is_list_of_exporters,
  flush_interval = M.number_between(0.01, 86400),
  driver = M.one_of("thread", "loop", "manual"),
  max_buckets = M.whole_between(8, 8192),
  initial_error = M.number_between(0.0001, 0.5),
  buckets = M.is_buckets,
  global_tags = M.is_tags,
  idle_timeout = is_idle,
  max_series = M.whole_between(1, 8000000),
  strict = M.of_type("boolean", "true or false"),
  enabled = M.of_type("boolean", "true or false"),
  on_error = M.of_type("function", "a function"),
  memory_limit = bytes_from(4 * 1024 * 1024),
  segment_path = M.of_type("string", "a path"),
  segment_group = M.of_type("boolean", "true or false"),
  clock = M.of_type("function", "a function"),
}

-- Options of other libraries, with what chalk has in their place.
local REPLACED = {
  worker_threads = 'there is one flush thread, with driver = "thread", and none with "loop" and "manual"',
}

local function unknown(name, checks, replaced)
  if replaced[name] then return ("unknown option %s: %s"):format(name, replaced[name]) end
  local hint = type(name) == "string" and suggest(name, lists.names(checks))
  return ("unknown option %s%s"):format(tostring(name), hint and ", " .. hint or "")
end

-- The end of a message: what was given. Words about a table, or that show the string already, say more than this would.
local function given(value, words)
  local text = shown(value)
  local is_said = type(value) == "table" or type(value) == "string" and words:find(text, 1, true)
  return is_said and "" or ", got " .. text
end

--- Checks a table of options.
---@param options table
---@param checks table<string, fun(v: any): boolean, string> by the name of the option
---@param replaced table<string, string>? words about options that do not exist
---@return string[] problems sorted; empty when all options are allowed
function M.problems(options, checks, replaced)
  local problems = {}
  for name, value in pairs(options) do
    local check = checks[name]
    if not check then
      problems[#problems + 1] = unknown(name, checks, replaced or {})
    else
      local ok, words = check(value)
      if not ok then problems[#problems + 1] = ("%s must be %s%s"):format(name, words, given(value, words)) end
    end
  end
  table.sort(problems)
  return problems
end

--- Checks the options of chalk.init.
---@param options table
---@return string? problem all problems in one line; nil when there are none
function M.check(options)
  if type(options) ~= "table" then return "options must be a table, got " .. shown(options) end
  local problems = M.problems(options, CHECKS, REPLACED)
  return problems[1] and table.concat(problems, "; ") or nil
end

return M
