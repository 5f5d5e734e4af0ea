-- Counts the frames of an event stream by their lengths, without decoding them, which is the least that a client does.
--
--     luajit bench/stream/counter.lua PORT SECONDS     connects, waits for a first event, then counts
--
-- It prints the number of complete frames, the seconds, and the bytes.

local ffi = require "ffi"

local M = {}

---@class bench.StreamCounter
---@field frames integer complete ones
---@field bytes integer
---@field private left integer bytes that are missing of the current frame
---@field private size integer the part of a frame's length that has been read
---@field private shift integer the weight of the next 7 bits of the length
local Counter = {}
Counter.__index = Counter

---@return bench.StreamCounter
function M.new() return setmetatable({ frames = 0, bytes = 0, left = 0, size = 0, shift = 1 }, Counter) end

--- Takes the next bytes of the stream.
---@param data ffi.cdata* uint8_t *
---@param n integer
function Counter:take(data, n)
  local at, left, size, shift, frames = 0, self.left, self.size, self.shift, self.frames
  self.bytes = self.bytes + n
  while true do
    if left > n - at then
      left = left - (n - at)
      break
    end
    at = at + left
    if left > 0 then frames = frames + 1 end
    left = 0
    if at == n then break end
    local byte = data[at]
    at = at + 1
    if byte < 128 then
      left, size, shift = size + byte * shift, 0, 1
    else
      size, shift = size + (byte - 128) * shift, shift * 128
    end
  end
  self.left, self.size, self.shift, self.frames = left, size, shift, frames
end

--- Returns whether the stream stands between two frames.
---@return boolean
function Counter:is_whole() return self.left == 0 and self.shift == 1 end

-- As a program

local CAPACITY = 2 ^ 20 -- bytes

local function connect(port)
  ffi.cdef [[
    typedef struct { uint16_t family; uint8_t rest[14]; } chalk_bench_address;
    int socket(int family, int type, int protocol);
    int connect(int fd, const chalk_bench_address *, unsigned size);
    long recv(int fd, void *, size_t, int flags);
  ]]
  local address = ffi.new("chalk_bench_address", { 2 })
  address.rest[0], address.rest[1] = math.floor(port / 256), port % 256
  address.rest[2], address.rest[5] = 127, 1
  local fd = ffi.C.socket(2, 1, 0)
  assert(ffi.C.connect(fd, address, 16) == 0, "the connection was refused")
  return fd
end

local function main(port, seconds)
  local C = require("chalk.core").C
  local fd, data, counter = connect(port), ffi.new("uint8_t[?]", CAPACITY), M.new()
  local function receive()
    local n = tonumber(ffi.C.recv(fd, data, CAPACITY, 0))
    assert(n > 0, "the stream has ended")
    counter:take(data, n)
  end
  io.write "connected\n"
  io.flush()
  receive()
  local from = C.chalk_now()
  while C.chalk_now() - from < seconds / 4 do -- the warm-up
    receive()
  end
  local started, frames, bytes = C.chalk_now(), counter.frames, counter.bytes
  while C.chalk_now() - started < seconds do
    receive()
  end
  io.write(("%d %.9f %d\n"):format(counter.frames - frames, C.chalk_now() - started, counter.bytes - bytes))
end

if arg and arg[0] and arg[0]:match "stream/counter%.lua$" then main(tonumber(arg[1]), tonumber(arg[2])) end

return M
