--- Reads the event stream: what a client of chalk.exporter.stream, or of the Rust crate metrics-exporter-tcp, receives.
--
--     local reader = require("chalk.exporter.stream.reader").new()
--     for event in reader:feed(bytes) do
--       if event.metric then print(event.metric.name, event.metric.operation, event.metric.value) end
--     end
--
-- The stream is frames: a varint with the length, and that many bytes of one protobuf message Event, which holds a
-- Metadata or a Metric (spec/fixtures/event.proto has the fields). Bytes come in pieces of any size. What is not a
-- whole frame yet is kept, and a frame above a limit is refused as soon as its length is known: memory stays bounded.
-- Fields that are unknown, or not written as theirs should be, are passed over; what cannot be a message raises, since
-- nothing after it can be trusted.

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
---@field unit string? nil when the sender knows none
---@field description string?

---@class chalk.stream.Metric
---@field name string
---@field seconds number? since 1970; nil without a timestamp
---@field nanos integer?
---@field labels table<string, string>
---@field operation string? increment_counter, set_counter, increment_gauge, decrement_gauge, set_gauge or
--- record_histogram; nil when it is none of these
---@field value number? a counter's is exact up to 2^53

---@class chalk.stream.Event
---@field metadata chalk.stream.Metadata?
---@field metric chalk.stream.Metric?

-- The messages. Each function reads the fields between two offsets into a table; a message that is there twice is
-- merged, as protobuf says, and of the members of a oneof the last counts.

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
---@field private bytes ffi.cdata* what has been fed and not been read, from `at` to `size`
---@field private at integer
---@field private size integer
---@field private capacity integer
---@field private max_frame integer
---@field private passed integer bytes of the stream before the first one here
---@field private failed string? why nothing is read any more
local Reader = {}
Reader.__index = Reader

--- A reader of one stream, from its first byte.
---@param options { max_frame: integer? }? `max_frame`: bytes of the longest frame that is taken, 1 MiB
---@return chalk.stream.Reader
function M.new(options)
  local max_frame = options and options.max_frame or MAX_FRAME
  if type(max_frame) ~= "number" or not (max_frame >= 1 and max_frame <= 2 ^ 30) or max_frame % 1 ~= 0 then
    error("max_frame: a whole number of bytes from 1 to 2^30", 2)
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

-- Makes room at the end. What was read leaves, and the rest moves to the front: at most once for each frame read.
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

-- The next frame's message; nil when it is not all here.
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

-- The iterator behind feed().
local function iterate(self)
  if self.failed then error(self.failed, 0) end
  local ok, event = pcall(next_event, self)
  if ok then return event end
  self.failed = ("event stream, frame at byte %.0f: %s"):format(self.passed + self.at, event)
  self.bytes, self.at, self.size, self.capacity = nil, 0, 0, 0
  error(self.failed, 0)
end

--- Takes the next bytes of the stream, and goes through the events that are complete now. The loop raises a text that
--- says what and where when the bytes are no event stream, and so does every later one. Events that a loop left
--- early are given by the next one.
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

--- How many bytes have been fed and not been read: when the stream has ended, more than 0 says that it was cut off.
---@return integer
function Reader:pending() return self.size - self.at end

return M
