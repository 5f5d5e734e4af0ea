--- Reads the fields of protobuf messages from memory.
--
-- A message is a sequence of fields. Each has a tag, which is a varint with the field number and the wire type of the
-- value, and then the value. All functions take the bytes, an offset and the offset at which the message ends. They
-- return a value and the offset after it. They raise a message if the bytes are not valid protobuf; the message names
-- no position, because only the caller knows the position of the frame.

local bit = require "bit"
local ffi = require "ffi"
local json = require "chalk.base.json"

local M = {}

--- Wire types. Groups (3 and 4) are older than proto3 and are refused.
M.VARINT, M.FIXED64, M.BYTES, M.FIXED32 = 0, 1, 2, 5

local VARINT, FIXED64, BYTES, FIXED32 = M.VARINT, M.FIXED64, M.BYTES, M.FIXED32
local MOST_FIELD = 2 ^ 29 - 1
local EXACT_BYTES = 7 -- bytes of a varint whose 49 bits a double holds exactly
local MOST_BYTES = 10 -- bytes of the longest varint

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

-- Reads a varint. Returns a number if it has up to 49 bits, otherwise a uint64_t.
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

--- Reads an unsigned integer. It is exact up to 2^53; above, the nearest double is returned.
---@return number value
---@return integer next
function M.unsigned(bytes, at, stop)
  local value, next = varint(bytes, at, stop)
  return tonumber(value), next
end

--- Reads an int64, rounded in the same way.
---@return number value
---@return integer next
function M.int64(bytes, at, stop)
  local value, next = varint(bytes, at, stop)
  if type(value) == "cdata" then value = tonumber(ffi.cast(int64, value)) end
  return value, next
end

--- Reads an int32. Bits above the lowest 32 are ignored, as in other readers.
---@return integer value
---@return integer next
function M.int32(bytes, at, stop)
  local value, next = varint(bytes, at, stop)
  if type(value) == "cdata" then return tonumber(ffi.cast(int32, value)), next end
  return bit.tobit(value), next
end

--- Reads a double.
---@return number value
---@return integer next
function M.double(bytes, at, stop)
  if stop - at < 8 then error("a double is cut off", 0) end
  ffi.copy(double.bytes, bytes + at, 8) -- the offset may not be a multiple of 8
  return double.value, at + 8
end

--- Reads the length of a string or of a nested message. Returns the offsets of its first byte and of its end.
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

--- Reads a string, which must be valid UTF-8.
---@return string value
---@return integer next
function M.string(bytes, at, stop)
  local first, last = M.extent(bytes, at, stop)
  local text = ffi.string(bytes + first, last - first)
  if not ascii(bytes, first, last) and json.invalid_utf8(text) then error("a string is not UTF-8", 0) end
  return text, last
end

--- Reads the tag of a field.
---@return integer number
---@return integer wire the wire type of its value
---@return integer next
function M.tag(bytes, at, stop)
  local tag, next = M.unsigned(bytes, at, stop)
  local wire = tag % 8
  local number = (tag - wire) / 8
  if number < 1 or number > MOST_FIELD then error("a field number is out of range", 0) end
  return number, wire, next
end

--- Skips the value of a field.
---@return integer next
function M.skip(bytes, at, stop, wire)
  if wire == VARINT then
    local _, next = varint(bytes, at, stop)
    return next
  elseif wire == BYTES then
    local _, next = M.extent(bytes, at, stop)
    return next
  elseif wire ~= FIXED64 and wire ~= FIXED32 then
    error("a field has an unknown wire type", 0)
  end
  local size = wire == FIXED64 and 8 or 4
  if stop - at < size then error("a field is longer than its message", 0) end
  return at + size
end

return M
