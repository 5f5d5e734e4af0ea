-- The series of an instrumented function. They are created before its first call, so that every function is exported at
-- zero from the beginning.

local numbers = require "chalk.base.numbers"
local wrapper = require "chalk.autometrics.wrapper"

local M = {}

local function percent(number) return ("%.14g"):format(number) end

local function tags_of(record, more)
  more["function"], more.module, more.service_name = record.name, record.module, record.service_name
  return more
end

local function tags_of_calls(record, result, caller)
  local rate = record.objective and record.objective.values.success_rate
  return tags_of(record, {
    result = result,
    caller_function = caller and caller.name,
    caller_module = caller and caller.module,
    objective_name = rate and record.objective.name,
    objective_percentile = rate and percent(rate),
  })
end

local function tags_of_duration(record)
  local latency = record.objective and record.objective.values.latency
  return tags_of(record, {
    objective_name = latency and record.objective.name,
    objective_percentile = latency and percent(latency.percentile),
    objective_latency_threshold = latency and numbers.bound(latency.threshold), -- as `le`
  })
end

--- Creates the counters of one function's calls by one caller. Both results are exported from the first call on, so
--- that queries can divide one by the other.
---@param all chalk.autometrics.Metrics
---@param record chalk.autometrics.Record
---@param caller chalk.autometrics.Record? the calling function, or wrapper.NOBODY
---@return chalk.autometrics.Call
function M.call(all, record, caller)
  local known = caller ~= wrapper.NOBODY and caller or nil
  local call = {
    record = record,
    ok = all.calls(tags_of_calls(record, "ok", known)),
    error = all.calls(tags_of_calls(record, "error", known)),
  }
  record.by_caller[caller] = call
  return call
end

--- Looks up the histogram of durations, again after its bounds have changed.
---@param all chalk.autometrics.Metrics
---@param record chalk.autometrics.Record
function M.bind_duration(all, record) record.duration = all.duration(tags_of_duration(record)) end

--- Looks up all series of a function, which creates them.
---@param all chalk.autometrics.Metrics
---@param record chalk.autometrics.Record
function M.bind(all, record)
  record.by_caller = {}
  M.bind_duration(all, record)
  record.concurrent = record.counts_concurrent and all.concurrent(tags_of(record, {})) or nil
  if record.concurrent then record.concurrent:inc(0) end
  M.call(all, record, wrapper.NOBODY)
end

--- Removes the series that a function has under a guessed service name, unless something was recorded into them.
---@param all chalk.autometrics.Metrics
---@param record chalk.autometrics.Record
function M.unbind(all, record)
  local call = record.by_caller[wrapper.NOBODY]
  if call.ok:value() + call.error:value() > 0 or record.duration:value():count() > 0 then return end
  all.calls:remove(tags_of_calls(record, "ok"))
  all.calls:remove(tags_of_calls(record, "error"))
  all.duration:remove(tags_of_duration(record))
  if record.concurrent then all.concurrent:remove(tags_of(record, {})) end
end

return M
