-- The timed loops. Each function returns a loop and the series or metric that it records into. A loop uses locals of a
-- function that has returned, as an application's modules do; LuaJIT treats such locals as constants.

local chalk = require "chalk"
local work = require "work"

local band, rshift = bit.band, bit.rshift
local endpoints, statuses, values, steps = work.endpoints, work.statuses, work.values, work.steps
local LAST = work.LAST
local TAGS = { "endpoint", "status" }

local M = {}

function M.empty()
  return function(n)
    local sum = 0
    for i = 1, n do
      sum = sum + steps[band(i, LAST)]
    end
    work.check(work.total(n), sum)
  end
end

function M.count()
  local kept = chalk.count("kept", { tags = TAGS }) { endpoint = "/api", status = "success" }
  return function(n)
    for i = 1, n do
      local j = band(i, LAST)
      kept:inc(steps[j])
    end
  end, kept
end

function M.gauge()
  local kept = chalk.gauge("temperature", { tags = TAGS }) { endpoint = "/api", status = "success" }
  return function(n)
    for i = 1, n do
      local j = band(i, LAST)
      kept:set(values[j])
    end
  end, kept
end

function M.count_call()
  local requests = chalk.count("requests", { tags = TAGS })
  return function(n)
    for i = 1, n do
      local j = band(i, LAST)
      requests({ endpoint = endpoints[j], status = statuses[j] }):inc(steps[j])
    end
  end,
    requests
end

function M.count_with()
  local requests = chalk.count("requests_with", { tags = TAGS })
  return function(n)
    for i = 1, n do
      local j = band(i, LAST)
      requests:with(endpoints[j], statuses[j]):inc(steps[j])
    end
  end,
    requests
end

function M.histogram()
  local kept = chalk.histogram("kept_latency", { tags = TAGS }) { endpoint = "/api", status = "success" }
  return function(n)
    for i = 1, n do
      local j = band(i, LAST)
      kept:record(values[j])
    end
  end,
    kept
end

-- The index of the value shifts against that of the combination, so that every combination gets all values.
function M.histogram_call()
  local latency = chalk.histogram("latency", { tags = TAGS })
  return function(n)
    for i = 1, n do
      local j = band(i, LAST)
      latency({ endpoint = endpoints[j], status = statuses[j] }):record(values[band(i + rshift(i, 10), LAST)])
    end
  end,
    latency
end

function M.histogram_with()
  local latency = chalk.histogram("latency_with", { tags = TAGS })
  return function(n)
    for i = 1, n do
      local j = band(i, LAST)
      latency:with(endpoints[j], statuses[j]):record(values[band(i + rshift(i, 10), LAST)])
    end
  end,
    latency
end

return M
