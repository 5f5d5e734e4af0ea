--- Receivers of datagrams and streams, as raw sockets. Packets are read only when the test reads them, and a receiver
--- can be closed with unread packets.

local ffi = require "ffi"
local uv = require "luv"

if not pcall(ffi.typeof, "chalk_spec_address") then
  ffi.cdef [[
    typedef struct { uint16_t family; uint8_t rest[126]; } chalk_spec_address;
    int chalk_spec_socket(int family, int type, int protocol) __asm__("socket");
    int chalk_spec_bind(int fd, const chalk_spec_address *, unsigned size) __asm__("bind");
    int chalk_spec_listen(int fd, int backlog) __asm__("listen");
    int chalk_spec_accept(int fd, void *, void *, int flags) __asm__("accept4");
    long chalk_spec_recv(int fd, void *, size_t, int flags) __asm__("recv");
    int chalk_spec_close(int fd) __asm__("close");
  ]]
end
local C = ffi.C

local M = {}

local AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
local STREAM, DATAGRAM, CLOEXEC_NONBLOCK = 1, 2, 0x80800

local Receiver = {}
Receiver.__index = Receiver

local function open(family, type, address, size)
  local fd = C.chalk_spec_socket(family, type + CLOEXEC_NONBLOCK, 0)
  if fd < 0 or C.chalk_spec_bind(fd, address, size) ~= 0 then
    C.chalk_spec_close(fd)
    error "cannot bind"
  end
  return setmetatable({ fd = fd, buffer = ffi.new("char[?]", 65536), text = "", connections = {} }, Receiver)
end

local function inet_address(host, port)
  local address = ffi.new "chalk_spec_address"
  address.rest[0], address.rest[1] = math.floor(port / 256), port % 256
  if host == "::1" then
    address.family, address.rest[21] = AF_INET6, 1
    return address, 28
  end
  address.family, address.rest[2], address.rest[5] = AF_INET, 127, 1
  return address, 16
end

--- Opens a receiver on loopback. The port is outside of the range that the kernel gives to senders, so it stays free
--- after the receiver is closed.
---@param host "127.0.0.1"|"::1"|nil
---@param port integer? the port of an earlier receiver
function M.udp(host, port)
  local family, tries = host == "::1" and AF_INET6 or AF_INET, 0
  while true do
    local chosen = port or math.random(20000, 32000)
    local ok, self = pcall(open, family, DATAGRAM, inet_address(host, chosen))
    tries = tries + 1
    if ok then
      self.port = chosen
      return self
    end
    assert(not port and tries < 100, self)
  end
end

local function unix_address(path)
  local address = ffi.new("chalk_spec_address", { AF_UNIX })
  ffi.copy(address.rest, path)
  return address, 2 + #path + 1
end

---@param path string
function M.unixgram(path)
  local self = open(AF_UNIX, DATAGRAM, unix_address(path))
  self.path = path
  return self
end

---@param path string
---@param backlog integer?
function M.unixstream(path, backlog)
  local self = open(AF_UNIX, STREAM, unix_address(path))
  assert(C.chalk_spec_listen(self.fd, backlog or 8) == 0)
  self.path, self.listener, self.fd, self.is_stream = path, self.fd, -1, true
  return self
end

--- Accepts a stream's next connection. Returns nil if there is none.
function Receiver:accept()
  local fd = C.chalk_spec_accept(self.listener, nil, nil, CLOEXEC_NONBLOCK)
  if fd < 0 then return nil end
  self:hang_up()
  self.fd, self.text = fd, ""
  return true
end

--- Returns the next datagram, or the next bytes of a stream; nil if there is nothing, "" at a stream's end.
function Receiver:read()
  local n = tonumber(C.chalk_spec_recv(self.fd, self.buffer, 65536, 0))
  return n >= 0 and ffi.string(self.buffer, n) or nil
end

--- Returns all packets that have arrived. A stream's packets are taken out of their frames; the bytes of an incomplete
--- frame stay in `text`.
function Receiver:packets()
  local list = {}
  for bytes in function() return self:read() end do
    if not self.is_stream then
      list[#list + 1] = bytes
    elseif bytes == "" then
      break
    end
    self.text = self.is_stream and self.text .. bytes or ""
  end
  while #self.text >= 4 do
    local a, b, c, d = self.text:byte(1, 4)
    local size = a + b * 256 + c * 65536 + d * 16777216
    if #self.text < 4 + size then break end
    list[#list + 1] = self.text:sub(5, 4 + size)
    self.text = self.text:sub(5 + size)
  end
  return list
end

-- Returns a stream's next connection as another receiver; nil if there is none.
local function next_connection(self)
  local fd = C.chalk_spec_accept(self.listener, nil, nil, CLOEXEC_NONBLOCK)
  if fd < 0 then return nil end
  local connection = { fd = fd, buffer = self.buffer, text = "", is_stream = true, connections = {} }
  return setmetatable(connection, Receiver)
end

--- Returns all packets that have arrived, over all connections of a stream.
---@return string[]
function Receiver:all()
  if not self.listener then return self:packets() end
  for connection in next_connection, self do
    self.connections[#self.connections + 1] = connection
  end
  local list = {}
  for _, connection in ipairs(self.connections) do
    for _, packet in ipairs(connection:packets()) do
      list[#list + 1] = packet
    end
  end
  return list
end

--- Ends a stream's connections. The listener stays open.
function Receiver:hang_up()
  if self.fd >= 0 then C.chalk_spec_close(self.fd) end
  self.fd = -1
  for _, connection in ipairs(self.connections) do
    connection:hang_up()
  end
  self.connections = {}
end

--- Closes the receiver. The socket file stays.
function Receiver:close()
  self:hang_up()
  if self.listener then C.chalk_spec_close(self.listener) end
  self.listener = nil
end

function M.clock() return uv.hrtime() / 1e9 end

--- Runs the loop until a condition holds.
---@return any value what the condition returned; false after the deadline
function M.turn_until(condition, seconds)
  local ends, tick = M.clock() + (seconds or 10), uv.new_timer()
  tick:start(2, 2, function() end)
  local value = condition()
  while not value and M.clock() < ends do
    uv.run "once"
    value = condition()
  end
  tick:close()
  uv.run "nowait"
  return value or false
end

--- Starts a function in a coroutine of the loop, as an export is. Returns a task whose `done` is set at the end.
function M.start(f)
  local task = {}
  local thread = coroutine.create(function()
    task.results = { pcall(f) }
    task.done = true
  end)
  assert(coroutine.resume(thread))
  return task
end

--- Waits for the end of a task and returns what its function returned.
function M.join(task, seconds)
  assert(M.turn_until(function() return task.done end, seconds), "the task did not end")
  assert(task.results[1], task.results[2])
  return unpack(task.results, 2, 6)
end

--- Runs a function in a coroutine of the loop, waits for its end, and returns what it returned.
function M.run(f, seconds) return M.join(M.start(f), seconds) end

return M
