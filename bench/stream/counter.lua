-- Counts the frames of an event stream by their lengths, without a look into them: what a client costs at least.
--
--     luajit bench/stream/counter.lua PORT SECONDS     connects, waits for a first event, then counts
--
-- It writes how many whole frames came, in how many seconds, and the bytes.

local ffi = require "ffi"

local M = {}

---@class bench.StreamCounter
---@field frames integer whole ones
---@field bytes integer
---@field private left integer of the frame under way, still to come
---@field private size integer of a length under way
---@field private shift integer
local Counter = {}
Counter.__index = Counter

---@return bench.StreamCounter
function M.new() return setmetatable({ frames = 0, bytes = 0, left = 0, size = 0, shift = 1 }, Counter) end

--- The next bytes of the stream.
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

--- Whether it stands between two frames.
---@return boolean
function Counter:is_whole() return self.left == 0 and self.shift == 1 end

-- As a program

local ROOM = 2 ^ 20

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
  assert(ffi.C.connect(fd, address, 16) == 0, "nobody listens")
  return fd
end

local function main(port, seconds)
  local C = require("chalk.core").C
  local fd, data, counter = connect(port), ffi.new("uint8_t[?]", ROOM), M.new()
  local function receive()
    local n = tonumber(ffi.C.recv(fd, data, ROOM, 0))
    assert(n > 0, "the stream has ended")
    counter:take(data, n)
  end
  io.write "connected\n"
  io.flush()
  receive()
  local from = C.chalk_now()
  while C.chalk_now() - from < seconds / 4 do -- compiling, and filling what has to be filled
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
