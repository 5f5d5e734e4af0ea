--- The StatsD and DogStatsD exporter sends the changes since its last success at each flush, in packets to one
--- receiver.
--
-- The core makes lines and packs them, one packet at a time. The series of a packet are committed to the cursor when
-- the packet is known to have arrived, which is right before the next packet is sent. If a histogram needs several
-- packets, each commits its own part of the histogram. So if a receiver disappears in the middle of a flush, at most
-- one packet is sent twice, and the rest is sent in the next flush that the receiver accepts.

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

local OVER = "the flusher's role went to another process or VM during its export" -- as in chalk.flush.flusher

---@class chalk.statsd.Exporter
local Exporter = {}
Exporter.__index = Exporter

local function container_of(id)
  if id == "auto" then return require("chalk.exporter.statsd.container").find() end
  return id or nil
end

-- Returns the fields at the end of every line.
local function tail_of(options)
  local container, tail = container_of(options.container_id), ""
  if container then tail = tail .. "|c:" .. names.field(container) end
  if options.external_env then tail = tail .. "|e:" .. options.external_env end
  if options.cardinality then tail = tail .. "|card:" .. options.cardinality end
  return tail
end

--- Makes an exporter. Raises a message if the options are wrong.
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
    -- This is not ffi.gc, because lua_close runs the finalizers of cdata before the last flush.
    guard = core.finalizer(function() C.chalk_statsd_free(lines) end),
    families = setmetatable({}, { __mode = "k" }),
    next = ffi.new "uint32_t[1]",
    size = ffi.new "uint32_t[1]",
    telemetry = options.telemetry and telemetry.new(options, tail) or nil,
    totals = ffi.new "chalk_statsd_totals",
    too_long = 0,
    named = {}, -- whether a warning has named a metric whose lines are too long, by metric
  }, Exporter)
end

-- Returns the chalk_statsd_family of a range. It is made again if the counted bounds have changed.
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

-- Returns the counts of lines that were made and that were too long.
function Exporter:count()
  C.chalk_statsd_count(self.lines, self.totals)
  return self.totals
end

function Exporter:look_for_too_long(definition)
  local too_long = tonumber(self:count().too_long)
  if too_long ~= self.too_long then self:name_too_long(definition) end
  self.too_long = too_long
end

--- Warns, once for each metric, that lines of it are too long to be sent.
---@param definition chalk.Definition
function Exporter:name_too_long(definition)
  if self.named[definition.id_name] then return end
  self.named[definition.id_name] = true
  local words = "%s: a line is longer than max_packet, %d bytes, and is not sent to %s"
  log.write("warning", words:format(definition.id_name, self.options.max_packet, self.socket.name))
end

-- One export: the packets of one flush.

---@class chalk.statsd.Run
---@field sent integer[][] ranges of series in the packet that was sent and is not confirmed yet
---@field packed integer[][] ranges of series in the packet that is being made
---@field open boolean? whether the socket was opened for this flush
local Run = {}
Run.__index = Run

-- Ends the export from inside the loops over metrics: raises { message = message }, which `export` catches.
local function give_up(message) error({ message = message }, 0) end

function Run:check(ok, message)
  if self.batch.over then give_up(OVER) end
  if not ok then give_up(message) end
end

-- Commits the series of the packet that was confirmed, and its part of a histogram that continues in the next packet.
function Run:commit()
  local batch = self.batch
  for _, range in ipairs(self.sent) do
    C.chalk_cursor_commit(batch.cursor, batch.snapshot, range[1], range[2], batch.now())
  end
  C.chalk_statsd_commit(self.exporter.lines, batch.cursor, batch.snapshot, batch.now())
  self.sent = {}
end

-- Confirms and commits the packet before, and sends the packet that was made.
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

-- Makes the lines of a range of series, and sends each packet that is full.
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

--- Sends a batch.
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

-- Appends the packet's lines to a list and begins an empty packet.
local function take_lines(self, packets)
  local text = C.chalk_statsd_packet(self.lines, self.size)
  packets[#packets + 1] = ffi.string(text, self.size[0])
  C.chalk_statsd_begin(self.lines)
end

local function text_of_range(self, view, range, packets)
  local family, next = self:family(range), self.next
  next[0] = range.first
  repeat
    local code = C.chalk_statsd_fill(self.lines, family, nil, view.snapshot, next, range.last)
    if code < 0 then error("out of memory", 0) end
    if code == 1 then take_lines(self, packets) end
  until code == 0
end

--- Returns the lines that a flush would send if nothing had been sent before. Sends nothing and opens no socket. The
--- exporter must not have a flush in progress.
---@param view chalk.View
---@return string
function Exporter:text(view)
  local packets = {}
  set_time(self)
  C.chalk_statsd_forget(self.lines)
  for _, range in ipairs(view.ranges) do
    text_of_range(self, view, range, packets)
  end
  take_lines(self, packets)
  C.chalk_statsd_forget(self.lines)
  return table.concat(packets)
end

--- Subscribes the mode raw to events.
---@param context chalk.ExporterContext
function Exporter:attach(context)
  if self.options.tap then self.raw = raw.new(self, context) end
end

--- Sends the values of the mode raw that this process took while it held the flusher's role. No other process has them.
---@return boolean sending whether some are still being sent
function Exporter:send_rest() return self.raw ~= nil and self.raw:send_rest() end

--- Drops the packet in progress, the connections and raw values, in a forked child. They belong to the parent.
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
