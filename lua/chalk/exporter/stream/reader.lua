--- Reads the event stream that chalk.exporter.stream sends, or the Rust crate metrics-exporter-tcp.
--
--     local reader = require("chalk.exporter.stream.reader").new()
--     for event in reader:feed(bytes) do
--       if event.metric then print(event.metric.name, event.metric.operation, event.metric.value) end
--     end
--
-- The stream is a sequence of frames. A frame is a varint with a length, and that many bytes of one protobuf message
-- Event, which contains a Metadata or a Metric (spec/fixtures/event.proto lists the fields). The caller may feed any
-- number of bytes at once. Bytes of an incomplete frame are kept. A frame above the size limit is refused as soon as
-- its length is known, so memory stays bounded.
--
-- Unknown fields and fields with an unexpected wire type are skipped. Bytes that are not a message raise an error, and
-- end the stream, because the positions of all later frames are uncertain.

local ffi = require "ffi"
local fields = require "chalk.exporter.stream.fields"

local VARINT, FIXED64, BYTES = fields.VARINT, fields.FIXED64, fields.BYTES
local MAX_FRAME = 1048576
local FIRST_CAPACITY = 65536
local LENGTH_BYTES = 10

local M = {}

---@class chalk.stream.Metadata
---@field name string
---@field type "counter"|"gauge"|"histogram"|"unknown"
---@field unit string? nil: the sender has named none
---@field description string?

---@class chalk.stream.Metric
---@field name string
---@field seconds number? since 1970; nil: no timestamp
---@field nanos integer?
---@field labels table<string, string>
---@field operation string? increment_counter, set_counter, increment_gauge, decrement_gauge, set_gauge or
--- record_histogram; nil: an unknown operation
---@field value number? values of counters are exact up to 2^53

---@class chalk.stream.Event
---@field metadata chalk.stream.Metadata?
---@field metric chalk.stream.Metric?

-- The messages. Each function reads the fields between two offsets into a table. As protobuf requires, a message that
-- occurs twice is merged, and the last member of a oneof counts.

local TYPES = { [0] = "counter", "gauge", "histogram" }

local function metadata_into(into, bytes, at, stop)
  while at < stop do
    local number, wire
    number, wire, at = fields.tag(bytes, at, stop)
    if number == 1 and wire == BYTES then
      into.name, at = fields.string(bytes, at, stop)
    elseif number == 2 and wire == VARINT then
      local value
      value, at = fields.int32(bytes, at, stop)
      into.type = TYPES[value] or "unknown"
    elseif number == 3 and wire == BYTES then
      into.unit, at = fields.string(bytes, at, stop)
    elseif number == 4 and wire == BYTES then
      into.description, at = fields.string(bytes, at, stop)
    else
      at = fields.skip(bytes, at, stop, wire)
    end
  end
end

local function timestamp_into(into, bytes, at, stop)
  into.seconds, into.nanos = into.seconds or 0, into.nanos or 0
  while at < stop do
    local number, wire
    number, wire, at = fields.tag(bytes, at, stop)
    if number == 1 and wire == VARINT then
      into.seconds, at = fields.int64(bytes, at, stop)
    elseif number == 2 and wire == VARINT then
      into.nanos, at = fields.int32(bytes, at, stop)
    else
      at = fields.skip(bytes, at, stop, wire)
    end
  end
end

local function label_into(labels, bytes, at, stop)
  local key, value = "", ""
  while at < stop do
    local number, wire
    number, wire, at = fields.tag(bytes, at, stop)
    if number == 1 and wire == BYTES then
      key, at = fields.string(bytes, at, stop)
    elseif number == 2 and wire == BYTES then
      value, at = fields.string(bytes, at, stop)
    else
      at = fields.skip(bytes, at, stop, wire)
    end
  end
  labels[key] = value
end

local COUNTS = { [4] = "increment_counter", [5] = "set_counter" }
local MEASURES = { [6] = "increment_gauge", [7] = "decrement_gauge", [8] = "set_gauge", [9] = "record_histogram" }

local function metric_into(into, bytes, at, stop)
  while at < stop do
    local number, wire
    number, wire, at = fields.tag(bytes, at, stop)
    if number == 1 and wire == BYTES then
      into.name, at = fields.string(bytes, at, stop)
    elseif number <= 3 and wire == BYTES then
      local first
      first, at = fields.extent(bytes, at, stop)
      if number == 2 then
        timestamp_into(into, bytes, first, at)
      else
        label_into(into.labels, bytes, first, at)
      end
    elseif COUNTS[number] and wire == VARINT then
      into.operation = COUNTS[number]
      into.value, at = fields.unsigned(bytes, at, stop)
    elseif MEASURES[number] and wire == FIXED64 then
      into.operation = MEASURES[number]
      into.value, at = fields.double(bytes, at, stop)
    else
      at = fields.skip(bytes, at, stop, wire)
    end
  end
end

local function event_of(bytes, at, stop)
  local event
  while at < stop do
    local number, wire
    number, wire, at = fields.tag(bytes, at, stop)
    if number <= 2 and wire == BYTES then
      local first
      first, at = fields.extent(bytes, at, stop)
      if number == 1 then
        if not (event and event.metadata) then event = { metadata = { name = "", type = "counter" } } end
        metadata_into(event.metadata, bytes, first, at)
      else
        if not (event and event.metric) then event = { metric = { name = "", labels = {} } } end
        metric_into(event.metric, bytes, first, at)
      end
    else
      at = fields.skip(bytes, at, stop, wire)
    end
  end
  return event
end

-- The frames

---@class chalk.stream.Reader
---@field private bytes ffi.cdata* the buffer; bytes from `at` to `size` were fed and not read yet
---@field private at integer
---@field private size integer
---@field private capacity integer
---@field private max_frame integer
---@field private passed integer how many bytes of the stream came before the buffer's first byte
---@field private failed string? the error that has ended the stream
local Reader = {}
Reader.__index = Reader

--- Makes a reader of one stream, which starts at the stream's first byte.
---@param options { max_frame: integer? }? `max_frame`: the size of the longest accepted frame in bytes (1 MiB)
---@return chalk.stream.Reader
function M.new(options)
  local max_frame = options and options.max_frame or MAX_FRAME
  if type(max_frame) ~= "number" or not (max_frame >= 1 and max_frame <= 2 ^ 30) or max_frame % 1 ~= 0 then
    error("max_frame must be a whole number of bytes from 1 to 2^30", 2)
  end
  return setmetatable({
    bytes = ffi.new("uint8_t[?]", FIRST_CAPACITY),
    at = 0,
    size = 0,
    capacity = FIRST_CAPACITY,
    max_frame = max_frame,
    passed = 0,
  }, Reader)
end

-- Makes space for `count` bytes at the end of the buffer. Bytes that were read are dropped, and the rest moves to the
-- front, at most once for each frame.
local function reserve(self, count)
  local bytes, rest = self.bytes, self.size - self.at
  if self.size + count <= self.capacity then return end
  local capacity = self.capacity
  while capacity < rest + count do
    capacity = capacity * 2
  end
  local overlap = rest > self.at
  local into = (overlap or capacity > self.capacity) and ffi.new("uint8_t[?]", capacity) or bytes
  ffi.copy(into, bytes + self.at, rest)
  self.bytes, self.capacity = into, capacity
  self.passed, self.at, self.size = self.passed + self.at, 0, rest
end

-- Returns the offsets of the next frame's message, or nil if the frame is incomplete.
local function frame(self)
  local available = self.size - self.at
  local stop = self.at + math.min(available, LENGTH_BYTES)
  local after = self.at
  while after < stop and self.bytes[after] > 127 do
    after = after + 1
  end
  if after == stop and available < LENGTH_BYTES then return nil end
  local length, first = fields.unsigned(self.bytes, self.at, stop)
  if length > self.max_frame then
    error(("a frame of %.0f bytes is above the limit of %d"):format(length, self.max_frame), 0)
  end
  if length > self.size - first then return nil end
  return first, first + length
end

local function next_event(self)
  while true do
    local first, stop = frame(self)
    if not first then return nil end
    local event = event_of(self.bytes, first, stop)
    self.at = stop
    if event then return event end
  end
end

-- The iterator that feed() returns.
local function iterate(self)
  if self.failed then error(self.failed, 0) end
  local ok, event = pcall(next_event, self)
  if ok then return event end
  self.failed = ("event stream, frame at byte %.0f: %s"):format(self.passed + self.at, event)
  self.bytes, self.at, self.size, self.capacity = nil, 0, 0, 0
  error(self.failed, 0)
end

--- Takes the next bytes of the stream, and iterates over the events that are complete now. If the bytes are not an
--- event stream, the iterator raises a message with the reason and the position, and so does every later one. If a loop
--- ends early, the next loop receives the remaining events.
---@param bytes string
---@return fun(reader: chalk.stream.Reader): chalk.stream.Event?
---@return chalk.stream.Reader
function Reader:feed(bytes)
  if not self.failed and #bytes > 0 then
    reserve(self, #bytes)
    ffi.copy(self.bytes + self.size, bytes, #bytes)
    self.size = self.size + #bytes
  end
  return iterate, self
end

--- Returns the number of bytes that were fed and not read. If it is not 0 at the end of the stream, the last frame is
--- incomplete.
---@return integer
function Reader:pending() return self.size - self.at end

return M
