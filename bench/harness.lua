-- Timing loops: each measure is run in several rounds, the median is kept.

local core = require "chalk.core"

local C = core.C

local M = {}

local ROUNDS = 7

local function median(list)
  table.sort(list)
  return list[math.floor(#list / 2) + 1]
end

M.median = median

--- Nanoseconds an iteration of f(n) takes, median of rounds of about `seconds` each.
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

--- Seconds that f() takes, median of `rounds`.
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

--- Bytes of garbage an iteration of f(n) makes, once it is compiled.
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
  -- The loop's own entry and exit make a few hundred bytes, whatever n is.
  return math.floor(bytes / n + 0.5)
end

return M
