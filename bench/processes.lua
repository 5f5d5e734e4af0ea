-- Two processes at once on one segment: does one slow the other down?

local core = require "chalk.core"
local harness = require "harness"
local record = require "record"

local ffi = core.ffi

local M = {}

pcall(
  ffi.cdef,
  [[
  int fork(void);
  int waitpid(int pid, int *status, int options);
  void _exit(int status);
  int pipe(int fds[2]);
  long read(int fd, void *buffer, size_t size);
  long write(int fd, const void *buffer, size_t size);
  int close(int fd);
]]
)

local value = ffi.new "double[1]"

-- Runs f in a child; a function that waits for its result.
local function start(f)
  local fds = ffi.new "int[2]"
  assert(ffi.C.pipe(fds) == 0)
  local pid = ffi.C.fork()
  if pid == 0 then
    value[0] = f()
    ffi.C.write(fds[1], value, 8)
    ffi.C._exit(0)
  end
  ffi.C.close(fds[1])
  return function()
    local n = ffi.C.read(fds[0], value, 8)
    ffi.C.close(fds[0])
    ffi.C.waitpid(pid, nil, 0)
    return n == 8 and value[0] or 0 / 0
  end
end

--- Nanoseconds a record in one process alone, and in each of two at once, alternating; medians.
---@return number alone, number both
function M.run()
  local _, metrics = record.client()
  local loops = record.loops(metrics)
  local function work() return harness.time(loops.with, 0.05) end
  local alone, both = {}, {}
  for i = 1, 5 do
    alone[i] = start(work)()
    local a, b = start(work), start(work)
    both[2 * i - 1], both[2 * i] = a(), b()
  end
  return harness.median(alone), harness.median(both)
end

return M
