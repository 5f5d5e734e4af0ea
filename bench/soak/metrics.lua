-- What the soak records, and the options of its clients.

local chalk = require "chalk"
local ledgers = require "soak.ledger"
local posix = require "soak.posix"

local M = {}

-- The receiver relies on it that the first and the last are never dropped.
M.DOCUMENT = {
  tags = {
    worker = { value_type = "string" },
    kind = { value_type = "string" },
    id = { value_type = "string" },
    value = { value_type = "string" },
  },
  metrics = {
    {
      name = "jobs",
      type = "count",
      tags = { { tag = "worker" }, { tag = "kind" } },
      description = "Never dropped.",
    },
    { name = "churn", type = "count", tags = { { tag = "id" } }, description = "Removed, cleared, idle." },
    { name = "wild", type = "count", tags = { { tag = "value" } }, max_series = 50, description = "Overflows." },
    { name = "depth", type = "gauge", tags = { { tag = "worker" } }, description = "A gauge all share." },
    { name = "load", type = "gauge", across = "sum", description = "A gauge of each process." },
    {
      name = "latency",
      type = "histogram",
      tags = { { tag = "worker" } },
      buckets = { 0.001, 0.1, 1, 100, 10000 },
      description = "Never dropped.",
    },
  },
}

M.FLUSH_INTERVAL, M.IDLE = 0.5, 6

--- What a master starts with.
---@param port integer
---@param path string where the push exporter writes
function M.options(port, path)
  return {
    flush_interval = M.FLUSH_INTERVAL,
    idle_timeout = { count = M.IDLE },
    max_buckets = 64,
    exporters = {
      chalk.exporter.prometheus { listen = "127.0.0.1:" .. port },
      chalk.exporter.custom("soak.exporter", { path = path, name = "push" }),
    },
  }
end

--- Puts down what a worker that has ended did record.
---@param world table
---@param worker integer
function M.settle(world, worker)
  local metrics, ledger, name = world.metrics, world.ledger, tostring(worker)
  for _, kind in ipairs(ledgers.KINDS) do
    ledger:settle(worker, kind, metrics.jobs:with(name, kind):value())
  end
  local sketch = metrics.latency:with(name):value()
  if sketch then
    ledger:settle(worker, "sketch", sketch:count())
  else
    posix.fail("no sketch of worker " .. worker)
  end
end

return M
