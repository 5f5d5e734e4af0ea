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
  int kill(int pid, int signal);
  void _exit(int status);
  int pipe(int fds[2]);
  long read(int fd, void *buffer, size_t size);
  long write(int fd, const void *buffer, size_t size);
  int close(int fd);
]]
)

local KILL, PATIENCE = 9, 5 -- seconds
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

-- Whether the gauge comes to have another value than this before long.
local function moves(gauge, from)
  local ends = core.C.chalk_now() + PATIENCE
  while gauge:value() == from do
    if core.C.chalk_now() > ends then return false end
  end
  return true
end

--- Whether a gauge that a child sets to the same value over and over is stored each time: whatever this process sets it
--- to in between, it has the child's value again.
---@return boolean
function M.stores_each()
  local loops, gauge = record.loops(record.client())
  local pid = ffi.C.fork()
  if pid == 0 then
    while true do
      loops.gauge_same(1e12)
    end
  end
  local all = moves(gauge, 0)
  for other = 10, 20 do
    gauge:set(other)
    all = all and moves(gauge, other)
  end
  ffi.C.kill(pid, KILL)
  ffi.C.waitpid(pid, nil, 0)
  return all
end

return M
