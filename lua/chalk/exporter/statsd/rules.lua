--- The option `per_metric`: rules for how single metrics are sent. The first rule that matches a metric counts.
--
--     per_metric = {
--       { match = "full", name = "http.request_latency", histograms = "percentiles", quantiles = { 0.5, 0.99 } },
--       { match = "prefix", name = "http.auth.", histograms = "distribution" },
--       { match = "suffix", name = "_bytes", histograms = "buckets", buckets = { 1024, 1048576 } },
--       { match = "^db%.[^.]+%.query_seconds$", histograms = "timing" },
--     }
--
-- A rule is compared with the metric's name after its namespaces, joined with dots, without the exporter's namespace. A
-- `match` that is not "full", "prefix" or "suffix" is a Lua pattern for this name.

local option = require "chalk.define.options"
local suggest = require "chalk.base.suggest"

local M = {}

---@class chalk.statsd.Rule
---@field match string "full", "prefix", "suffix", or a pattern
---@field name string? the name, prefix or suffix; absent with a pattern
---@field histograms string? like all fields below: as the exporter's option of the same name
---@field quantiles number[]?
---@field aggregates string[]?
---@field buckets number[]?
---@field sample_rate number? for the mode raw

local KINDS = { "full", "prefix", "suffix" }

local MATCHERS = {
  full = function(name, wanted) return name == wanted end,
  prefix = function(name, wanted) return name:sub(1, #wanted) == wanted end,
  suffix = function(name, wanted) return wanted == "" or name:sub(-#wanted) == wanted end,
}

-- Skips an escape in a pattern, whose character after % is at `at`. Returns the next position, or nil if the escape is
-- incomplete.
local function after_escape(pattern, at)
  local character = pattern:sub(at, at)
  if character == "b" then return #pattern >= at + 2 and at + 3 or nil end
  if character == "f" and pattern:sub(at + 1, at + 1) ~= "[" then return nil end
  return character ~= "" and at + 1 or nil
end

-- Skips a set in a pattern, after its [. Returns the next position, or nil if the set has no end.
local function after_set(pattern, at)
  if pattern:sub(at, at) == "^" then at = at + 1 end
  repeat -- a ] at the first position is a member of the set
    at = at + (pattern:sub(at, at) == "%" and 2 or 1)
    if at > #pattern then return nil end
  until pattern:sub(at, at) == "]"
  return at + 1
end

-- Whether a text is a valid pattern. Lua itself reports a mistake only when a match reaches it.
local function is_pattern(pattern)
  local at, open = 1, 0
  while at and at <= #pattern do
    local character = pattern:sub(at, at)
    if character == "%" then
      at = after_escape(pattern, at + 1)
    elseif character == "[" then
      at = after_set(pattern, at + 1)
    else
      open = open + (character == "(" and 1 or character == ")" and -1 or 0)
      if open < 0 then return false end
      at = at + 1
    end
  end
  return at ~= nil and open == 0 and pattern ~= ""
end

local function problem_of_match(rule)
  local match, name = rule.match, rule.name
  if MATCHERS[match] then
    return type(name) ~= "string" and ("match = %q needs a name, a string"):format(match) or nil
  elseif name ~= nil then
    local hint = suggest(match, KINDS)
    return "match with a name must be one of full, prefix, suffix" .. (hint and ", " .. hint or "")
  elseif type(match) ~= "string" or not is_pattern(match) then
    return "match must be full, prefix or suffix, with a name, or a Lua pattern"
  end
end

--- Checks the rules.
---@param list any
---@param checks table<string, fun(v: any): boolean, string> the checks of all fields except match and name
---@return string? message what is wrong with them; nil if they are right
function M.problem(list, checks)
  if type(list) ~= "table" then return "per_metric must be a list of rules" end
  local known = { match = function() return true end, name = function() return true end }
  for name, check in pairs(checks) do
    known[name] = check
  end
  for i, rule in pairs(list) do
    if type(i) ~= "number" then
      return ("per_metric must be a list of rules, it has a field %s"):format(tostring(i))
    elseif type(rule) ~= "table" then
      return ("per_metric[%d] must be a table, it is a %s"):format(i, type(rule))
    end
    local problems = option.problems(rule, known)
    problems[#problems + 1] = problem_of_match(rule)
    if problems[1] then return ("per_metric[%d]: %s"):format(i, table.concat(problems, "; ")) end
  end
end

local function matches(rule, name)
  local matcher = MATCHERS[rule.match]
  if matcher then return matcher(name, rule.name) end
  local ok, found = pcall(string.find, name, rule.match)
  return ok and found ~= nil
end

--- Returns the first rule that matches a metric.
---@param list chalk.statsd.Rule[]
---@param name string the metric's name, e.g. "http.request_latency"
---@return chalk.statsd.Rule?
function M.of(list, name)
  for _, rule in ipairs(list) do
    if matches(rule, name) then return rule end
  end
end

return M
