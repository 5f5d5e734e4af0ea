-- A client socket that sends packets over UDP or a unix socket, one at a time, and reports for each whether it arrived.
--
--   if not socket:ready() then return nil, socket.last_error end
--   assert(socket:open())                                -- connects if necessary
--   for each packet do
--     assert(socket:send(buffer, size))                  -- hands the packet to the kernel
--     ... make the next packet ...
--     assert(socket:confirm())                           -- the packet has arrived, as far as can be known: commit it
--   end                                                  -- for the last packet: assert(socket:finish())
--
-- A packet counts as delivered only when `confirm` or `finish` returns true. For a unix socket this is when the kernel
-- has taken the packet. Over UDP, a refusal comes back later, as an error that waits at the socket. If nobody read this
-- error, it would make the next send fail instead of the one that was lost, and the send after that would seem to
-- succeed. So the error is read before the next packet is sent, and after the first and the last packet of a flush the
-- socket waits for it. A missing receiver therefore costs one packet, which is known to be lost, and no other is sent.
--
-- Nothing here blocks the loop. Sockets never block; if a socket is full or a name is being looked up, the export's
-- coroutine yields (chalk.net.pause). At most one packet is held in memory: for the rest of a partial write, or to send
-- it again to the next address of a name. A stream is closed if a packet is written only in part, because the receiver
-- could not find the start of the next one.

local bit = require "bit"
local backoffs = require "chalk.net.backoff"
local core = require "chalk.core"
local pauses = require "chalk.net.pause"
local resolve = require "chalk.net.resolve"
local system = require "chalk.net.system"

local ffi, now = core.ffi, core.now

local M = {}

--- The default of `max_packet` in bytes, by kind of address. Over UDP, a packet fits into an Ethernet frame.
M.PACKETS = { udp = 1432, unix = 8192, unixgram = 8192, unixstream = 8192 }

local HEADER = 4 -- bytes of the size before each packet of a stream
-- All times are in seconds.
local WRITE_TIMEOUT = 1
local FIRST_BACKOFF, LAST_BACKOFF = 0.1, 10
local EARLY = 0.9 -- shortens the longest backoff, so that a flush that comes slightly early does not skip its attempt
local RETRY = 0.01 -- between two attempts if the kernel does not report when a socket has space again
local REFUSAL_NEAR, REFUSAL_FAR = 0.002, 0.025 -- to wait for a refusal, from loopback and from other hosts

local TYPES = {
  unix = { system.DATAGRAM, system.STREAM },
  unixgram = { system.DATAGRAM },
  unixstream = { system.STREAM },
}

local GONE = {
  [system.ECONNREFUSED] = true,
  [system.ECONNRESET] = true,
  [system.ENOTCONN] = true,
  [system.EPIPE] = true,
}

---@class chalk.net.PacketSocketOptions
---@field max_packet integer? bytes (1432 for UDP, 8192 for unix sockets)
---@field write_timeout number? seconds to wait for a full socket (1)
---@field max_backoff number? seconds; a caller with a shorter flush interval passes that (10)
---@field refusal_wait number? seconds to wait for a refusal over UDP (0.002 on loopback, otherwise 0.025)
---@field clock (fun(): number)? the clock of the backoff and of resolved names
---@field lookup (fun(host: string, done: fun(err: string?, found: table?)))? replaces libuv's lookup

---@class chalk.net.PacketSocket
---@field packets_sent integer packets whose arrival was confirmed
---@field bytes_sent integer
---@field packets_dropped integer packets that were passed to `send` and did not arrive
---@field bytes_dropped integer
---@field reconnects integer
---@field last_error string?
local Socket = {}
Socket.__index = Socket

local function name_of(address)
  if address.kind ~= "udp" then return ("%s://%s"):format(address.kind, address.path) end
  return (address.host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(address.host, address.port)
end

--- Makes a socket for one receiver. It opens nothing yet.
---@param address chalk.net.Address kind: "udp" with host and port; "unix", "unixgram" or "unixstream" with path
---@param options chalk.net.PacketSocketOptions?
---@return chalk.net.PacketSocket
function M.new(address, options)
  options = options or {}
  local is_udp = address.kind == "udp"
  local clock = options.clock or now
  local max_packet = options.max_packet or M.PACKETS[address.kind]
  local max_backoff = options.max_backoff or LAST_BACKOFF
  return setmetatable({
    kind = address.kind,
    path = address.path,
    name = name_of(address),
    max_packet = max_packet,
    write_timeout = options.write_timeout or WRITE_TIMEOUT,
    latest = max_backoff * EARLY,
    refusal_wait = options.refusal_wait,
    clock = clock,
    resolver = is_udp and resolve.new(address.host, address.port, { clock = clock, lookup = options.lookup })
      or nil,
    pause = pauses.new(),
    held = ffi.new("uint8_t[?]", max_packet + HEADER),
    written = 0, -- bytes of the current packet that were written, with its header
    unconfirmed = nil, -- the size of a packet that was sent and is not confirmed yet
    backoff = backoffs.new(FIRST_BACKOFF, max_backoff),
    retry_at = -math.huge,
    packets_sent = 0,
    bytes_sent = 0,
    packets_dropped = 0,
    bytes_dropped = 0,
    reconnects = 0,
  }, Socket)
end

function Socket:disconnect()
  if self.fd then system.close(self.fd) end
  self.fd, self.written = nil, 0
end

function Socket:connected(fd, is_stream)
  self.fd, self.is_stream, self.written = fd, is_stream, 0
  if self.was_connected then self.reconnects = self.reconnects + 1 end
  self.was_connected = true
  return true
end

function Socket:failure(what, code)
  local why = code == system.ETIMEDOUT and ("nothing was read for %g s"):format(self.write_timeout)
    or system.describe(code)
  return ("%s %s: %s"):format(what, self.name, why)
end

-- Records a failure. The next attempt follows after a pause, which counts from the start of this attempt.
function Socket:fail(message)
  self.last_error = message
  self.retry_at = self.started + math.max(FIRST_BACKOFF, math.min(self.backoff:failed(), self.latest))
  return nil, message
end

function Socket:drop(size)
  self.packets_dropped = self.packets_dropped + 1
  self.bytes_dropped = self.bytes_dropped + size
end

--- Whether the pause after the last failure is over.
---@return boolean
function Socket:ready() return self.clock() >= self.retry_at end

-- UDP

-- Connects to the next address of the list for which that succeeds. Each address is tried once per flush.
local function connect_next(self)
  local code = system.ECONNREFUSED
  while self.tries < #self.list do
    self.tries = self.tries + 1
    self.index = self.index % #self.list + 1
    local address = self.list[self.index]
    local fd, problem = system.connect(address, system.DATAGRAM)
    code = problem
    if fd then
      self.current = address
      return self:connected(fd, false)
    end
  end
  return nil, self:failure("cannot send to", code)
end

local function index_of(list, address)
  for index, other in ipairs(list) do
    if address and other.text == address.text then return index end
  end
end

local function open_udp(self)
  local list, message = self.resolver:addresses(self.pause)
  if not list then return nil, message end
  local index = index_of(list, self.current)
  self.list, self.tries = list, 1
  if self.fd and index then
    -- The packet before was confirmed already, so its refusal can only be counted.
    if system.take_error(self.fd) ~= 0 then self:drop(self.last_size or 0) end
    self.index = index
    return true
  end
  self:disconnect()
  self.tries, self.index = 0, index and index - 1 or self.index or 0
  return connect_next(self)
end

-- Returns the error that waits at the socket, if any. `waits`: waits for it.
local function refusal(self, waits)
  local code = system.take_error(self.fd)
  if code == 0 and waits then
    local seconds = self.refusal_wait or (self.current.is_loopback and REFUSAL_NEAR or REFUSAL_FAR)
    if seconds > 0 and self.pause:fd(self.fd, "r", seconds) then code = system.take_error(self.fd) end
  end
  return code ~= 0 and code or nil
end

-- Sends the held packet to the next address.
local function send_elsewhere(self)
  self:disconnect()
  if not connect_next(self) then return false end
  return system.send(self.fd, self.held, self.unconfirmed) == self.unconfirmed
end

-- Until the first packet of a flush is delivered, a refusal moves on to the next address of the name.
local function confirm_udp(self, is_last)
  local waits = is_last or not self.is_proven
  local code = refusal(self, waits)
  while code and not self.is_proven and self.tries < #self.list do
    code = not send_elsewhere(self) and code or refusal(self, true)
  end
  if not code then
    self.is_proven = true
    return true
  end
  self:disconnect()
  self.resolver:doubt()
  self.current = nil -- so that the next flush begins with the next address
  return nil, self:failure("cannot send to", code)
end

-- Unix sockets

-- Connects to the socket at the path, trying each type that the kind of address allows. EAGAIN means that the backlog
-- of a listener is full.
local function connect_unix(self)
  local address, problem = system.unix_address(self.path)
  if not address then return nil, ("cannot connect to %s: %s"):format(self.name, problem) end
  self.identity = system.identity(self.path)
  local ends, types, at = now() + self.write_timeout, TYPES[self.kind], 1
  while true do
    local fd, code = system.connect(address, types[at])
    if fd then return self:connected(fd, types[at] == system.STREAM) end
    if code == system.EPROTOTYPE and types[at + 1] then
      at = at + 1
    elseif code ~= system.EAGAIN then
      return nil, self:failure("cannot connect to", code)
    elseif now() >= ends then
      return nil, self:failure("cannot connect to", system.ETIMEDOUT)
    else
      self.pause:sleep(RETRY)
    end
  end
end

-- Connects again if the file was replaced, or if the peer of a stream has closed it.
local function open_unix(self)
  local identity, code = system.identity(self.path)
  local is_replaced = identity and identity ~= self.identity or code == system.ENOENT
  if self.fd and (is_replaced or self.is_stream and system.is_ended(self.fd)) then self:disconnect() end
  if self.fd then return true end
  return connect_unix(self)
end

-- Sending

-- Waits until a full socket has space. Returns false after the deadline.
local function wait_for_space(self, code, ends)
  local left = ends - now()
  if left <= 0 then return false end
  if code == system.ENOBUFS then
    self.pause:sleep(math.min(RETRY, left))
  elseif code == system.EAGAIN then
    self.pause:fd(self.fd, "w", left)
  end
  return true
end

-- Writes `size` bytes, of which `written` were written before. A datagram is written as a whole or not at all. Returns
-- nothing, or an error's errno.
local function write(self, data, size)
  local ends
  repeat
    local n, code = system.send(self.fd, data + self.written, size - self.written)
    if n then
      self.written = self.written + n
    elseif code ~= system.EAGAIN and code ~= system.ENOBUFS and code ~= system.EINTR then
      return code
    else
      ends = ends or now() + self.write_timeout
      if not wait_for_space(self, code, ends) then return system.ETIMEDOUT end
    end
  until self.written >= size
  self.written = 0
end

local function frame(self, data, size)
  local held = self.held
  for i = 0, HEADER - 1 do
    held[i] = bit.band(bit.rshift(size, 8 * i), 255)
  end
  ffi.copy(held + HEADER, data, size)
  return held, size + HEADER
end

-- Returns the bytes to write for a packet. They are copied if the packet may be sent again or written in several steps.
local function packet(self, data, size)
  if self.is_stream then return frame(self, data, size) end
  if type(data) == "string" or self.kind == "udp" and not self.is_proven then
    ffi.copy(self.held, data, size)
    return self.held, size
  end
  return ffi.cast("const uint8_t *", data), size
end

-- Writes a packet. If the receiver of a unix socket is gone before a byte was written, the socket is opened once more,
-- because there may be a new receiver.
local function transmit(self, data, size)
  local code = write(self, packet(self, data, size))
  if GONE[code] and self.kind ~= "udp" and self.written == 0 then
    self:disconnect()
    local ok, message = connect_unix(self)
    if not ok then return code, message end
    code = write(self, packet(self, data, size))
  end
  return code
end

--- Begins a flush: connects, or checks that the connection still leads to the receiver.
---@param blocking boolean? true: no loop runs, so waiting blocks
---@return true?, string? message
function Socket:open(blocking)
  self.pause:forget()
  self.pause.blocking = blocking
  self.started = self.clock()
  -- An export that never ended has written a part of a packet.
  if self.written > 0 then self:disconnect() end
  self.unconfirmed, self.is_proven = nil, false
  local ok, message = (self.resolver and open_udp or open_unix)(self)
  if not ok then return self:fail(message) end
  return true
end

--- Sends a packet, after `open` and after the packet before was confirmed. May wait for space, up to `write_timeout`.
---@param data ffi.cdata*|string must not change until this returns
---@param size integer? number of bytes; required for a pointer
---@return true?, string? message, boolean? too_large true: this packet is too large, but others can be sent
function Socket:send(data, size)
  size = size or #data
  if not self.fd or self.unconfirmed then error("send must follow open, or confirm of the packet before", 2) end
  local code, message
  if size > self.max_packet then
    code = system.EMSGSIZE
  else
    code, message = transmit(self, data, size)
  end
  if not code then
    self.unconfirmed, self.last_size = size, size
    return true
  end
  self:drop(size)
  message = message or self:failure("cannot send to", code)
  if code == system.EMSGSIZE then
    self.last_error = message
    return nil, message, true
  end
  if self.written > 0 or code ~= system.ETIMEDOUT then self:disconnect() end
  if self.resolver then self.resolver:doubt() end
  return self:fail(message)
end

local function confirm(self, is_last)
  local size = self.unconfirmed
  if not size then return true end
  local ok, message = true, nil
  if self.resolver then
    ok, message = confirm_udp(self, is_last)
  end
  self.unconfirmed = nil
  if not ok then
    self:drop(size)
    return self:fail(message)
  end
  self.packets_sent, self.bytes_sent = self.packets_sent + 1, self.bytes_sent + size
  self.backoff:succeeded()
  self.retry_at = -math.huge
  return true
end

--- Confirms the last packet: returns true if it has arrived, as far as can be known. The caller should ask as late as
--- possible, right before it sends the next packet. May wait for a short time.
---@return true?, string? message
function Socket:confirm() return confirm(self, false) end

--- Confirms the last packet of a flush, and waits for a possible refusal.
---@return true?, string? message
function Socket:finish() return confirm(self, true) end

--- Drops the connection and a wait in progress, in a forked child. Both belong to the parent.
function Socket:forked()
  self.pause:forget()
  self:disconnect()
  self.unconfirmed = nil
end

--- Closes the socket. An export that waits for it does not continue.
function Socket:close()
  self.pause:cancel()
  self:disconnect()
  self.unconfirmed = nil
end

return M
