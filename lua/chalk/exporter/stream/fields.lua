--- Fields of protobuf messages, read from memory.
--
-- A message is fields back to back, each a tag (a varint: field number and how the value is written) and its value. All
-- functions take the bytes, an offset and the offset where the message ends, and return what they read and the offset
-- after it. What a message may not contain raises a text without a position: the caller knows where the message is.

local bit = require "bit"
local ffi = require "ffi"
local json = require "chalk.base.json"

local M = {}

--- How a value is written. Groups (3 and 4) are from before proto3 and are refused.
M.VARINT, M.FIXED64, M.BYTES, M.FIXED32 = 0, 1, 2, 5

local VARINT, FIXED64, BYTES, FIXED32 = M.VARINT, M.FIXED64, M.BYTES, M.FIXED32
local MOST_FIELD = 2 ^ 29 - 1
local EXACT_BYTES = 7 -- of a varint: 49 bits, which a double sums exactly
local MOST_BYTES = 10

local int64, int32 = ffi.typeof "int64_t", ffi.typeof "int32_t"
local uint64 = ffi.typeof "uint64_t"
local double = ffi.new "union { uint8_t bytes[8]; double value; }"

local function long_varint(bytes, at, stop)
  local value = 0ULL
  for i = 0, MOST_BYTES - 1 do
    if at + i >= stop then error("a varint is cut off", 0) end
    local byte = bytes[at + i]
    value = value + bit.lshift(uint64(bit.band(byte, 127)), 7 * i)
    if byte < 128 then
      if i == MOST_BYTES - 1 and byte > 1 then break end
      return value, at + i + 1
    end
  end
  error("a varint has more than 64 bits", 0)
end

-- A number for what is short, and a uint64_t for the rest.
local function varint(bytes, at, stop)
  local value, scale = 0, 1
  for i = at, math.min(at + EXACT_BYTES, stop) - 1 do
    local byte = bytes[i]
    if byte < 128 then return value + byte * scale, i + 1 end
    value = value + (byte - 128) * scale
    scale = scale * 128
  end
  return long_varint(bytes, at, stop)
end

--- An unsigned integer: exact up to 2^53, above it the nearest double.
---@return number value
---@return integer next
function M.unsigned(bytes, at, stop)
  local value, next = varint(bytes, at, stop)
  return tonumber(value), next
end

--- An int64, rounded in the same way.
---@return number value
---@return integer next
function M.int64(bytes, at, stop)
  local value, next = varint(bytes, at, stop)
  if type(value) == "cdata" then value = tonumber(ffi.cast(int64, value)) end
  return value, next
end

--- An int32: what is above 32 bits is cut off, as other readers do.
---@return integer value
---@return integer next
function M.int32(bytes, at, stop)
  local value, next = varint(bytes, at, stop)
  if type(value) == "cdata" then return tonumber(ffi.cast(int32, value)), next end
  return bit.tobit(value), next
end

---@return number value
---@return integer next
function M.double(bytes, at, stop)
  if stop - at < 8 then error("a double is cut off", 0) end
  ffi.copy(double.bytes, bytes + at, 8) -- the offset may not be a multiple of 8
  return double.value, at + 8
end

--- The extent of a string or of a message inside.
---@return integer first
---@return integer stop
function M.extent(bytes, at, stop)
  local size, first = M.unsigned(bytes, at, stop)
  if size > stop - first then error("a field is longer than its message", 0) end
  return first, first + size
end

local function ascii(bytes, at, stop)
  for i = at, stop - 1 do
    if bytes[i] > 127 then return false end
  end
  return true
end

--- A string, which has to be UTF-8.
---@return string value
---@return integer next
function M.string(bytes, at, stop)
  local first, last = M.extent(bytes, at, stop)
  local text = ffi.string(bytes + first, last - first)
  if not ascii(bytes, first, last) and json.invalid_utf8(text) then error("a string is not UTF-8", 0) end
  return text, last
end

--- A field's tag.
---@return integer number
---@return integer wire how its value is written
---@return integer next
function M.tag(bytes, at, stop)
  local tag, next = M.unsigned(bytes, at, stop)
  local wire = tag % 8
  local number = (tag - wire) / 8
  if number < 1 or number > MOST_FIELD then error("there is no such field number", 0) end
  return number, wire, next
end

--- Passes over a field's value.
---@return integer next
function M.skip(bytes, at, stop, wire)
  if wire == VARINT then
    local _, next = varint(bytes, at, stop)
    return next
  elseif wire == BYTES then
    local _, next = M.extent(bytes, at, stop)
    return next
  elseif wire ~= FIXED64 and wire ~= FIXED32 then
    error("a field is written in no known way", 0)
  end
  local size = wire == FIXED64 and 8 or 4
  if stop - at < size then error("a field is longer than its message", 0) end
  return at + size
end

return M
