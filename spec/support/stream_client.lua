--- A client of an event stream, as a raw socket that is read only when the test reads it.

local ffi = require "ffi"
local reader = require "chalk.exporter.stream.reader"
local wait = require "support.wait"

if not pcall(ffi.typeof, "chalk_stream_spec_address") then
  ffi.cdef [[
    typedef struct { uint16_t family; uint8_t rest[126]; } chalk_stream_spec_address;
    typedef struct { int on, seconds; } chalk_stream_spec_linger;
    int chalk_stream_spec_socket(int family, int type, int protocol) __asm__("socket");
    int chalk_stream_spec_connect(int fd, const chalk_stream_spec_address *, unsigned size) __asm__("connect");
    int chalk_stream_spec_option(int fd, int level, int name, const void *, unsigned size) __asm__("setsockopt");
    int chalk_stream_spec_block(int fd, int command, long flags) __asm__("fcntl");
    long chalk_stream_spec_recv(int fd, void *, size_t, int flags) __asm__("recv");
    long chalk_stream_spec_send(int fd, const void *, size_t, int flags) __asm__("send");
    int chalk_stream_spec_shutdown(int fd, int how) __asm__("shutdown");
    int chalk_stream_spec_close(int fd) __asm__("close");
  ]]
end
local C = ffi.C

local M = {}

local AF_INET, STREAM, CLOEXEC = 2, 1, 0x80000
local SOL_SOCKET, SO_RCVBUF, SO_LINGER = 1, 8, 13
local SET_FLAGS, READ_WRITE_NONBLOCK, NO_SIGNAL = 4, 0x802, 0x4000
local AGAIN = 11
local CAPACITY = 2 ^ 16

local buffer = ffi.new("char[?]", CAPACITY)

---@class spec.StreamClient
---@field metadata table<string, chalk.stream.Metadata> the last metadata of each name
---@field described string[] the names of all metadata in the order of arrival
---@field metrics chalk.stream.Metric[] in the order of arrival
---@field ended string|nil "end" or "error" once the server has closed the connection
---@field bytes integer the number of received bytes
local Client = {}
Client.__index = Client

local function address_of(port)
  local address = ffi.new("chalk_stream_spec_address", { AF_INET })
  address.rest[0], address.rest[1] = math.floor(port / 256), port % 256
  address.rest[2], address.rest[5] = 127, 1
  return address
end

--- Connects to a port of loopback. Returns nil if the connection is refused.
---@param port integer
---@param options { room: integer?, capture: file*? }? `room`: the size of the kernel's receive buffer; `capture`: a
--- file to which the bytes are written without being parsed
---@return spec.StreamClient?
function M.connect(port, options)
  options = options or {}
  local fd = C.chalk_stream_spec_socket(AF_INET, STREAM + CLOEXEC, 0)
  assert(fd >= 0, "no socket")
  if options.room then C.chalk_stream_spec_option(fd, SOL_SOCKET, SO_RCVBUF, ffi.new("int[1]", options.room), 4) end
  if C.chalk_stream_spec_connect(fd, address_of(port), 16) ~= 0 then
    C.chalk_stream_spec_close(fd)
    return nil
  end
  C.chalk_stream_spec_block(fd, SET_FLAGS, READ_WRITE_NONBLOCK)
  return setmetatable({
    fd = fd,
    capture = options.capture,
    reader = reader.new(),
    bytes = 0,
    metadata = {},
    described = {},
    metrics = {},
  }, Client)
end

function Client:take(bytes)
  self.bytes = self.bytes + #bytes
  if self.capture then return self.capture:write(bytes) end
  for event in self.reader:feed(bytes) do
    if event.metadata then
      self.metadata[event.metadata.name] = event.metadata
      self.described[#self.described + 1] = event.metadata.name
    else
      self.metrics[#self.metrics + 1] = event.metric
    end
  end
end

--- Reads what has arrived, in a limited number of reads, because bytes may arrive faster than they are read. Raises an
--- error if the bytes are no event stream.
---@param times integer? the number of reads, default 4
---@return boolean open whether more may arrive
function Client:read(times)
  for _ = 1, times or 4 do
    if self.ended then break end
    local n = tonumber(C.chalk_stream_spec_recv(self.fd, buffer, CAPACITY, 0))
    if n < 0 then
      if ffi.errno() == AGAIN then break end
      self.ended = "error"
    elseif n == 0 then
      self.ended = "end"
    else
      self:take(ffi.string(buffer, n))
    end
  end
  return self.ended == nil
end

--- Returns a metric as text: name{key=value,...} operation value.
---@param metric chalk.stream.Metric
---@return string
function M.text(metric)
  local list = {}
  for key, value in pairs(metric.labels) do
    list[#list + 1] = key .. "=" .. value
  end
  table.sort(list)
  return ("%s{%s} %s %.17g"):format(metric.name, table.concat(list, ","), metric.operation, metric.value)
end

--- Returns all metrics that have arrived, as text, and clears them.
---@return string[]
function Client:lines()
  local list = {}
  for i, metric in ipairs(self.metrics) do
    list[i] = M.text(metric)
  end
  self.metrics = {}
  return list
end

--- Reads until a condition holds. `turn` is called in between and lets the server work, if it has no thread.
---@param condition fun(): any
---@param turn fun()?
---@param what string?
function Client:till(condition, turn, what)
  return wait.till(function()
    if turn then turn() end
    self:read()
    return condition()
  end, 20, what)
end

---@return integer sent bytes, or -1
function Client:send(bytes) return tonumber(C.chalk_stream_spec_send(self.fd, bytes, #bytes, NO_SIGNAL)) end

--- Closes the sending side. Reading is still possible.
function Client:half_close() C.chalk_stream_spec_shutdown(self.fd, 1) end

function Client:close()
  if self.fd >= 0 then C.chalk_stream_spec_close(self.fd) end
  self.fd, self.ended = -1, self.ended or "closed"
end

--- Ends the connection with a reset.
function Client:reset()
  C.chalk_stream_spec_option(self.fd, SOL_SOCKET, SO_LINGER, ffi.new("chalk_stream_spec_linger", { 1, 0 }), 8)
  self:close()
end

return M
