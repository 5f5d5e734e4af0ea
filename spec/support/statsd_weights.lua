--- Whole weights as sample rates: what the core writes, made in Lua to be compared with it.
--
-- A line with `@r` counts for 1/r values. Datadog's agent truncates 1/r to a whole number, so r must not lie above 1/n,
-- or n values arrive as n - 1; servers that do not truncate multiply by 1/r, so r must not lie far below it either. The
-- rate for n is the shortest decimal between 1/(n + 1e-6) and 1/n, judged in the doubles that receivers compute with.

local ffi = require "ffi"

local M = {}

--- The largest n that has a rate: above it the decimals no longer fit into a double.
M.MOST = 1000000

local CLOSE = 1e-6
local DIGITS = 18 -- the powers of ten that an int64 holds

local powers = {}
do
  local power = ffi.new("int64_t", 1)
  for k = 1, DIGITS do
    power = power * 10
    powers[k] = power
  end
end

local function is_rate(text, n)
  local inverse = 1 / tonumber(text)
  return math.floor(inverse) == n and inverse - n < CLOSE
end

local function decimal(digits, k)
  local text = tostring(digits):match "%d+" -- without LL
  return "0." .. ("0"):rep(k - #text) .. text
end

local function find(n)
  for k = 1, DIGITS do
    local nearest = powers[k] / n -- truncated, as integers divide: the largest decimal of k digits up to 1/n
    for below = 0, 1 do -- where 1/n is that decimal, rounding may put its inverse under n
      if nearest > below then
        local text = decimal(nearest - below, k)
        if is_rate(text, n) then return text end
      end
    end
  end
end

local known = {}

--- The sample rate that stands for a weight, e.g. "0.25" for 4.
---@param n integer from 1 to MOST
---@return string? rate nil for 1, which is written without one
function M.rate(n)
  if n == 1 then return nil end
  local text = known[n]
  if not text then
    if type(n) ~= "number" or n < 1 or n > M.MOST or n % 1 ~= 0 then
      error(("a weight is a whole number from 1 to %d"):format(M.MOST), 2)
    end
    text = assert(find(n))
    known[n] = text
  end
  return text
end

return M
