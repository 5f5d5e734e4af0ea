-- Two processes, or two VMs in threads of one process, that record into the same 80 series at once.

local core = require "chalk.core"
local loops = require "loops"
local work = require "work"

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
]]
)

local WARM_UP = 20000

local function put(fd, number)
  local value = ffi.new("double[1]", number)
  assert(ffi.C.write(fd, value, 8) == 8)
end

local function get(fd)
  local value = ffi.new "double[1]"
  assert(ffi.C.read(fd, value, 8) == 8, "the other has ended")
  return value[0]
end

--- One of the two: says that it is warm, waits for the start, says how long n iterations took.
---@param loop fun(n: integer)
---@param n integer
---@param go integer read from
---@param back integer written to
function M.one(loop, n, go, back)
  loop(WARM_UP)
  loop(WARM_UP)
  put(back, 0)
  get(go)
  local started = work.now()
  loop(n)
  put(back, work.now() - started)
end

local function pipe()
  local fds = ffi.new "int[2]"
  assert(ffi.C.pipe(fds) == 0)
  return fds[0], fds[1]
end

-- Nanoseconds an iteration takes, the mean of both. start(loop, n, go, back) returns a function that waits for the end.
local function both(kind, seconds, start)
  local loop, metric = loops[kind .. "_with"]()
  local before = work.sum(metric)
  local alone = work.time(seconds, loop)
  local n = math.floor(seconds * 1e9 / alone.ns)
  local go, start_them = pipe()
  local back, answer = pipe()
  local waits = { start(loop, n, go, answer), start(loop, n, go, answer) }
  for _ = 1, 2 do
    get(back)
  end
  put(start_them, 1)
  put(start_them, 1)
  local took = get(back) + get(back)
  for _, wait in ipairs(waits) do
    wait()
  end
  local is_count = kind == "count"
  local each = is_count and work.total(n) + 2 * work.total(WARM_UP) or n + 2 * WARM_UP
  work.check(before + (is_count and alone.total or alone.count) + 2 * each, work.sum(metric))
  return took / 2 / n * 1e9
end

---@param kind "count"|"histogram"
---@param seconds number
---@return number
function M.processes(kind, seconds)
  return both(kind, seconds, function(...)
    local pid = ffi.C.fork()
    if pid == 0 then
      local ok, message = pcall(M.one, ...)
      if not ok then io.stderr:write(message, "\n") end
      ffi.C._exit(ok and 0 or 1)
    end
    return function() ffi.C.waitpid(pid, nil, 0) end
  end)
end

---@param kind "count"|"histogram"
---@param seconds number
---@return number
function M.threads(kind, seconds)
  local uv = require "luv"
  return both(kind, seconds, function(_, ...)
    local thread = uv.new_thread(function(path, cpath, name, ...)
      package.path, package.cpath = path, cpath
      require("together").one((require("loops")[name]()), ...)
    end, package.path, package.cpath, kind .. "_with", ...)
    return function() thread:join() end
  end)
end

return M
