-- The metrics that the soak records, and the options of its clients.

local chalk = require "chalk"
local ledgers = require "soak.ledger"
local posix = require "soak.posix"

local M = {}

-- The receiver relies on the order: series of the first and of the last metric are never dropped.
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

--- Returns the options of a master's client.
---@param port integer
---@param path string the file that the push exporter writes to
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

--- Enters into the ledger what chalk has of a worker that has ended.
---@param world table
---@param worker integer
function M.enter(world, worker)
  local metrics, ledger, name = world.metrics, world.ledger, tostring(worker)
  for _, kind in ipairs(ledgers.KINDS) do
    ledger:enter(worker, kind, metrics.jobs:with(name, kind):value())
  end
  local sketch = metrics.latency:with(name):value()
  if sketch then
    ledger:enter(worker, "sketch", sketch:count())
  else
    posix.fail("worker " .. worker .. " has no sketch")
  end
end

return M
