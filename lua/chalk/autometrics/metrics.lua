-- The specification's metrics, defined on one client. Their names are fixed by the specification, so they are defined
-- in the same way as chalk's own metrics: no exporter puts a namespace before them, and tag definitions of the
-- application do not apply. The number of series is bounded by the instrumented functions and the calls between them,
-- so `max_series` and `idle_timeout` do not apply either.

local accessor = require "chalk.record.accessor"
local lists = require "chalk.base.lists"
local log = require "chalk.base.log"
local option = require "chalk.define.options"
local view = require "chalk.read.view"

local M = {}

local VERSION = "1.0.0" -- of the specification

---@class chalk.autometrics.Metrics
---@field client chalk.Client
---@field bounds number[] of the duration histogram, in seconds
---@field on_new_bounds fun() called when the series of the duration histogram must be looked up again
---@field calls chalk.Metric? nil until `define`, as are `duration`, `concurrent` and `build`
local Metrics = {}
Metrics.__index = Metrics

local function tags(...)
  local list = {}
  for i, name in ipairs { ... } do
    local key = name:gsub("%?$", "")
    list[i] = { tag = "autometrics_" .. key, export_name = key, optional = key ~= name }
  end
  return list
end

local function all_tags(metrics)
  local found = {}
  for _, metric in ipairs(metrics) do
    for _, tag in ipairs(metric.tags) do
      found[tag.tag] = { value_type = "string" }
    end
  end
  found.autometrics_result = { value_type = "enum", values = { "ok", "error" } }
  return found
end

local function document(bounds)
  local metrics = {
    {
      name = "function_calls",
      type = "count",
      tags = tags(
        "function",
        "module",
        "service_name",
        "result",
        "caller_function?",
        "caller_module?",
        "objective_name?",
        "objective_percentile?"
      ),
      description = "Calls of instrumented functions",
    },
    {
      name = "function_calls_duration",
      type = "histogram",
      unit = "seconds",
      tags = tags(
        "function",
        "module",
        "service_name",
        "objective_name?",
        "objective_percentile?",
        "objective_latency_threshold?"
      ),
      buckets = bounds,
      description = "How long calls of instrumented functions took",
    },
    {
      name = "function_calls_concurrent",
      type = "gauge",
      tags = tags("function", "module", "service_name"),
      across = "sum",
      description = "Calls of instrumented functions under way",
    },
    {
      name = "build_info",
      type = "gauge",
      tags = tags(
        "version?",
        "commit?",
        "branch?",
        "service_name",
        "repository_url?",
        "repository_provider?",
        "autometrics_version"
      ),
      description = "What is running",
    },
  }
  return { tags = all_tags(metrics), metrics = metrics }
end

---@param client chalk.Client
---@param on_new_bounds fun()
---@return chalk.autometrics.Metrics
function M.new(client, on_new_bounds)
  return setmetatable({ client = client, bounds = {}, on_new_bounds = on_new_bounds }, Metrics)
end

--- Defines the metrics on the first call.
---@return string? problem
function Metrics:define()
  if self.calls then return nil end
  local definitions, errors = self.client.registry:own(document(self.bounds))
  if not definitions then return table.concat(errors, "\n") end
  local found = {}
  for i, definition in ipairs(definitions) do
    found[i] = self.client:accessor(definition)
  end
  self.calls, self.duration, self.concurrent, self.build = unpack(found)
end

-- Bounds

-- Changes the bounds. A histogram with other bounds starts again from zero, and so drops what was recorded before: by
-- this program, or in nginx by the workers before a reload.
local function change(self, bounds)
  if lists.is_same(bounds, self.bounds) then return end
  self.bounds = bounds
  if not self.duration or not self.client.enabled then return end
  if self.client:change_bounds(self.duration, bounds) then
    log.write("warning", "function_calls_duration starts again from zero: its bounds have changed")
  end
  self.on_new_bounds()
end

--- Sets the bounds of the duration histogram.
---@param wanted number[] seconds, in any order
---@return string? problem
function Metrics:set_bounds(wanted)
  local bounds = lists.union { wanted }
  local fits, words = option.is_buckets(bounds)
  if not fits then return "the buckets of durations must be " .. words end
  change(self, bounds)
end

--- Adds a bound, unless there is one already.
---@param bound number seconds
---@return string? problem
function Metrics:add_bound(bound) return self:set_bounds(lists.union { self.bounds, { bound } }) end

-- build_info

local function same(a, b)
  for key, value in pairs(a) do
    if b[key] ~= value then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

-- Returns the tags of all series of a metric.
local function series_of(client, metric)
  local list, number = {}, accessor.state_of(metric).number
  local v = view.take(client.segment)
  for _, range in ipairs(v and v.ranges or {}) do
    for entry = range.metric == number and range.first or range.last, range.last - 1 do
      local tags_of_one = {}
      for _, tag in ipairs(view.tags(v.snapshot, entry, range.definition)) do
        tags_of_one[tag[1]] = tag[2]
      end
      list[#list + 1] = tags_of_one
    end
  end
  if v then view.free(v) end
  return list
end

--- Sets the series of build_info. A service has one such series, because queries could not tell otherwise which version
--- runs. So the series that an earlier version of the service left, for example before a reload of nginx, are removed.
---@param settings chalk.autometrics.Options
function Metrics:set_build(settings)
  local now = {
    version = settings.version,
    commit = settings.commit,
    branch = settings.branch,
    service_name = settings.service_name,
    repository_url = settings.repository_url,
    repository_provider = settings.repository_provider,
    autometrics_version = VERSION,
  }
  if self.client.enabled then
    for _, before in ipairs(series_of(self.client, self.build)) do
      local replaced = before.service_name == now.service_name or before.service_name == self.named
      if replaced and not same(before, now) then self.build:remove(before) end
    end
  end
  self.named = now.service_name
  self.build(now):set(1)
end

return M
