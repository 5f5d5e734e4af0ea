-- Sends one GET at a time to 127.0.0.1 and waits for the answer, with a time limit. It uses no event loop, because the
-- controller forks.

local ffi = require "ffi"

local C = ffi.C

ffi.cdef [[
  typedef struct { uint16_t family, port; uint32_t address; char zero[8]; } soak_address;
  typedef struct { long seconds, microseconds; } soak_time;
  int socket(int domain, int kind, int protocol);
  int bind(int fd, const soak_address *address, unsigned size);
  int connect(int fd, const soak_address *address, unsigned size);
  int getsockname(int fd, soak_address *address, unsigned *size);
  int setsockopt(int fd, int level, int name, const void *value, unsigned size);
  long send(int fd, const char *bytes, size_t size, int flags);
  long recv(int fd, char *bytes, size_t size, int flags);
  int close(int fd);
]]

local M = {}

local INET, STREAM, CLOSE_ON_EXEC, NO_SIGNAL = 2, 1, 0x80000, 0x4000
local SOCKET_LEVEL, RECEIVE_TIMEOUT = 1, 20
local SIZE = 65536
local buffer = ffi.new("char[?]", SIZE)

local function swapped(n) return bit.bor(bit.lshift(bit.band(n, 255), 8), bit.rshift(n, 8)) end

local function loopback(port)
  return ffi.new("soak_address", { family = INET, port = swapped(port), address = 0x0100007f })
end

--- Returns a port that is free at the moment.
---@return integer
function M.free_port()
  local fd, address = C.socket(INET, STREAM, 0), loopback(0)
  local size = ffi.new("unsigned[1]", ffi.sizeof(address))
  assert(C.bind(fd, address, size[0]) == 0 and C.getsockname(fd, address, size) == 0)
  C.close(fd)
  return swapped(address.port)
end

local function unchunk(text)
  local chunks, at = {}, 1
  while true do
    local size, start = text:match("^(%x+)\r\n()", at)
    size = tonumber(size or "", 16)
    if not size then return nil end
    if size == 0 then return table.concat(chunks) end
    chunks[#chunks + 1] = text:sub(start, start + size - 1)
    at = start + size + 2
  end
end

local function body_of(text)
  local head, body = text:match "^(HTTP/1%.1 200 .-\r\n)\r\n(.*)$"
  if not head then return nil, "the answer is not 200: " .. text:sub(1, 80) end
  head = head:lower()
  local length = tonumber(head:match "\r\ncontent%-length: (%d+)\r\n")
  if length then return #body == length and body or nil, "the answer was cut short" end
  if head:find("\r\ntransfer-encoding: chunked\r\n", 1, true) then body = unchunk(body) end
  return body, "the answer was cut short"
end

local function exchange(fd, path)
  local request = ("GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"):format(path)
  if C.send(fd, request, #request, NO_SIGNAL) ~= #request then return nil, "the request could not be sent" end
  local received = {}
  while true do
    local n = tonumber(C.recv(fd, buffer, SIZE, 0))
    if n < 0 then return nil, "no answer in time" end
    if n == 0 then return body_of(table.concat(received)) end
    received[#received + 1] = ffi.string(buffer, n)
  end
end

--- Returns the body of a page, or nil and a message.
---@param port integer
---@param path string
---@param timeout number seconds to wait for more of the answer
---@return string?, string?
function M.get(port, path, timeout)
  local fd = C.socket(INET, STREAM + CLOSE_ON_EXEC, 0)
  assert(fd >= 0, "no socket")
  local limit = ffi.new("soak_time", { math.floor(timeout), timeout % 1 * 1e6 })
  C.setsockopt(fd, SOCKET_LEVEL, RECEIVE_TIMEOUT, limit, ffi.sizeof(limit))
  local address, body, why = loopback(port), nil, "the connection was refused"
  if C.connect(fd, address, ffi.sizeof(address)) == 0 then
    body, why = exchange(fd, path)
  end
  C.close(fd)
  return body, why
end

return M
