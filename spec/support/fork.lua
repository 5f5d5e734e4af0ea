--- Forks children of the spec's own process, and shares memory with them.

local ffi = require "ffi"

local C = ffi.C

ffi.cdef [[
  int fork(void);
  int waitpid(int pid, int *status, int options);
  int kill(int pid, int signal);
  int getpid(void);
  int getppid(void);
  void _exit(int code);
  void *mmap(void *address, size_t size, int protection, int flags, int fd, long offset);
  int munmap(void *address, size_t size);
]]

local M = { KILL = 9, TERM = 15 }

local READ_WRITE, SHARED_ANONYMOUS = 3, 0x21

--- Returns n doubles that this process shares with its children. They are zero at first.
---@param n integer
function M.shared(n)
  local size = math.max(n * 8, 4096)
  local base = C.mmap(nil, size, READ_WRITE, SHARED_ANONYMOUS, -1, 0)
  assert(ffi.cast("intptr_t", base) ~= -1)
  return ffi.gc(ffi.cast("volatile double *", base), function(p) C.munmap(ffi.cast("void *", p), size) end)
end

--- Runs f in a child. The child ends by _exit, so that it runs no finalizer and flushes no output of the parent.
---@param f fun()
---@return integer pid
function M.child(f, ...)
  local pid = C.fork()
  assert(pid >= 0)
  if pid > 0 then return pid end
  local ok, message = pcall(f, ...)
  if not ok then io.stderr:write("child: ", tostring(message), "\n") end
  C._exit(ok and 0 or 1)
end

--- Waits for a child. Returns its exit code, or nil and the signal that ended it.
---@param pid integer
---@return integer? code, integer? signal
function M.wait(pid)
  local status = ffi.new "int[1]"
  assert(C.waitpid(pid, status, 0) == pid)
  local signal = bit.band(status[0], 0x7f)
  if signal ~= 0 then return nil, signal end
  return bit.band(bit.rshift(status[0], 8), 0xff)
end

---@param pid integer
---@param signal integer
function M.kill(pid, signal) C.kill(pid, signal) end

function M.pid() return C.getpid() end

function M.parent() return C.getppid() end

return M
