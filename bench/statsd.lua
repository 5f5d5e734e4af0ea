-- Times the StatsD exporter, from a batch to packets, and to the socket of a receiver.

local harness = require "harness"
local batches = require "chalk.read.batch"
local chalk = require "chalk"
local core = require "chalk.core"
local export = require "export"
local statsd = require "chalk.exporter.statsd"
local uv = require "luv"
local view = require "chalk.read.view"

local C = core.C

local M = {}

-- Opens the socket of a local receiver. Nothing reads from it, and a sender over UDP does not notice.
local function receiver()
  local socket = uv.new_udp()
  assert(socket:bind("127.0.0.1", 0))
  return socket, "127.0.0.1:" .. socket:getsockname().port
end

-- Returns a bed that has the flusher's role itself, so that it can export a batch whenever the bench wants.
local function bed_of(client, options)
  local socket, address = receiver()
  options.address, options.container_id = address, false
  local exporter = statsd.new(options)
  exporter.socket.refusal_wait = 0 -- the wait for a refusal is not work, so it is not measured
  assert(C.chalk_hold(client.segment, 1) == 1)
  local cursor = C.chalk_cursor_open(client.segment, "bench", 1, 0, core.message)
  local bed = { client = client, exporter = exporter }
  function bed.export()
    local v = assert(view.take(client.segment, true))
    local batch = batches.new(v, cursor, C.chalk_now)
    local started = C.chalk_now()
    assert(exporter:export(batch))
    local seconds = C.chalk_now() - started
    view.free(v)
    return seconds
  end
  function bed.close()
    exporter:shutdown()
    C.chalk_cursor_close(cursor)
    C.chalk_release(client.segment)
    socket:close()
    uv.run "nowait"
    client:shutdown()
  end
  return bed
end

local function mixed(n)
  local client, series = chalk.new(), {}
  local tags = { tags = { "endpoint", "status" }, max_series = n }
  local kinds = { "count", "gauge", "histogram" }
  for i = 1, n do
    local kind = kinds[i % 3 + 1]
    local metric = client[kind](client, kind .. "s", tags)
    series[i] = metric:with("/api/v1/" .. i, i % 2 == 0 and "success" or "failure")
  end
  return client, function()
    for i = 1, n do
      series[i]:record(i % 7 + 1)
    end
  end
end

local function counts(n)
  local client, series = chalk.new(), {}
  local metric = client:count("requests", { tags = { "endpoint", "status" }, max_series = n })
  for i = 1, n do
    series[i] = metric:with("/api/v1/" .. i, i % 2 == 0 and "success" or "failure")
  end
  return client, function()
    for i = 1, n do
      series[i]:inc(i)
    end
  end
end

local function median_of(bed, record, rounds)
  local times = {}
  for i = 1, rounds do
    record()
    times[i] = bed.export()
  end
  return harness.median(times)
end

local QUANTILES = { 0.5, 0.9, 0.95, 0.99 }

local function bed_of_mode(client, mode)
  return bed_of(client, { histograms = mode, quantiles = QUANTILES, max_packet = 8192 })
end

-- Returns the seconds of an export whose socket does nothing.
local function median_without_sending(bed, record)
  local socket, kept = bed.exporter.socket, {}
  local function fine() return true end
  for _, name in ipairs { "send", "confirm", "open", "finish" } do
    kept[name], socket[name] = socket[name], fine
  end
  local seconds = median_of(bed, record, 200)
  for name, method in pairs(kept) do
    socket[name] = method
  end
  return seconds
end

--- Returns the microseconds of an export of 1,000 series of all kinds with two tags. The new values of each histogram
--- are in one bucket.
---@param mode string
---@return number export to a local receiver, in packets of 8192 bytes
---@return number packets without sending
function M.mixed(mode)
  local client, record = mixed(1000)
  local bed = bed_of_mode(client, mode)
  local sent, packets = median_of(bed, record, 200), median_without_sending(bed, record)
  bed.close()
  return sent * 1e6, packets * 1e6
end

--- Returns the microseconds of an export of n metrics of one series each, with two tags, without sending.
---@param mode string
---@return number
function M.batch(mode, n)
  local client, record = export.batch_of(n, 2)
  local bed = bed_of_mode(client, mode)
  local seconds = median_without_sending(bed, record)
  bed.close()
  return seconds * 1e6
end

--- Returns the milliseconds of an export of n counts that have all changed, the milliseconds when none has changed, and
--- the fill of a packet, from 0 to 1.
---@return number changed, number unchanged, number fill
function M.counts(n)
  local client, record = counts(n)
  local bed = bed_of(client, {})
  local socket = bed.exporter.socket
  local changed = median_of(bed, record, 15)
  local fill = socket.bytes_sent / socket.packets_sent / socket.max_packet
  local before = socket.packets_sent
  local unchanged = median_of(bed, function() end, 15)
  assert(socket.packets_sent == before, "packets were sent although no count has changed")
  bed.close()
  return changed * 1000, unchanged * 1000, fill
end

--- Measures mode `raw`, in which each value is sent separately. One thread records and sends to a local receiver.
---@param n integer values between two flushes
---@return number values millions per second that are sent
---@return number record nanoseconds of a record
function M.raw(n)
  local socket, address = receiver()
  local client = chalk.new {
    driver = "manual",
    flush_interval = 3600,
    exporters = { chalk.exporter.statsd { address = address, container_id = false, histograms = "raw" } },
  }
  local metric = client:histogram("latency", { tags = { "endpoint", "status" } })
  local series, rates, records = metric:with("/api/v1/users", "success"), {}, {}
  for round = 1, 30 do
    local started = C.chalk_now()
    for i = 1, n do
      series:record(i % 1000 / 1000)
    end
    local recorded = C.chalk_now()
    assert(client:flush())
    rates[round] = n / (C.chalk_now() - recorded) / 1e6
    records[round] = (recorded - started) / n * 1e9
  end
  client:shutdown()
  socket:close()
  uv.run "nowait"
  return harness.median(rates), harness.median(records)
end

return M
