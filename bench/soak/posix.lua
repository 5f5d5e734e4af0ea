-- System calls of the soak: processes, shared memory, descriptors, and figures from /proc.

local ffi = require "ffi"

local C = ffi.C

ffi.cdef [[
  int fork(void);
  int waitpid(int pid, int *status, int options);
  int kill(int pid, int signal);
  int getpid(void);
  int getppid(void);
  int setpgid(int pid, int group);
  int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
  void _exit(int code);
  void *mmap(void *address, size_t size, int protection, int flags, int fd, long offset);
  int poll(void *fds, unsigned long n, int timeout);
  int open(const char *path, int flags, int mode);
  int dup2(int from, int to);
  int close(int fd);
  int fcntl(int fd, int command, ...);
]]

local M = { KILL = 9, CONT = 18, STOP = 19 }

local READ_WRITE, SHARED_ANONYMOUS = 3, 0x21
local WRITE_CREATE_APPEND = 0x1 + 0x40 + 0x400
local NO_HANG, SUBREAPER, GET_FLAGS = 1, 36, 1
local MOST_DESCRIPTORS = 1024

--- Returns n doubles that this process shares with its children. They are zero at first and are never unmapped.
---@param n integer
function M.shared(n)
  local base = C.mmap(nil, n * 8, READ_WRITE, SHARED_ANONYMOUS, -1, 0)
  assert(ffi.cast("intptr_t", base) ~= -1, "mmap failed: no shared memory")
  return ffi.cast("double *", base)
end

--- Runs f in a child, which ends by _exit when f returns.
---@param f fun()
---@return integer pid
function M.fork(f)
  io.stdout:flush()
  local pid = C.fork()
  assert(pid >= 0, "fork failed")
  if pid > 0 then return pid end
  local ok, message = xpcall(f, debug.traceback)
  if not ok then M.fail(message) end
  C._exit(ok and 0 or 1)
end

local status = ffi.new "int[1]"

--- Returns a child that has ended, and its exit code, or nil and the signal that killed it. Returns nil if no child has
--- ended; with `wait`, waits until one does.
---@param pid integer? -1: any child
---@return integer? pid, integer? code, integer? signal
function M.reap(pid, wait)
  local found = C.waitpid(pid or -1, status, wait and 0 or NO_HANG)
  if found <= 0 then return nil end
  local signal = bit.band(status[0], 0x7f)
  if signal ~= 0 then return found, nil, signal end
  return found, bit.band(bit.rshift(status[0], 8), 0xff), nil
end

function M.lives(pid) return C.kill(pid, 0) == 0 end

--- Sends a signal. A negative pid stands for its process group, 0 for the group of this process.
function M.kill(pid, signal) C.kill(pid, signal) end

function M.pid() return C.getpid() end

function M.parent() return C.getppid() end

--- Makes this process the leader of a new process group, to which its children will belong.
function M.lead() C.setpgid(0, 0) end

--- Lets orphaned descendants become this process's children.
function M.adopt() C.prctl(SUBREAPER, 1, 0, 0, 0) end

function M.leave(code) C._exit(code) end

function M.sleep(seconds) C.poll(nil, 0, math.ceil(seconds * 1000)) end

--- Appends standard error to a file from now on, in children too.
function M.log_to(path)
  local fd = C.open(path, WRITE_CREATE_APPEND, 384)
  assert(fd >= 0, path)
  C.dup2(fd, 2)
  C.close(fd)
end

--- Writes a failed check to the log.
function M.fail(message) io.stderr:write("FAIL ", (tostring(message):gsub("\n%s*", " | ")), "\n") end

--- Returns the number of descriptors open in this process.
---@return integer
function M.descriptors()
  local n = 0
  for fd = 0, MOST_DESCRIPTORS - 1 do
    if C.fcntl(fd, GET_FLAGS) >= 0 then n = n + 1 end
  end
  return n
end

--- Returns the bytes of a process's private memory; nil if the process has gone.
---@param pid integer
---@return integer?
function M.memory(pid)
  local file = io.open(("/proc/%d/status"):format(pid))
  if not file then return nil end
  local text = file:read "*a" or ""
  file:close()
  local kilobytes = text:match "RssAnon:%s*(%d+) kB"
  return kilobytes and tonumber(kilobytes) * 1024
end

return M
