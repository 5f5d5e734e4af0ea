--- The StatsD and DogStatsD exporter: at each flush, what came since the last success, in packets to one receiver.
--
-- Lines are made and packed by the core, a packet at a time. A packet's entries are committed to the cursor when it is
-- known to have arrived, which shows with the packet after it; of a histogram that takes several, a part with each. So
-- a receiver that goes away in the middle of a flush costs at most one packet twice, and what it was not sent comes
-- with the next flush that it takes.

local core = require "chalk.core"
local families = require "chalk.exporter.statsd.family"
local lists = require "chalk.base.lists"
local log = require "chalk.base.log"
local names = require "chalk.exporter.statsd.names"
local options_of = require "chalk.exporter.statsd.options"
local raw = require "chalk.exporter.statsd.raw"
local sockets = require "chalk.net.packet_socket"
local telemetry = require "chalk.exporter.statsd.telemetry"

local ffi, C = core.ffi, core.C

local M = { resolve = options_of.resolve, formats = { statsd = true } }

local OVER = "the flusher's role went to another process or VM during its export"

---@class chalk.statsd.Exporter
local Exporter = {}
Exporter.__index = Exporter

local function container_of(id)
  if id == "auto" then return require("chalk.exporter.statsd.container").find() end
  return id or nil
end

-- The fields that are on every line.
local function tail_of(options)
  local container, tail = container_of(options.container_id), ""
  if container then tail = tail .. "|c:" .. names.field(container) end
  if options.external_env then tail = tail .. "|e:" .. options.external_env end
  if options.cardinality then tail = tail .. "|card:" .. options.cardinality end
  return tail
end

--- A new exporter. Raises when the options are wrong.
---@param options (chalk.statsd.Options|chalk.statsd.Resolved)?
---@return chalk.statsd.Exporter
function M.new(options)
  options = options or {}
  if not options.target then
    local resolved, message = options_of.resolve(options)
    if not resolved then error(message, 2) end
    options = resolved
  end
  local lines = C.chalk_statsd_new(options.max_packet)
  if lines == nil then error("out of memory", 2) end
  local tail = tail_of(options)
  return setmetatable({
    options = options,
    tags = options_of.tags(options),
    tail = tail,
    socket = sockets.new(
      options.target,
      { max_packet = options.max_packet, write_timeout = options.write_timeout }
    ),
    lines = lines,
    -- Not ffi.gc: a last flush, from a finalizer of the VM's end, comes after those.
    guard = core.finalizer(function() C.chalk_statsd_free(lines) end),
    families = setmetatable({}, { __mode = "k" }),
    next = ffi.new "uint32_t[1]",
    size = ffi.new "uint32_t[1]",
    telemetry = options.telemetry and telemetry.new(options, tail) or nil,
    totals = ffi.new "chalk_statsd_totals",
    too_long = 0,
    named = {}, -- the metrics of lines that were too long
  }, Exporter)
end

function Exporter:family(range)
  local known = self.families[range.definition]
  if not known or not lists.is_same(known.les, range.les) then
    known = families.new(self.options, self.tags, self.tail, range)
    known.les = range.les
    self.families[range.definition] = known
  end
  known.c.timestamp = self.timestamp
  return known.c
end

-- The lines that were made, and those that were too long.
function Exporter:count()
  C.chalk_statsd_count(self.lines, self.totals)
  return self.totals
end

function Exporter:look_for_too_long(definition)
  local too_long = tonumber(self:count().too_long)
  if too_long ~= self.too_long then self:name_too_long(definition) end
  self.too_long = too_long
end

--- Says of each metric once that lines of it do not go.
---@param definition chalk.Definition
function Exporter:name_too_long(definition)
  if self.named[definition.id_name] then return end
  self.named[definition.id_name] = true
  local words = "%s: a line is longer than max_packet, %d bytes, and is not sent to %s"
  log.write("warning", words:format(definition.id_name, self.options.max_packet, self.socket.name))
end

-- One export: the packets of one flush, and what of the batch is in the one that is on its way.

---@class chalk.statsd.Run
local Run = {}
Run.__index = Run

-- Raises `{ message }`, past the loops over metrics, to where the export ends.
local function give_up(message) error({ message = message }, 0) end

function Run:check(ok, message)
  if self.batch.over then give_up(OVER) end
  if not ok then give_up(message) end
end

-- The entries of the packet before are known to have arrived, and its part of one that goes on.
function Run:commit()
  local batch = self.batch
  for _, range in ipairs(self.sent) do
    C.chalk_cursor_commit(batch.cursor, batch.snapshot, range[1], range[2], batch.now())
  end
  C.chalk_statsd_commit(self.exporter.lines, batch.cursor, batch.snapshot, batch.now())
  self.sent = {}
end

function Run:send()
  local exporter, socket = self.exporter, self.exporter.socket
  local text = C.chalk_statsd_packet(exporter.lines, exporter.size)
  if exporter.size[0] == 0 then return end
  if not self.open then
    self:check(socket:open(self.batch.blocking))
    self.open = true
  else
    self:check(socket:confirm())
    self:commit()
  end
  self:check(socket:send(text, exporter.size[0]))
  self.sent, self.packed = self.packed, {}
  C.chalk_statsd_begin(exporter.lines)
end

function Run:range(range)
  local exporter, batch = self.exporter, self.batch
  local family, next, first = exporter:family(range), exporter.next, range.first
  next[0] = range.first
  repeat
    local code = C.chalk_statsd_fill(exporter.lines, family, batch.cursor, batch.snapshot, next, range.last)
    if code < 0 then give_up "out of memory" end
    exporter:look_for_too_long(range.definition)
    if next[0] > first then
      self.packed[#self.packed + 1] = { first, next[0] }
      first = next[0]
    end
    if code == 1 then self:send() end
  until code == 0
end

function Run:all()
  for _, range in ipairs(self.batch.ranges) do
    self:range(range)
  end
  self:send()
  if not self.open then return end
  self:check(self.exporter.socket:finish())
  self:commit()
end

local function run_all(self, batch)
  local run = setmetatable({ exporter = self, batch = batch, sent = {}, packed = {} }, Run)
  run:all()
  if self.raw then run:check(self.raw:flush(batch.blocking)) end
  if self.telemetry then self.telemetry:send(self:count(), self.socket, batch.blocking, self.raw) end
end

local function set_time(self) self.timestamp = self.options.timestamps and ("|T%d"):format(C.chalk_wall()) or "" end

---@param batch chalk.Batch
---@return boolean? sent, string? message
function Exporter:export(batch)
  if not self.socket:ready() then return nil, self.socket.last_error end
  set_time(self)
  local ok, problem = pcall(run_all, self, batch)
  if ok then return true end
  C.chalk_statsd_forget(self.lines)
  if type(problem) ~= "table" then error(problem, 0) end
  return nil, problem.message
end

-- The packet's lines, and an empty one.
local function take_lines(self, pieces)
  local text = C.chalk_statsd_packet(self.lines, self.size)
  pieces[#pieces + 1] = ffi.string(text, self.size[0])
  C.chalk_statsd_begin(self.lines)
end

local function text_of_range(self, view, range, pieces)
  local family, next = self:family(range), self.next
  next[0] = range.first
  repeat
    local code = C.chalk_statsd_fill(self.lines, family, nil, view.snapshot, next, range.last)
    if code < 0 then error("out of memory", 0) end
    if code == 1 then take_lines(self, pieces) end
  until code == 0
end

--- The lines that would go out if nothing had been sent before. Nothing is sent, and no socket is opened. For an
--- exporter that has no flush under way.
---@param view chalk.View
---@return string
function Exporter:text(view)
  local pieces = {}
  set_time(self)
  C.chalk_statsd_forget(self.lines)
  for _, range in ipairs(view.ranges) do
    text_of_range(self, view, range, pieces)
  end
  take_lines(self, pieces)
  C.chalk_statsd_forget(self.lines)
  return table.concat(pieces)
end

--- The mode raw makes its lines of the flusher's events.
---@param context chalk.ExporterContext
function Exporter:attach(context)
  if self.options.tap then self.raw = raw.new(self, context) end
end

--- Sends what was taken while this process had the flusher's role, and is now in no other's reach.
---@return boolean under_way
function Exporter:send_rest() return self.raw ~= nil and self.raw:send_rest() end

--- In a forked child: what is under way is the parent's, and so are the connections.
function Exporter:forked()
  C.chalk_statsd_forget(self.lines)
  self.socket:forked()
  if self.raw then self.raw:forked() end
end

function Exporter:shutdown()
  self.socket:close()
  if self.raw then self.raw:close() end
end

return M
