-- The mode "raw" sends each value that a histogram records as a separate line. Values come from the event tap into a
-- queue of packets in the core. Full packets are sent at once, and the rest at each flush. They use a separate socket,
-- so that raw values do not wait for an export, and the export does not wait for them.
--
-- Only this process has the values in its queue, so it sends them even after the flusher's role has gone to another
-- process or VM. A forked child has a copy of the queue, which it does not send.

local core = require "chalk.core"
local families = require "chalk.exporter.statsd.family"
local log = require "chalk.base.log"
local rules = require "chalk.exporter.statsd.rules"
local sockets = require "chalk.net.packet_socket"
local view = require "chalk.read.view"

local ffi, C = core.ffi, core.C

local M = {}

local LOOK, PATIENCE = 0.005, 60 -- seconds between two looks at packets being sent, and for all of them

---@class chalk.statsd.Raw
local Raw = {}
Raw.__index = Raw

--- Makes the queue and subscribes to the event tap.
---@param exporter chalk.statsd.Exporter its options must have `tap`
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
    busy = false, -- whether packets are being sent
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

-- Describes a metric to the core: how its lines look, or that its values are not sent.
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

-- Takes a batch of events. The core stops at a metric that it does not know yet and returns its number.
function Raw:take(tap, n)
  repeat
    local number = C.chalk_statsd_raw_take(self.queue, tap, n)
    if number >= 0 then self:define(number) end
  until number < 0
  self:note_dropped()
  if self.yields then self:start(false) end
end

--- Returns the counts of values that were sent and that were dropped.
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

-- Returns how many packets wait to be sent. `partial`: counts the last one too, if it is not full.
function Raw:waiting(partial) return C.chalk_statsd_raw_packets(self.queue, partial and 1 or 0) end

-- Sends the packets that wait. A packet leaves the queue only when it is known to have arrived.
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

-- Sends the packets that wait, in a new coroutine, unless the pause after a failure is not over.
function Raw:start(partial)
  if self.busy or self.closed or self:waiting(partial) == 0 or not self.socket:ready() then return end
  self.busy = true
  local thread = coroutine.create(function()
    local ok, sent, message = pcall(send_all, self, partial, not self.yields)
    self.busy = false
    if not ok then
      log.write("error", "statsd: " .. log.text(sent))
    elseif not sent and message ~= self.last_message then
      log.write("error", "statsd: " .. tostring(message))
    end
    self.last_message = not sent and message or nil
  end)
  local ok, message = coroutine.resume(thread)
  if not ok then log.write("error", "statsd: " .. tostring(message)) end
end

--- Sends all values, in the export's coroutine.
---@param blocking boolean? whether no loop runs
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

--- Starts to send the rest, after the flusher's role has gone.
---@return boolean sending whether packets are still being sent
function Raw:send_rest()
  self:start(true)
  return self.busy
end

--- Empties the queue and drops the connection, in a forked child. Both belong to the parent.
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
