-- Timing loops. Each measure is taken in several rounds, and its median is returned.

local core = require "chalk.core"

local C = core.C

local M = {}

local ROUNDS = 7

local function median(list)
  table.sort(list)
  return list[math.floor(#list / 2) + 1]
end

M.median = median

--- Returns the nanoseconds of one iteration of f(n), as the median of rounds of about `seconds` each.
---@param f fun(n: integer)
---@param seconds number?
---@return number
function M.time(f, seconds)
  seconds = seconds or 0.1
  local n = 100000
  f(n)
  f(n)
  while true do
    local started = C.chalk_now()
    f(n)
    local took = C.chalk_now() - started
    if took > seconds / 4 then
      n = math.max(1, math.floor(n * seconds / took))
      break
    end
    n = n * 4
  end
  local times = {}
  for i = 1, ROUNDS do
    local started = C.chalk_now()
    f(n)
    times[i] = (C.chalk_now() - started) / n * 1e9
  end
  return median(times)
end

--- Returns the seconds that f() takes, as the median of `rounds`.
---@param f fun()
---@param rounds integer?
---@return number
function M.once(f, rounds)
  local times = {}
  f()
  for i = 1, rounds or ROUNDS do
    local started = C.chalk_now()
    f()
    times[i] = C.chalk_now() - started
  end
  return median(times)
end

--- Returns the bytes of garbage that one iteration of f(n) makes once it is compiled.
---@param f fun(n: integer)
---@return number
function M.garbage(f)
  local n = 1000000
  f(n)
  f(n)
  collectgarbage()
  collectgarbage "stop"
  local before = collectgarbage "count"
  f(n)
  local bytes = (collectgarbage "count" - before) * 1024
  collectgarbage "restart"
  -- Rounding removes the few hundred bytes that entering and leaving the loop makes, whatever n is.
  return math.floor(bytes / n + 0.5)
end

return M
