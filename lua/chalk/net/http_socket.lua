--- The listening socket of an HTTP server: system calls on its descriptor.
--
-- luv's own listeners accept in a loop that does not end after a few connections, and does not stop when descriptors
-- run out. So the server polls the socket, and this module makes the system calls that luv does not offer, with
-- Linux's numbers.

local bit = require "bit"
local ffi = require "ffi"
local uv = require "luv"

local M = {}

-- The functions are declared under private names (the real ones follow __asm__), and only once per VM, although this
-- module may be loaded again.
if not pcall(ffi.typeof, "chalk_http_sockaddr") then
  ffi.cdef [[
    typedef struct { uint16_t family; uint8_t port[2]; uint8_t rest[124]; } chalk_http_sockaddr;
    int chalk_http_getsockname(int fd, chalk_http_sockaddr *, unsigned *size) __asm__("getsockname");
    int chalk_http_listen(int fd, int backlog) __asm__("listen");
    int chalk_http_accept(int fd, void *address, void *size, int flags) __asm__("accept4");
    int chalk_http_fcntl(int fd, int command, ...) __asm__("fcntl");
    typedef union { void *handler; uint64_t mask; uint64_t size[32]; } chalk_http_signals;
    int chalk_http_sigmask(int how, const void *set, chalk_http_signals *old) __asm__("pthread_sigmask");
    int chalk_http_sigaction(int signal, const void *action, chalk_http_signals *old) __asm__("sigaction");
    void *chalk_http_signal(int signal, void *handler) __asm__("signal");
  ]]
end
local C = ffi.C

local AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
local SOCK_CLOEXEC_NONBLOCK = 0x80800
local F_DUPFD_CLOEXEC = 1030
local BACKLOG = 511
local FORMS = '"host:port", "[host]:port" or "unix:///path"'
local SIGPIPE = 13
local SIG_IGN = ffi.cast("void *", 1)

-- Returns the name of errno, such as "EMFILE", and its text.
local function failure()
  local code = ffi.errno()
  local message = uv.translate_sys_error(code) or "errno " .. code
  return message:match "^E%w+" or message, message
end

--- Ignores SIGPIPE, so that a peer that closes its connection does not end the process: libuv writes without
--- MSG_NOSIGNAL. Nothing changes if this thread blocks SIGPIPE, as a flush thread does, or if the program has set a
--- handler.
function M.survive_sigpipe()
  local old = ffi.new "chalk_http_signals"
  C.chalk_http_sigmask(0, nil, old)
  if bit.band(old.mask, bit.lshift(1ULL, SIGPIPE - 1)) ~= 0 then return end
  C.chalk_http_sigaction(SIGPIPE, nil, old)
  if old.handler == nil then C.chalk_http_signal(SIGPIPE, SIG_IGN) end
end

--- Accepts a connection.
---@param fd integer
---@return integer? fd
---@return string? name of the error, such as "EAGAIN"
---@return string? message
function M.accept(fd)
  local accepted = C.chalk_http_accept(fd, nil, nil, SOCK_CLOEXEC_NONBLOCK)
  if accepted >= 0 then return accepted end
  return nil, failure()
end

--- Listens on a bound stream socket. A socket that listens already stays as it is.
---@param fd integer
---@return boolean? unix whether it is a unix socket; nil: it cannot listen
---@return (integer|string)? port of a TCP socket, or the message
function M.listen(fd)
  local address, size = ffi.new "chalk_http_sockaddr", ffi.new("unsigned[1]", ffi.sizeof "chalk_http_sockaddr")
  if C.chalk_http_getsockname(fd, address, size) ~= 0 or C.chalk_http_listen(fd, BACKLOG) ~= 0 then
    return nil, select(2, failure())
  elseif address.family == AF_UNIX then
    return true
  elseif address.family == AF_INET or address.family == AF_INET6 then
    return false, address.port[0] * 256 + address.port[1]
  end
  return nil, "neither a TCP nor a unix socket"
end

local function bind_tcp(host, port)
  local handle = uv.new_tcp()
  local valid, ok, message = pcall(handle.bind, handle, host, port)
  if not valid then
    return handle, nil, ok
  elseif ok then
    ok, message = handle:getsockname() -- libuv reports "address in use" only here
  end
  return handle, ok, message
end

local function bind_unix(path)
  local handle = uv.new_pipe(false)
  return handle, handle:bind(path)
end

--- Binds an address: "127.0.0.1:9464", "[::1]:0" or "unix:///run/metrics.sock".
---
--- libuv binds, because it parses addresses, and unlinks a path when the handle is closed. The returned descriptor is a
--- duplicate of the handle's.
---@param address string
---@return integer? fd
---@return userdata|string handle the caller must close it together with the socket; or the message
function M.bind(address)
  local path = address:match "^unix://(.+)$"
  local host, port = address:match "^%[([^%]]*)%]:(%d+)$"
  if not host then
    host, port = address:match "^([^:]*):(%d+)$"
  end
  if not path and (not host or tonumber(port) > 65535) then return nil, "not an address: expected " .. FORMS end
  local handle, ok, message
  if path then
    handle, ok, message = bind_unix(path)
  else
    handle, ok, message = bind_tcp(host, tonumber(port))
  end
  local fd = ok and C.chalk_http_fcntl(handle:fileno(), F_DUPFD_CLOEXEC, ffi.cast("int", 3)) or -1
  if fd >= 0 then return fd, handle end
  message = message or select(2, failure())
  handle:close()
  return nil, message
end

return M
