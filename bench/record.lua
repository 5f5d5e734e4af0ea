-- The loops of the record paths, and the data that they record.

local chalk = require "chalk"
local core = require "chalk.core"

local C = core.C

local M = {}

local ENDPOINTS, STATUSES = 40, { "success", "failure" }
local COMBINATIONS = ENDPOINTS * #STATUSES

-- Sequences have the length of a power of two, so that an index takes one instruction and the loop measures the record.
local LENGTH = 1024
local LAST = LENGTH - 1

M.endpoints, M.statuses = {}, {}
for i = 0, LAST do
  local combination = i % COMBINATIONS
  M.endpoints[i] = "/api/v1/resource/" .. combination % ENDPOINTS
  M.statuses[i] = STATUSES[math.floor(combination / ENDPOINTS) + 1]
end

-- The values cover three decades. They are read from a table, so that LuaJIT cannot treat them as constants of the
-- loop.
M.values = {}
for i = 0, LAST do
  M.values[i] = 0.001 * 10 ^ (3 * ((i * 619) % LENGTH) / LENGTH)
end

local DOCUMENT = {
  tags = {
    endpoint = { value_type = "string" },
    status = { value_type = "enum", values = STATUSES },
  },
  metrics = {
    { name = "requests", type = "count", tags = { { tag = "endpoint" }, { tag = "status" } } },
    { name = "temperature", type = "gauge", tags = { { tag = "endpoint" } } },
    { name = "jobs", type = "gauge", across = "sum", tags = { { tag = "endpoint" } } },
    { name = "latency", type = "histogram", tags = { { tag = "endpoint" }, { tag = "status" } } },
  },
}

--- Returns a client and the metrics of the benches.
function M.client(options)
  local client = chalk.new(options)
  local metrics = client:load(DOCUMENT)
  return client, metrics
end

local function nothing() end

-- Adds the loops of the other verbs of gauges, of ops, and of the verbs that read the clock.
local function other_verbs(loops, client, metrics)
  local values, band = M.values, bit.band
  local gauge = metrics.temperature { endpoint = "/api" }
  local summed = metrics.jobs { endpoint = "/api" }
  local histogram = metrics.latency { endpoint = "/api", status = "success" }
  local op = client:op("lookup", { tags = { "endpoint" } }):with "/api"

  function loops.gauge_inc(n)
    for i = 1, n do
      gauge:inc(i)
    end
  end

  function loops.gauge_dec(n)
    for i = 1, n do
      gauge:dec(i)
    end
  end

  function loops.summed(n)
    for i = 1, n do
      summed:set(i)
    end
  end

  function loops.op(n)
    for i = 1, n do
      op:record(values[band(i, LAST)])
    end
  end

  function loops.clock(n)
    for _ = 1, n do
      C.chalk_now()
      C.chalk_now()
    end
  end

  function loops.time(n)
    for _ = 1, n do
      histogram:time(nothing)
    end
  end

  function loops.op_time(n)
    for _ = 1, n do
      op:time(nothing)
    end
  end

  function loops.start(n)
    for _ = 1, n do
      histogram:start()()
    end
  end
end

--- Returns the loops by name. The loops of 80 combinations look their series up at every record.
---@return table<string, fun(n: integer)>
---@return chalk.Series gauge the gauge that the loops set
function M.loops(client, metrics)
  local endpoints, statuses, values = M.endpoints, M.statuses, M.values
  local requests, latency = metrics.requests, metrics.latency
  local count = requests { endpoint = "/api", status = "success" }
  local gauge = metrics.temperature { endpoint = "/api" }
  local histogram = latency { endpoint = "/api", status = "success" }
  local band, rshift = bit.band, bit.rshift
  local loops = {}

  function loops.empty(n)
    for _ = 1, n do
    end
  end

  function loops.count(n)
    for _ = 1, n do
      count:inc()
    end
  end

  function loops.gauge(n)
    for i = 1, n do
      gauge:set(i)
    end
  end

  -- LuaJIT would store this value only once if the store were in compiled Lua.
  function loops.gauge_same(n)
    for _ = 1, n do
      gauge:set(5)
    end
  end

  function loops.call(n)
    for i = 1, n do
      local j = band(i, LAST)
      requests({ endpoint = endpoints[j], status = statuses[j] }):inc()
    end
  end

  function loops.with(n)
    for i = 1, n do
      local j = band(i, LAST)
      requests:with(endpoints[j], statuses[j]):inc()
    end
  end

  function loops.histogram(n)
    for i = 1, n do
      histogram:record(values[band(i, LAST)])
    end
  end

  -- The index of the value shifts against that of the combination, so that every series gets all values.
  function loops.histogram_call(n)
    for i = 1, n do
      local j = band(i, LAST)
      latency({ endpoint = endpoints[j], status = statuses[j] }):record(values[band(i + rshift(i, 10), LAST)])
    end
  end

  other_verbs(loops, client, metrics)
  return loops, gauge
end

return M
