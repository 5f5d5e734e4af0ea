-- A client socket that sends packets over UDP or a unix socket, one at a time, and knows what became of each.
--
--   if not socket:ready() then return nil, socket.last_error end
--   assert(socket:open())                                -- connects, where it has to
--   for each packet do
--     assert(socket:send(buffer, size))                  -- the packet is on its way ..
--     ... make the next packet ...
--     assert(socket:confirm())                           -- .. and arrived as far as can be known: commit it
--   end                                                  -- for the last packet: assert(socket:finish())
--
-- A packet is good only when `confirm` or `finish` says so. To a unix socket that is when the kernel took it. Over UDP
-- a refusal comes back later, as an error that waits at the socket; unread, it would make the next send fail in place
-- of the one that was lost, and the one after it "succeed" again. So the error is read before the next packet goes
-- out, and is waited for after a flush's first packet and its last: a receiver that is away costs one packet, which is
-- known not to have arrived, and no other is sent.
--
-- Nothing blocks the loop: sockets do not, and where one is full, or a name is being looked up, the export's coroutine
-- yields (chalk.net.pause). One packet is held, no more: for the rest of a partial write, and for the next
-- address of a name when the first one refuses. A stream that is given up in mid-packet is closed, being out of step.

local bit = require "bit"
local backoffs = require "chalk.net.backoff"
local core = require "chalk.core"
local pauses = require "chalk.net.pause"
local resolve = require "chalk.net.resolve"
local system = require "chalk.net.system"

local ffi, now = core.ffi, core.now

local M = {}

--- The longest packet in bytes, by kind of address, where the caller names none: over UDP what an Ethernet frame holds.
M.PACKETS = { udp = 1432, unix = 8192, unixgram = 8192, unixstream = 8192 }

local HEADER = 4 -- a stream's packets have their size before them
local WRITE_TIMEOUT = 1
local FIRST_BACKOFF, LAST_BACKOFF = 0.1, 10
local EARLY = 0.9 -- flushes do not come on the dot: the longest backoff must not make every other one come too soon
local RETRY = 0.01 -- where the kernel does not say when there is room again
local REFUSAL_NEAR, REFUSAL_FAR = 0.002, 0.025 -- how long a refusal may take to come back

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
---@field max_packet integer? bytes; 1432 for UDP, 8192 for unix sockets
---@field write_timeout number? seconds a full socket is waited for; 1
---@field max_backoff number? seconds; 10, or the flush interval where that is shorter
---@field refusal_wait number? seconds a refusal over UDP is waited for; 0.002 on loopback, otherwise 0.025
---@field clock (fun(): number)? for the backoff and for how long names are kept
---@field lookup fun(host: string, done: fun(err: string?, found: table?))? in place of libuv's

---@class chalk.net.PacketSocket
---@field packets_sent integer whose arrival was confirmed
---@field bytes_sent integer
---@field packets_dropped integer that were handed over and did not arrive
---@field bytes_dropped integer
---@field reconnects integer
---@field last_error string?
local Socket = {}
Socket.__index = Socket

local function name_of(address)
  if address.kind ~= "udp" then return ("%s://%s"):format(address.kind, address.path) end
  return (address.host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(address.host, address.port)
end

--- The way to one receiver. Nothing is opened yet.
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
    written = 0, -- of a stream's packet that is under way, header included
    unconfirmed = nil, -- the size of the packet that is on its way
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

-- What failed is tried again after a pause, counted from when it was begun.
function Socket:fail(message)
  self.last_error = message
  self.retry_at = self.started + math.max(FIRST_BACKOFF, math.min(self.backoff:failed(), self.latest))
  return nil, message
end

function Socket:drop(size)
  self.packets_dropped = self.packets_dropped + 1
  self.bytes_dropped = self.bytes_dropped + size
end

--- Whether enough time went by since the last failure.
---@return boolean
function Socket:ready() return self.clock() >= self.retry_at end

-- UDP

-- Connects to the next addresses of the list until one takes it; each is tried once a flush.
local function connect_next(self)
  local code = system.ECONNREFUSED
  while self.tries < #self.list do
    self.tries = self.tries + 1
    self.place = self.place % #self.list + 1
    local address = self.list[self.place]
    local fd, problem = system.connect(address, system.DATAGRAM)
    code = problem
    if fd then
      self.current = address
      return self:connected(fd, false)
    end
  end
  return nil, self:failure("cannot send to", code)
end

local function place_of(list, address)
  for place, other in ipairs(list) do
    if address and other.text == address.text then return place end
  end
end

local function open_udp(self)
  local list, message = self.resolver:addresses(self.pause)
  if not list then return nil, message end
  local place = place_of(list, self.current)
  self.list, self.tries = list, 1
  if self.fd and place then
    -- Too late to be told whose it was, but not to be counted.
    if system.take_error(self.fd) ~= 0 then self:drop(self.last_size or 0) end
    self.place = place
    return true
  end
  self:disconnect()
  self.tries, self.place = 0, place and place - 1 or self.place or 0
  return connect_next(self)
end

local function refusal(self, waits)
  local code = system.take_error(self.fd)
  if code == 0 and waits then
    local seconds = self.refusal_wait or (self.current.is_loopback and REFUSAL_NEAR or REFUSAL_FAR)
    if seconds > 0 and self.pause:fd(self.fd, "r", seconds) then code = system.take_error(self.fd) end
  end
  return code ~= 0 and code or nil
end

-- Sends the packet that is held to the next address.
local function send_elsewhere(self)
  self:disconnect()
  if not connect_next(self) then return false end
  return system.send(self.fd, self.held, self.unconfirmed) == self.unconfirmed
end

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
  self.current = nil -- the next flush begins with the next one
  return nil, self:failure("cannot send to", code)
end

-- Unix sockets

-- Connects to whatever kind of socket is at the path. A listener whose backlog is full says "again".
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

local function open_unix(self)
  local identity, code = system.identity(self.path)
  local is_replaced = identity and identity ~= self.identity or code == system.ENOENT
  if self.fd and (is_replaced or self.is_stream and system.is_ended(self.fd)) then self:disconnect() end
  if self.fd then return true end
  return connect_unix(self)
end

-- Sending

-- Waits until a full socket has room; false past the deadline.
local function wait_for_room(self, code, ends)
  local left = ends - now()
  if left <= 0 then return false end
  if code == system.ENOBUFS then
    self.pause:sleep(math.min(RETRY, left))
  elseif code == system.EAGAIN then
    self.pause:fd(self.fd, "w", left)
  end
  return true
end

-- Writes `size` bytes from `written` on; of a datagram that is all or nothing.
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
      if not wait_for_room(self, code, ends) then return system.ETIMEDOUT end
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

-- The packet as it goes out. It is held where it may have to go out again, or in parts.
local function packet(self, data, size)
  if self.is_stream then return frame(self, data, size) end
  if type(data) == "string" or self.kind == "udp" and not self.is_proven then
    ffi.copy(self.held, data, size)
    return self.held, size
  end
  return ffi.cast("const uint8_t *", data), size
end

-- A unix socket whose receiver has gone is opened once more, for there may be a new one; nothing of the packet went to
-- the old one.
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

--- Begins a flush: connects, or sees that what was connected is still the receiver.
---@param blocking boolean? nobody turns the loop: waiting blocks
---@return true?, string? message
function Socket:open(blocking)
  self.pause:forget()
  self.pause.blocking = blocking
  self.started = self.clock()
  -- Left by an export that never came to its end.
  if self.written > 0 then self:disconnect() end
  self.unconfirmed, self.is_proven = nil, false
  local ok, message = (self.resolver and open_udp or open_unix)(self)
  if not ok then return self:fail(message) end
  return true
end

--- Sends a packet. It may wait for room, up to `write_timeout`.
---@param data ffi.cdata*|string not to be changed until this returns
---@param size integer? of a pointer's bytes
---@return true?, string? message, boolean? too_large only this packet does not go: others may
function Socket:send(data, size)
  size = size or #data
  if not self.fd or self.unconfirmed then
    error("send comes after open, and after confirm of the packet before", 2)
  end
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

--- Whether the packet that was sent last arrived, as far as can be known. To be asked as late as possible, right before
--- the next one is sent. May wait shortly.
---@return true?, string? message
function Socket:confirm() return confirm(self, false) end

--- The same for a flush's last packet.
---@return true?, string? message
function Socket:finish() return confirm(self, true) end

--- In a forked child: the connection stays the parent's, and a wait that is under way, too.
function Socket:forked()
  self.pause:forget()
  self:disconnect()
  self.unconfirmed = nil
end

--- Closes it. An export that waits does not go on.
function Socket:close()
  self.pause:cancel()
  self:disconnect()
  self.unconfirmed = nil
end

return M
