-- Forked children, and pipes of doubles between processes.

local ffi = require "ffi"

local C = ffi.C

-- Another module may have declared some of these already, in words that LuaJIT does not accept a second time.
pcall(
  ffi.cdef,
  [[
  int fork(void);
  int waitpid(int pid, int *status, int options);
  int kill(int pid, int signal);
  void _exit(int status);
  int pipe(int fds[2]);
  long read(int fd, void *buffer, size_t size);
  long write(int fd, const void *buffer, size_t size);
  int close(int fd);
]]
)

local M = { KILL = 9 }

local value = ffi.new "double[1]"

--- Runs f in a child, which ends by _exit: with 0 when f returns, or with 1 and a message if f raises an error.
---@param f fun(...)
---@return integer pid
function M.fork(f, ...)
  local pid = C.fork()
  assert(pid >= 0, "fork failed")
  if pid > 0 then return pid end
  local ok, message = pcall(f, ...)
  if not ok then io.stderr:write(tostring(message), "\n") end
  C._exit(ok and 0 or 1)
end

---@param pid integer
function M.wait(pid) C.waitpid(pid, nil, 0) end

---@param pid integer
---@param signal integer
function M.kill(pid, signal) C.kill(pid, signal) end

--- Opens a pipe.
---@return integer reader, integer writer
function M.pipe()
  local fds = ffi.new "int[2]"
  assert(C.pipe(fds) == 0, "pipe failed")
  return fds[0], fds[1]
end

--- Writes a double to a pipe.
---@param fd integer
---@param number number
function M.put(fd, number)
  value[0] = number
  assert(C.write(fd, value, 8) == 8, "write failed")
end

--- Reads a double from a pipe; nil if the other end was closed.
---@param fd integer
---@return number?
function M.get(fd)
  local n = C.read(fd, value, 8)
  return n == 8 and value[0] or nil
end

---@param fd integer
function M.close(fd) C.close(fd) end

return M
