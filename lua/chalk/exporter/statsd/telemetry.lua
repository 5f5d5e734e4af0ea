-- The exporter's own counters, sent to the same receiver after a flush: what was sent and lost since the last time.

local core = require "chalk.core"
local names = require "chalk.exporter.statsd.names"
local options_of = require "chalk.exporter.statsd.options"

local ffi, C = core.ffi, core.C

local M = {}

local PREFIX = "chalk.client."

---@class chalk.statsd.Telemetry
local Telemetry = {}
Telemetry.__index = Telemetry

---@param options chalk.statsd.Resolved
function M.new(options)
  local tags = options.dialect == "dogstatsd" and names.tags(options_of.tags(options)) or {}
  return setmetatable({
    tags = tags[1] and "|#" .. table.concat(tags, ",") or "",
    totals = ffi.new "chalk_statsd_totals",
    told = {},
    most = options.max_packet,
  }, Telemetry)
end

function Telemetry:now(lines, socket)
  C.chalk_statsd_count(lines, self.totals)
  return {
    { "metrics", tonumber(self.totals.metrics) },
    { "lines", tonumber(self.totals.lines) },
    { "lines_dropped", tonumber(self.totals.too_long) },
    { "packets_sent", socket.packets_sent },
    { "bytes_sent", socket.bytes_sent },
    { "packets_dropped", socket.packets_dropped },
    { "bytes_dropped", socket.bytes_dropped },
    { "reconnects", socket.reconnects },
  }
end

--- Sends what came since the last time. A failure is the next flush's to meet: nothing is told as sent then.
function Telemetry:send(lines, socket, blocking)
  local now, text, told = self:now(lines, socket), {}, {}
  for _, item in ipairs(now) do
    local name, value = item[1], item[2]
    told[name] = value
    local delta = value - (self.told[name] or 0)
    if delta > 0 then text[#text + 1] = ("%s%s:%d|c%s\n"):format(PREFIX, name, delta, self.tags) end
  end
  local packet = table.concat(text)
  if packet == "" or #packet > self.most then return end
  if socket:open(blocking) and socket:send(packet) and socket:finish() then self.told = told end
end

return M
