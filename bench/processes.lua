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

-- A loop of the record paths as work for a child: nanoseconds a record, in rounds of about so many seconds.
local function work_of(name, seconds)
  local loop = record.loops(record.client())[name]
  return function() return harness.time(loop, seconds) end
end

--- Nanoseconds a record in one process alone, and in each of two at once, alternating; medians.
---@return number alone, number both
function M.run()
  local work = work_of("with", 0.05)
  local alone, both = {}, {}
  for i = 1, 5 do
    alone[i] = start(work)()
    local a, b = start(work), start(work)
    both[2 * i - 1], both[2 * i] = a(), b()
  end
  return harness.median(alone), harness.median(both)
end

--- Millions of records a second of n processes at once, all together.
---@param name "with"|"histogram_call"
---@param n integer
---@return number
function M.together(name, n)
  local work, children, rate = work_of(name, 0.1), {}, 0
  for i = 1, n do
    children[i] = start(work)
  end
  for i = 1, n do
    rate = rate + 1e3 / children[i]()
  end
  return rate
end

return M
