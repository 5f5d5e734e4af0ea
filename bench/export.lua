-- Times the export paths: exposition text, and a flush through an exporter that reads everything.

local harness = require "harness"
local prometheus = require "chalk.exporter.prometheus"
local chalk = require "chalk"
local view = require "chalk.read.view"

local M = {}

local function client_with(kind, series, options)
  local client = chalk.new(options)
  local metric = client[kind](client, "work", { tags = { "endpoint", "status" }, max_series = series })
  for i = 1, series do
    local one = metric:with("/api/v1/resource/" .. i, i % 2 == 0 and "success" or "failure")
    if kind == "histogram" then
      for k = 1, 5 do
        one:record(0.001 * k * (i % 50 + 1))
      end
    else
      one:inc(i * 7919)
    end
  end
  return client
end

local TAGS = { "endpoint", "status", "method", "region", "zone" }
local KINDS = { "count", "gauge", "histogram" }

--- Returns a client with n metrics, whose kinds alternate and which have one series with this many tags each, and a
--- function that records into all of them.
---@return chalk.Client client, fun() record
function M.batch_of(n, tags)
  local client, series = chalk.new(), {}
  local names, values = {}, { "/api/v1/users", "success", "GET", "eu-west", "a" }
  for i = 1, tags do
    names[i] = TAGS[i]
  end
  for i = 1, n do
    local kind = KINDS[i % 3 + 1]
    local metric = client[kind](client, kind .. "_" .. i, { tags = names })
    series[i] = tags > 0 and metric:with(unpack(values, 1, tags)) or metric
  end
  return client, function()
    for i = 1, n do
      series[i]:record(i % 7 + 1)
    end
  end
end

local function lines_of(exporter, segment)
  local lines = 0
  for chunk in exporter:chunks(assert(view.take(segment)), "prometheus") do
    lines = lines + select(2, chunk:gsub("\n", ""))
  end
  return lines
end

--- Returns the millions of lines per second of a scrape, from the snapshot to the last line.
function M.exposition(kind, series)
  local client = client_with(kind, series)
  local exporter = prometheus.new { namespace = "bench" }
  local lines = lines_of(exporter, client.segment)
  local seconds = harness.once(function()
    local v = assert(view.take(client.segment))
    for _ in exporter:chunks(v, "prometheus") do
    end
    view.free(v)
  end)
  return lines / seconds / 1e6
end

--- Returns the microseconds of a scrape of n metrics with this many tags, from the snapshot to the last line.
---@return number
function M.batch(n, tags)
  local client, record = M.batch_of(n, tags)
  record()
  local exporter = prometheus.new { namespace = "bench" }
  local seconds = harness.once(function()
    local v = assert(view.take(client.segment))
    for _ in exporter:chunks(v, "prometheus") do
    end
    view.free(v)
  end, 101)
  client:shutdown()
  return seconds * 1e6
end

--- Returns the milliseconds that a flush of counts takes on the flush thread, with an exporter that reads the name,
--- tags and value of each; and how many of these milliseconds the exporter takes.
---@return number flush, number export
function M.flush(series)
  local path = os.tmpname()
  local walker = chalk.exporter.custom("walker", { path = path })
  local client = client_with("count", series, { exporters = { walker }, flush_interval = 3600 })
  for _ = 1, 8 do
    assert(client:flush(60))
  end
  local exports = {}
  for line in io.lines(path) do
    exports[#exports + 1] = tonumber(line)
  end
  os.remove(path)
  local sum = client:text():match "chalk_flush_seconds_sum ([^\n]+)"
  client:shutdown()
  return tonumber(sum) / #exports * 1000, harness.median(exports) * 1000
end

return M
