-- The tags, values and timing that the programs of all peers share. The programs in other languages have copies in
-- those languages.

local core = require "chalk.core"
local draws = require "draws"

local M = {}

local LENGTH, ENDPOINTS, COMBINATIONS = 1024, 40, 80
local QUANTILES = { 0.5, 0.9, 0.99, 0.999 }

-- Sequences have the length of a power of two, so that an index takes one instruction.
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

--- Returns a distinct tag value for each of n series, from index 0.
---@param n integer
---@return string[]
function M.resources(n)
  local list = {}
  for i = 0, n - 1 do
    list[i] = "/api/v1/resource/" .. i
  end
  return list
end

--- Returns the sum of the steps of the iterations 1 to n.
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

--- Times f(n) in one run of about `seconds`, after warm-up runs that find out the n for it. Returns the nanoseconds of
--- an iteration, the sum of all steps, the number of all iterations, and the number of the last one.
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

--- Returns the median of the seconds that f() takes, over as many calls as fit into `seconds`, after a warm-up call.
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

--- Returns the bytes that a series adds to the process's resident memory, computed from n series.
---@param n integer
---@param fill fun(resources: string[])
---@return number
function M.memory(n, fill)
  local resources = M.resources(n)
  local before = resident()
  fill(resources)
  return (resident() - before) / n
end

--- Returns the sum of a count's 80 series, or of the numbers of values in a histogram's series.
function M.sum(metric)
  local sum = 0
  for i = 0, COMBINATIONS - 1 do
    local value = metric:with(M.endpoints[i], M.statuses[i]):value()
    sum = sum + (type(value) == "number" and value or value:count())
  end
  return sum
end

function M.check(expected, found)
  if expected ~= found then error(("chalk has %s, expected %s"):format(found, expected)) end
end

--- Returns the n lognormal values that are recorded into each histogram whose memory is measured.
---@param n integer
---@return number[]
function M.recorded(n)
  return draws.list(n, function() return 0.02 * draws.lognormal() end)
end

--- Returns a million values of a distribution of docs/accuracy.md.
---@param name "lognormal"|"exponential"|"bimodal"
---@return number[]
function M.distribution(name) return draws.list(1000000, draws[name]) end

--- Returns the worst relative error of p50, p90, p99 and p99.9, in percent.
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
