-- Times two processes, or two VMs in threads of one process, that record into the same 80 series at once.

local children = require "children"
local loops = require "loops"
local work = require "work"

local M = {}

local WARM_UP = 20000

local function get(fd) return assert(children.get(fd), "the other process has ended") end

--- Runs in each of the two: reports that it is warm, waits for the start, and reports the seconds of n iterations.
---@param loop fun(n: integer)
---@param n integer
---@param go integer the descriptor to read the start from
---@param back integer the descriptor to write reports to
function M.one(loop, n, go, back)
  loop(WARM_UP)
  loop(WARM_UP)
  children.put(back, 0)
  get(go)
  local started = work.now()
  loop(n)
  children.put(back, work.now() - started)
end

-- Returns the nanoseconds of an iteration, as the mean of both. start(loop, n, go, back) starts one of the two and
-- returns a function that waits for its end.
local function both(kind, seconds, start)
  local loop, metric = loops[kind .. "_with"]()
  local before = work.sum(metric)
  local alone = work.time(seconds, loop)
  local n = math.floor(seconds * 1e9 / alone.ns)
  local go, start_them = children.pipe()
  local back, answer = children.pipe()
  local waits = { start(loop, n, go, answer), start(loop, n, go, answer) }
  for _ = 1, 2 do
    get(back)
  end
  children.put(start_them, 1)
  children.put(start_them, 1)
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
    local pid = children.fork(M.one, ...)
    return function() children.wait(pid) end
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
