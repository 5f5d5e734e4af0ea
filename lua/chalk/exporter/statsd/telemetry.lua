-- The exporter's own counters of lines, packets and losses. Their changes are sent to the same receiver after each
-- flush.

local names = require "chalk.exporter.statsd.names"
local options_of = require "chalk.exporter.statsd.options"

local M = {}

local PREFIX = "chalk.client."

---@class chalk.statsd.Telemetry
local Telemetry = {}
Telemetry.__index = Telemetry

---@param options chalk.statsd.Resolved
---@param tail string the fields at the end of every line
function M.new(options, tail)
  local tags = options.dialect == "dogstatsd" and names.tags(options_of.tags(options)) or {}
  return setmetatable({
    tail = (tags[1] and "|#" .. table.concat(tags, ",") or "") .. tail,
    reported = {},
    most = options.max_packet,
  }, Telemetry)
end

-- Returns all counters with their current values. Counters of the mode raw are added to those of packets and lines.
function Telemetry:now(made, socket, raw)
  local now = {
    { "metrics", tonumber(made.metrics) },
    { "lines", tonumber(made.lines) },
    { "lines_dropped", tonumber(made.too_long) },
    { "packets_sent", socket.packets_sent },
    { "bytes_sent", socket.bytes_sent },
    { "packets_dropped", socket.packets_dropped },
    { "bytes_dropped", socket.bytes_dropped },
    { "reconnects", socket.reconnects },
  }
  if not raw then return now end
  local totals, own = raw:count(), raw.socket
  for i, name in ipairs { "packets_sent", "bytes_sent", "packets_dropped", "bytes_dropped", "reconnects" } do
    now[i + 3][2] = now[i + 3][2] + own[name]
  end
  now[2][2] = now[2][2] + tonumber(totals.values)
  now[3][2] = now[3][2] + tonumber(totals.too_long)
  now[#now + 1] = { "raw_values", tonumber(totals.values) }
  now[#now + 1] = { "raw_values_dropped", tonumber(totals.dropped) }
  return now
end

-- Returns packets with a line for each counter that has changed.
function Telemetry:packets(now)
  local packets, packet = {}, ""
  for _, item in ipairs(now) do
    local name, value = item[1], item[2]
    local delta = value - (self.reported[name] or 0)
    local line = delta > 0 and ("%s%s:%d|c%s\n"):format(PREFIX, name, delta, self.tail) or ""
    if #packet + #line > self.most then
      packets[#packets + 1] = packet
      packet = ""
    end
    packet = packet .. line
  end
  if packet ~= "" then packets[#packets + 1] = packet end
  return packets
end

--- Sends the changes since the last success. After a failure nothing counts as sent, and the next flush tries again.
---@param made ffi.cdata* chalk_statsd_totals of the lines that were made
---@param socket chalk.net.PacketSocket
---@param blocking boolean?
---@param raw chalk.statsd.Raw?
function Telemetry:send(made, socket, blocking, raw)
  local now = self:now(made, socket, raw)
  local packets = self:packets(now)
  if not packets[1] or not socket:open(blocking) then return end
  for _, packet in ipairs(packets) do
    if not (socket:confirm() and socket:send(packet)) then return end
  end
  if not socket:finish() then return end
  for _, item in ipairs(now) do
    self.reported[item[1]] = item[2]
  end
end

return M
