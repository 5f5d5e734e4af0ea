-- The mode "raw": each value that a histogram recorded, as a line of its own. Values come from the event tap, into a
-- queue of packets in the core; they are sent when packets are full, and the rest at each flush. They go over a socket
-- of their own, so that they need not wait for an export that waits, nor it for them.
--
-- What is in the queue is nobody else's: it is sent also when the flusher's role has gone to another process or VM. A
-- forked child's copy of it is not.

local core = require "chalk.core"
local families = require "chalk.exporter.statsd.family"
local log = require "chalk.base.log"
local rules = require "chalk.exporter.statsd.rules"
local sockets = require "chalk.net.packet_socket"
local view = require "chalk.read.view"

local ffi, C = core.ffi, core.C

local M = {}

local LOOK, PATIENCE = 0.005, 60 -- seconds

---@class chalk.statsd.Raw
local Raw = {}
Raw.__index = Raw

---@param exporter chalk.statsd.Exporter whose options have `tap`
---@param context chalk.ExporterContext
---@return chalk.statsd.Raw
function M.new(exporter, context)
  local options, events = exporter.options, context.events
  local queue = C.chalk_statsd_raw_new(events.segment, options.max_packet, options.raw_queue)
  if queue == nil then error("out of memory", 0) end
  local self = setmetatable({
    options = options,
    exporter = exporter,
    events = events,
    queue = queue,
    guard = core.finalizer(function() C.chalk_statsd_raw_free(queue) end),
    families = {},
    socket = sockets.new(
      options.target,
      { max_packet = options.max_packet, write_timeout = options.write_timeout }
    ),
    size = ffi.new "uint32_t[1]",
    totals = ffi.new "chalk_statsd_raw_totals",
    dropped = 0,
    too_long = 0,
    busy = false, -- packets are being sent
    yields = context.uv ~= nil,
  }, Raw)
  events:subscribe {
    kinds = options.tap.kinds,
    events = options.tap.events,
    keep = options.tap.keep,
    take = function(tap, n) return self:take(tap, n) end,
  }
  return self
end

function Raw:define(number)
  local definition = view.definition(self.events.segment, number)
  local rule = definition and rules.of(self.options.per_metric, definition.id_name) or {}
  local family
  if definition and (rule.histograms or self.options.histograms) == "raw" then
    family = families.new(self.options, self.exporter.tags, self.exporter.tail, { definition = definition })
  end
  self.families[number] = family
  local rate = rule.sample_rate or self.options.sample_rate
  C.chalk_statsd_raw_define(self.queue, number, family and family.c or nil, rate)
end

function Raw:take(tap, n)
  repeat
    local number = C.chalk_statsd_raw_take(self.queue, tap, n)
    if number >= 0 then self:define(number) end
  until number < 0
  self:note_dropped()
  if self.yields then self:start(false) end
end

--- What was sent, and what was not.
---@return ffi.cdata* chalk_statsd_raw_totals
function Raw:count()
  C.chalk_statsd_raw_count(self.queue, self.totals)
  return self.totals
end

function Raw:name_too_long()
  repeat
    local number = C.chalk_statsd_raw_long(self.queue)
    local definition = number >= 0 and view.definition(self.events.segment, number)
    if definition then self.exporter:name_too_long(definition) end
  until number < 0
end

function Raw:note_dropped()
  local totals = self:count()
  local dropped, too_long = tonumber(totals.dropped + totals.too_long), tonumber(totals.too_long)
  self.events:dropped("queue", dropped - self.dropped)
  if too_long > self.too_long then self:name_too_long() end
  self.dropped, self.too_long = dropped, too_long
end

-- How many packets there are to be sent; one that has room only with `partial`.
function Raw:waiting(partial) return C.chalk_statsd_raw_packets(self.queue, partial and 1 or 0) end

-- A packet leaves the queue when it is known to have arrived, which is asked as late as possible.
local function send_all(self, partial, blocking)
  local socket = self.socket
  if self:waiting(partial) == 0 then return true end
  local ok, message = socket:open(blocking)
  while ok and self:waiting(partial) > 0 do
    ok, message = socket:send(C.chalk_statsd_raw_packet(self.queue, self.size), self.size[0])
    if ok then
      ok, message = (self:waiting(partial) > 1 and socket.confirm or socket.finish)(socket)
    end
    if ok then C.chalk_statsd_raw_next(self.queue) end
  end
  return ok, message
end

-- Sends what waits, in a coroutine of its own, unless the receiver was away just now.
function Raw:start(partial)
  if self.busy or self.closed or self:waiting(partial) == 0 or not self.socket:ready() then return end
  self.busy = true
  local thread = coroutine.create(function()
    local ok, sent, message = pcall(send_all, self, partial, not self.yields)
    self.busy = false
    if not ok then
      log.write("error", "statsd: " .. log.text(sent))
    elseif not sent and message ~= self.said then
      log.write("error", "statsd: " .. tostring(message))
    end
    self.said = not sent and message or nil
  end)
  local ok, message = coroutine.resume(thread)
  if not ok then log.write("error", "statsd: " .. tostring(message)) end
end

--- Sends all there is, in the export's coroutine.
---@param blocking boolean?
---@return boolean? sent, string? message
function Raw:flush(blocking)
  local ends = C.chalk_now() + PATIENCE
  while self.busy and not blocking and C.chalk_now() < ends do
    self.exporter.socket.pause:sleep(LOOK)
  end
  if self.busy and not blocking then return nil, "raw values are still being sent" end
  if self:waiting(true) == 0 then return true end
  if not self.socket:ready() then return nil, self.socket.last_error end
  self.busy = true
  local ok, sent, message = pcall(send_all, self, true, blocking)
  self.busy = false
  if not ok then error(sent, 0) end
  return sent, message
end

--- Sends what is left, once the flusher's role has gone.
---@return boolean under_way
function Raw:send_rest()
  self:start(true)
  return self.busy
end

--- In a forked child: the queue and the connection are the parent's.
function Raw:forked()
  self.busy = false
  self.socket:forked()
  while self:waiting(true) > 0 do
    C.chalk_statsd_raw_next(self.queue)
  end
end

function Raw:close()
  self.closed = true
  self.socket:close()
end

return M
