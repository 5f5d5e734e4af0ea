-- The record paths: what a record costs beside the loop that makes it.

local chalk = require "chalk"

local M = {}

local ENDPOINTS, STATUSES, VALUES = 40, { "success", "failure" }, 1021

M.endpoints, M.statuses = {}, {}
for i = 0, ENDPOINTS * 2 - 1 do
  M.endpoints[i] = "/api/v1/resource/" .. i % ENDPOINTS
  M.statuses[i] = STATUSES[math.floor(i / ENDPOINTS) + 1]
end

-- Values over three decades, none of them a constant of the loop. Their number is prime, so that in rotation every
-- series gets all of them.
M.values = {}
for i = 0, VALUES - 1 do
  M.values[i] = 0.001 * 10 ^ (3 * ((i * 619) % VALUES) / VALUES)
end

local DOCUMENT = {
  tags = {
    endpoint = { value_type = "string" },
    status = { value_type = "enum", values = STATUSES },
  },
  metrics = {
    { name = "requests", type = "count", tags = { { tag = "endpoint" }, { tag = "status" } } },
    { name = "temperature", type = "gauge", tags = { { tag = "endpoint" } } },
    { name = "latency", type = "histogram", tags = { { tag = "endpoint" }, { tag = "status" } } },
  },
}

--- A client with the metrics of the benches.
function M.client(options)
  local client = chalk.new(options)
  local metrics = client:load(DOCUMENT)
  return client, metrics
end

--- The loops by name. Those of 80 combinations look their series up at every record.
---@return table<string, fun(n: integer)>
function M.loops(metrics)
  local endpoints, statuses, values = M.endpoints, M.statuses, M.values
  local requests, latency = metrics.requests, metrics.latency
  local count = requests { endpoint = "/api", status = "success" }
  local gauge = metrics.temperature { endpoint = "/api" }
  local histogram = latency { endpoint = "/api", status = "success" }
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

  function loops.call(n)
    local j = 0
    for _ = 1, n do
      requests({ endpoint = endpoints[j], status = statuses[j] }):inc()
      j = j < 79 and j + 1 or 0
    end
  end

  function loops.with(n)
    local j = 0
    for _ = 1, n do
      requests:with(endpoints[j], statuses[j]):inc()
      j = j < 79 and j + 1 or 0
    end
  end

  function loops.histogram(n)
    local k = 0
    for _ = 1, n do
      histogram:record(values[k])
      k = k < VALUES - 1 and k + 1 or 0
    end
  end

  function loops.histogram_call(n)
    local j, k = 0, 0
    for _ = 1, n do
      latency({ endpoint = endpoints[j], status = statuses[j] }):record(values[k])
      j = j < 79 and j + 1 or 0
      k = k < VALUES - 1 and k + 1 or 0
    end
  end

  return loops
end

return M
