-- The work that every peer's program does: the same tags, the same values, timed in the same way. The programs in other
-- languages have the same in their own.

local core = require "chalk.core"

local M = {}

local LENGTH, ENDPOINTS, COMBINATIONS = 1024, 40, 80
local QUANTILES = { 0.5, 0.9, 0.99, 0.999 }

-- Sequences have the length of a power of two, so that finding a place costs one instruction.
M.LAST = LENGTH - 1
M.now = core.C.chalk_now

function M.status(i) return i % 2 == 0 and "success" or "failure" end

M.endpoints, M.statuses, M.values, M.steps = {}, {}, {}, {}
for i = 0, M.LAST do
  local combination = i % COMBINATIONS
  M.endpoints[i] = "/api/v1/resource/" .. combination % ENDPOINTS
  M.statuses[i] = M.status(math.floor(combination / ENDPOINTS))
  M.values[i] = 0.001 * 10 ^ (3 * ((i * 619) % LENGTH) / LENGTH)
  M.steps[i] = 1 + i * 7 % 8
end

--- Tag values of their own for each of n series, from 0 on, made beforehand.
---@param n integer
---@return string[]
function M.resources(n)
  local list = {}
  for i = 0, n - 1 do
    list[i] = "/api/v1/resource/" .. i
  end
  return list
end

--- What the steps of the iterations 1 to n add up to.
---@param n integer
---@return number
function M.total(n)
  local sum, whole = 0, 0
  for i = 1, LENGTH do
    local step = M.steps[i % LENGTH]
    whole = whole + step
    if i <= n % LENGTH then sum = sum + step end
  end
  return sum + math.floor(n / LENGTH) * whole
end

--- Times f(n) in one run of about `seconds`, after as much warm-up as that takes to find out: nanoseconds an iteration,
--- what all steps add up to, how many iterations there were, and the last one's number.
---@param seconds number
---@param f fun(n: integer)
---@return { ns: number, total: number, count: integer, last: integer }
function M.time(seconds, f)
  local measure = { total = 0, count = 0 }
  local function once(n)
    local started = M.now()
    f(n)
    local took = M.now() - started
    measure.total, measure.count, measure.last = measure.total + M.total(n), measure.count + n, n
    return took
  end
  local n = 20000
  once(n)
  while true do
    local took = once(n)
    if took > seconds / 4 then
      n = math.max(1, math.floor(n * seconds / took))
      break
    end
    n = n * 4
  end
  measure.ns = once(n) / n * 1e9
  return measure
end

--- The median of the seconds f() takes, over as many calls as fit into `seconds`, after a first one.
---@param seconds number
---@param f fun()
---@return number
function M.median_of(seconds, f)
  f()
  local times, sum = {}, 0
  while sum < seconds or #times == 0 do
    local started = M.now()
    f()
    times[#times + 1] = M.now() - started
    sum = sum + times[#times]
  end
  table.sort(times)
  return times[math.floor(#times / 2) + 1]
end

local function resident()
  collectgarbage()
  collectgarbage()
  for line in io.lines "/proc/self/smaps_rollup" do
    local kilobytes = line:match "^Rss:%s+(%d+)"
    if kilobytes then return kilobytes * 1024 end
  end
end

--- Bytes a series adds to what the process has in memory, when n are filled.
---@param n integer
---@param fill fun(resources: string[])
---@return number
function M.memory(n, fill)
  local resources = M.resources(n)
  local before = resident()
  fill(resources)
  return (resident() - before) / n
end

--- The total of a count's 80 series, or of the numbers of values of a histogram's.
function M.sum(metric)
  local sum = 0
  for i = 0, COMBINATIONS - 1 do
    local value = metric:with(M.endpoints[i], M.statuses[i]):value()
    sum = sum + (type(value) == "number" and value or value:count())
  end
  return sum
end

function M.check(expected, found)
  if expected ~= found then error(("chalk has %s and not %s"):format(found, expected)) end
end

-- Uniform in (0, 1): the minimal standard generator, the same in every program.
local state
local function uniform()
  state = state * 48271 % 2147483647
  return state / 2147483647
end

local function normal()
  local radius = math.sqrt(-2 * math.log(uniform()))
  return radius * math.cos(2 * math.pi * uniform())
end

local function drawn(n, draw)
  state = 20240229
  local list = {}
  for i = 1, n do
    list[i] = draw()
  end
  return list
end

--- What is recorded into each histogram whose memory is measured: one value, or 1,000 lognormal ones.
---@param n integer
---@return number[]
function M.recorded(n)
  return drawn(n, function() return 0.02 * math.exp(0.5 * normal()) end)
end

local DISTRIBUTIONS = {
  lognormal = function() return math.exp(0.5 * normal()) end,
  exponential = function() return -math.log(uniform()) end,
  bimodal = function()
    local peak = uniform() < 0.5 and 0.001 or 10
    return peak * math.exp(0.05 * normal())
  end,
}

--- A million values of a distribution, as in docs/accuracy.md.
---@param name string
---@return number[]
function M.distribution(name) return drawn(1000000, DISTRIBUTIONS[name]) end

--- One value of each bucket of the finest scale: their sketch has the same buckets as that of all values.
---@param values number[]
---@return number[]
function M.thinned(values)
  local seen, list = {}, {}
  for i = 1, #values do
    local bucket = math.floor(math.log(values[i]) / math.log(2) * 512)
    if not seen[bucket] then
      seen[bucket] = true
      list[#list + 1] = values[i]
    end
  end
  return list
end

--- The worst relative error over p50, p90, p99 and p99.9, in percent.
---@param values number[]
---@param quantile fun(q: number): number
---@return number
function M.worst(values, quantile)
  local sorted = {}
  for i = 1, #values do
    sorted[i] = values[i]
  end
  table.sort(sorted)
  local worst = 0
  for _, q in ipairs(QUANTILES) do
    local exact = sorted[math.floor(q * (#sorted - 1)) + 1]
    worst = math.max(worst, math.abs(quantile(q) - exact) / exact * 100)
  end
  return worst
end

return M
