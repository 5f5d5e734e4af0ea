-- System calls through the FFI, with Linux's numbers: client sockets, which never block; socket addresses; and the
-- identity of files. A call that fails returns nil and errno, unless its comment says otherwise.

local ffi = require "ffi"

local M = {}

-- The functions are declared under private names (the real ones follow __asm__), and only once per VM, although this
-- module may be loaded again.
if not pcall(ffi.typeof, "chalk_net_sockaddr") then
  ffi.cdef [[
    typedef struct { uint16_t family; uint8_t rest[126]; } chalk_net_sockaddr;
    typedef struct chalk_net_addrinfo {
      int flags, family, type, protocol;
      unsigned size;
      chalk_net_sockaddr *address;
      char *name;
      struct chalk_net_addrinfo *next;
    } chalk_net_addrinfo;
    typedef struct { int fd; short events, found; } chalk_net_pollfd;
    typedef struct {
      uint32_t before[8];
      uint64_t inode, size, blocks, attributes;
      struct { int64_t seconds; uint32_t nanoseconds; int32_t reserved; } accessed, born, changed, modified;
      uint32_t special[2], device[2];
      uint64_t after[14];
    } chalk_net_statx;
    int chalk_net_socket(int family, int type, int protocol) __asm__("socket");
    int chalk_net_connect(int fd, const chalk_net_sockaddr *, unsigned size) __asm__("connect");
    long chalk_net_send(int fd, const void *, size_t size, int flags) __asm__("send");
    long chalk_net_recv(int fd, void *, size_t size, int flags) __asm__("recv");
    int chalk_net_getsockopt(int fd, int level, int name, int *value, unsigned *size) __asm__("getsockopt");
    int chalk_net_close(int fd) __asm__("close");
    int chalk_net_poll(chalk_net_pollfd *, unsigned long n, int timeout) __asm__("poll");
    int chalk_net_epoll_create(int flags) __asm__("epoll_create1");
    int chalk_net_epoll_add(int epoll, int operation, int fd, const uint32_t *event) __asm__("epoll_ctl");
    int chalk_net_statx_at(int fd, const char *path, int flags, unsigned mask,
                              chalk_net_statx *) __asm__("statx");
    int chalk_net_getaddrinfo(const char *host, const char *service, const chalk_net_addrinfo *hints,
                                 chalk_net_addrinfo **found) __asm__("getaddrinfo");
    void chalk_net_freeaddrinfo(chalk_net_addrinfo *) __asm__("freeaddrinfo");
    const char *chalk_net_gai_strerror(int code) __asm__("gai_strerror");
    const char *chalk_net_strerror(int code) __asm__("strerror");
  ]]
end
local C = ffi.C

M.EINTR, M.EAGAIN, M.EMSGSIZE, M.EPROTOTYPE = 4, 11, 90, 91
M.ECONNRESET, M.ENOBUFS, M.ENOTCONN, M.ETIMEDOUT, M.ECONNREFUSED = 104, 105, 107, 110, 111
M.ENOENT, M.EPIPE = 2, 32

M.STREAM, M.DATAGRAM = 1, 2

local AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
local NONBLOCK_CLOEXEC = 0x80800
local SOL_SOCKET, SO_ERROR = 1, 4
local PEEK_DONTWAIT, DONTWAIT_NOSIGNAL = 0x42, 0x4040
local AI_NUMERICHOST = 4
local AT_FDCWD, STATX_CTIME_INO = -100, 0x180
local POLLIN, POLLOUT = 1, 4 -- EPOLLIN, EPOLLOUT too
local EPOLL_CLOEXEC, EPOLL_CTL_ADD = 0x80000, 1
local UNIX_PATH = 107

local value, value_size = ffi.new "int[1]", ffi.new("unsigned[1]", 4)
local byte = ffi.new "char[1]"
local status = ffi.new "chalk_net_statx"

--- Returns the text of an errno.
---@param code integer
---@return string
function M.describe(code) return ffi.string(C.chalk_net_strerror(code)) end

-- Addresses

---@class chalk.net.Sockaddr
---@field bytes ffi.cdata*
---@field size integer
---@field family integer
---@field text string identifies the address: equal for equal addresses; not printable
---@field is_loopback boolean

local function copy_of(found)
  local bytes = ffi.new "chalk_net_sockaddr"
  ffi.copy(bytes, found.address, found.size)
  local rest, size = bytes.rest, tonumber(found.size)
  local is_loopback = found.family == AF_INET and rest[2] == 127
  if found.family == AF_INET6 then
    -- The host follows the port and the flow label. Loopback addresses are ::1 and ::ffff:127.x.x.x.
    local host = ffi.string(rest + 6, 16)
    is_loopback = host == ("\0"):rep(15) .. "\1" or host:sub(1, 13) == ("\0"):rep(10) .. "\255\255\127"
  end
  return {
    bytes = bytes,
    size = size,
    family = found.family,
    text = ffi.string(bytes, size),
    is_loopback = is_loopback,
  }
end

--- Resolves a host to its addresses, for stream and datagram sockets. Blocks, unless `numeric` is true.
---@param host string
---@param port integer
---@param numeric boolean? true: the host must be a numeric address, and a name is an error
---@return chalk.net.Sockaddr[]?, string? message
function M.addresses(host, port, numeric)
  local hints, found = ffi.new "chalk_net_addrinfo", ffi.new "chalk_net_addrinfo *[1]"
  -- The query names one type of socket, because without it each address would be listed once for every type.
  hints.type, hints.flags = M.DATAGRAM, numeric and AI_NUMERICHOST or 0
  local code = C.chalk_net_getaddrinfo(host, tostring(port), hints, found)
  if code ~= 0 then return nil, ffi.string(C.chalk_net_gai_strerror(code)) end
  local list, at = {}, found[0]
  while at ~= nil do
    if at.family == AF_INET or at.family == AF_INET6 then list[#list + 1] = copy_of(at) end
    at = at.next
  end
  C.chalk_net_freeaddrinfo(found[0])
  return list
end

--- Returns the address of a unix socket.
---@param path string
---@return chalk.net.Sockaddr?, string? message
function M.unix_address(path)
  if #path > UNIX_PATH then return nil, ("the path is longer than %d bytes"):format(UNIX_PATH) end
  local bytes = ffi.new("chalk_net_sockaddr", { AF_UNIX })
  ffi.copy(bytes.rest, path, #path)
  return { bytes = bytes, size = 2 + #path + 1, family = AF_UNIX, text = path, is_loopback = true }
end

-- Sockets

--- Opens a connected socket that never blocks.
---@param address chalk.net.Sockaddr
---@param type integer STREAM or DATAGRAM
---@return integer? fd, integer? errno
function M.connect(address, type)
  local fd = C.chalk_net_socket(address.family, type + NONBLOCK_CLOEXEC, 0)
  if fd < 0 then return nil, ffi.errno() end
  if C.chalk_net_connect(fd, address.bytes, address.size) == 0 then return fd end
  local code = ffi.errno()
  C.chalk_net_close(fd)
  return nil, code
end

---@param fd integer
function M.close(fd) C.chalk_net_close(fd) end

--- Sends bytes. A stream may take only some of them.
---@param fd integer
---@param data ffi.cdata*|string
---@param size integer
---@return integer? sent, integer? errno
function M.send(fd, data, size)
  local sent = tonumber(C.chalk_net_send(fd, data, size, DONTWAIT_NOSIGNAL))
  if sent >= 0 then return sent end
  return nil, ffi.errno()
end

--- Reads and clears the error that waits at a socket, such as the refusal of a datagram.
---@param fd integer
---@return integer errno 0: no error
function M.take_error(fd)
  value[0], value_size[0] = 0, 4
  C.chalk_net_getsockopt(fd, SOL_SOCKET, SO_ERROR, value, value_size)
  return value[0]
end

--- Whether the peer of a stream has closed it.
---@param fd integer
---@return boolean
function M.is_ended(fd)
  local n = tonumber(C.chalk_net_recv(fd, byte, 1, PEEK_DONTWAIT))
  return n == 0 or n < 0 and ffi.errno() ~= M.EAGAIN
end

--- Waits for an event at a socket, and blocks the thread.
---@param fd integer negative: waits only for the time
---@param events "r"|"w"
---@param seconds number
---@return boolean ready whether an event or an error occurred before the time was over
function M.poll(fd, events, seconds)
  local set = ffi.new("chalk_net_pollfd[1]", { { fd, events == "w" and POLLOUT or POLLIN, 0 } })
  return C.chalk_net_poll(set, 1, math.ceil(seconds * 1000)) > 0
end

--- Makes a descriptor that becomes readable when an event or an error occurs at a socket. luv polls this descriptor and
--- not the socket, because it prints the errors of sockets that it polls.
---@param fd integer
---@param events "r"|"w"
---@return integer? watcher, integer? errno
function M.watch(fd, events)
  local watcher = C.chalk_net_epoll_create(EPOLL_CLOEXEC)
  if watcher < 0 then return nil, ffi.errno() end
  -- Four words are enough for struct epoll_event with and without the padding that it has on some machines.
  local event = ffi.new("uint32_t[4]", { events == "w" and POLLOUT or POLLIN })
  if C.chalk_net_epoll_add(watcher, EPOLL_CTL_ADD, fd, event) == 0 then return watcher end
  local code = ffi.errno()
  C.chalk_net_close(watcher)
  return nil, code
end

-- Files

--- Identifies the file at a path by a text, which differs if another file has replaced it. The inode's number alone is
--- not enough, because file systems use it again at once, so the text contains the time of the last change too.
---@param path string
---@return string? identity, integer? errno 0: the C library has no statx
function M.identity(path)
  local ok, result = pcall(function() return C.chalk_net_statx_at(AT_FDCWD, path, 0, STATX_CTIME_INO, status) end)
  if not ok then return nil, 0 end
  if result ~= 0 then return nil, ffi.errno() end
  local changed, device = status.changed, status.device
  return ("%s:%s:%s:%s:%s"):format(
    tostring(status.inode),
    device[0],
    device[1],
    tostring(changed.seconds),
    changed.nanoseconds
  )
end

return M
