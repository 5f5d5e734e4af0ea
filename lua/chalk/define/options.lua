-- The options of chalk.init: what each one may be. Everything wrong is said at once.

local kinds = require "chalk.define.kinds"
local lists = require "chalk.base.lists"
local suggest = require "chalk.base.suggest"

local M = {}

local MOST_LES = 64

-- What an option may be is a function of a value: whether the value is that, and the words for what it must be.

local function whole_from(least)
  return function(v) return type(v) == "number" and v >= least and v % 1 == 0, "a whole number from " .. least end
end

---@return fun(v: any): boolean, string
function M.whole_between(low, high)
  return function(v)
    return type(v) == "number" and v >= low and v <= high and v % 1 == 0,
      ("a whole number from %d to %d"):format(low, high)
  end
end

---@return fun(v: any): boolean, string
function M.number_between(low, high)
  return function(v)
    return type(v) == "number" and v >= low and v <= high, ("a number from %g to %g"):format(low, high)
  end
end

---@param name type
---@return fun(v: any): boolean, string
function M.of_type(name, words)
  return function(v) return type(v) == name, words end
end

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

--- Whether v is a list of `le` bounds.
---@return boolean, string words
function M.is_buckets(v)
  local words = ("a list of 1 to %d finite numbers, each above the one before"):format(MOST_LES)
  if type(v) ~= "table" or #v == 0 or #v > MOST_LES then return false, words end
  for i, bound in ipairs(v) do
    if type(bound) ~= "number" or bound - bound ~= 0 or (i > 1 and v[i - 1] >= bound) then return false, words end
  end
  return true, words
end

local function is_idle(v)
  local words = "a number of seconds above 0, or a table of them by " .. table.concat(kinds.names, ", ")
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

--- Whether v can be the tags of everything. A format that has no - . and / in names writes them as _, so no two names
--- may be the same then.
---@return boolean, string words
function M.is_tags(v)
  local words = "a table from names of letters, digits, _ - . and / to strings, numbers or booleans"
  if type(v) ~= "table" then return false, words end
  local seen = {}
  for name, value in pairs(v) do
    local label = type(name) == "string" and name:find "^[%a_][%w_./-]*$" and name:gsub("[./-]", "_")
    if not label or not SCALARS[type(value)] then return false, words end
    if seen[label] then return false, ("%s: %s and %s are one in some formats"):format(words, seen[label], name) end
    seen[label] = name
  end
  return true, words
end

-- What is in it is looked at one by one elsewhere. An exporter alone is none, nor one under a name.
local function is_list_of_exporters(v)
  local words = "a list of exporters: { chalk.exporter.NAME{ ... }, ... }"
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
  max_buckets = function(v) return type(v) == "number" and v >= 8 and v <= 8192 and v % 1 == 0, "from 8 to 8192" end,
  initial_error = M.number_between(0.0001, 0.5),
  buckets = M.is_buckets,
  global_tags = M.is_tags,
  idle_timeout = is_idle,
  max_series = M.whole_between(1, 8000000),
  strict = M.of_type("boolean", "true or false"),
  enabled = M.of_type("boolean", "true or false"),
  on_error = M.of_type("function", "a function"),
  memory_limit = whole_from(4 * 1024 * 1024),
  segment_path = M.of_type("string", "a path"),
  segment_group = M.of_type("boolean", "true or false"),
  clock = M.of_type("function", "a function"),
}

-- Options that other libraries have, with what takes their place here.
local REPLACED = {
  worker_threads = 'there is one flush thread, with driver = "thread", and none with "loop" and "manual"',
}

local function unknown(name, checks, replaced)
  if replaced[name] then return ("unknown option %s: %s"):format(name, replaced[name]) end
  local hint = type(name) == "string" and suggest(name, lists.names(checks))
  return ("unknown option %s%s"):format(tostring(name), hint and ", " .. hint or "")
end

--- Everything that is wrong with a table of options, sorted.
---@param options table
---@param checks table<string, fun(v: any): boolean, string> what each may be
---@param replaced table<string, string>? words for options that are none
---@return string[]
function M.problems(options, checks, replaced)
  local problems = {}
  for name, value in pairs(options) do
    local check = checks[name]
    if not check then
      problems[#problems + 1] = unknown(name, checks, replaced or {})
    else
      local ok, words = check(value)
      if not ok then problems[#problems + 1] = ("%s must be %s"):format(name, words) end
    end
  end
  table.sort(problems)
  return problems
end

--- What is wrong with these options; nil when nothing is.
---@param options table
---@return string?
function M.check(options)
  if type(options) ~= "table" then return "options are a table" end
  local problems = M.problems(options, CHECKS, REPLACED)
  return problems[1] and table.concat(problems, "; ") or nil
end

return M
