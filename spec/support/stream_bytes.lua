--- Encodes event streams without any code of chalk, so that tests state what is on the wire.

local ffi = require "ffi"

local M = {}

--- Encodes a whole number up to 2^53, or a uint64_t, as a varint.
function M.varint(value)
  value = ffi.cast("uint64_t", value)
  local bytes = {}
  repeat
    local byte = tonumber(value % 128)
    value = value / 128
    bytes[#bytes + 1] = string.char(value > 0 and byte + 128 or byte)
  until value == 0
  return table.concat(bytes)
end

local function tag(number, wire) return M.varint(number * 8 + wire) end

--- The next three encode a field of a message.
function M.whole(number, value) return tag(number, 0) .. M.varint(value) end

function M.text(number, value) return tag(number, 2) .. M.varint(#value) .. value end

function M.double(number, value) return tag(number, 1) .. ffi.string(ffi.new("double[1]", value), 8) end

--- Encodes a frame: an Event after its length.
function M.frame(event) return M.varint(#event) .. event end

local TYPES = { counter = 0, gauge = 1, histogram = 2 }

--- Encodes a frame with a Metadata.
---@param metadata { name: string, type: string, unit: string?, description: string? }
function M.metadata(metadata)
  local type = TYPES[metadata.type]
  return M.frame(M.text(
    1,
    table.concat {
      M.text(1, metadata.name),
      type > 0 and M.whole(2, type) or "",
      metadata.unit and M.text(3, metadata.unit) or "",
      metadata.description and M.text(4, metadata.description) or "",
    }
  ))
end

local OPERATIONS = {
  increment_counter = 4,
  set_counter = 5,
  increment_gauge = 6,
  decrement_gauge = 7,
  set_gauge = 8,
  record_histogram = 9,
}

--- Encodes a frame with a Metric.
---@param metric { name: string, seconds: integer?, nanos: integer?, labels: string[][]?, operation: string,
--- value: number } `labels`: pairs of a key and a value
function M.metric(metric)
  local fields = { M.text(1, metric.name) }
  fields[2] = M.text(2, M.whole(1, metric.seconds or 0) .. M.whole(2, metric.nanos or 0))
  for _, label in ipairs(metric.labels or {}) do
    fields[#fields + 1] = M.text(3, M.text(1, label[1]) .. M.text(2, label[2]))
  end
  local number = OPERATIONS[metric.operation]
  fields[#fields + 1] = (number <= 5 and M.whole or M.double)(number, metric.value)
  return M.frame(M.text(2, table.concat(fields)))
end

return M
