-- Random values that are the same in every run and on every machine: distributions, drawn from a fixed seed.

local M = {}

local SEED = 20240229
local state = SEED

--- Draws a number from the uniform distribution in (0, 1), by the minimal standard generator (Park and Miller 1988).
---@return number
function M.uniform()
  state = state * 48271 % 2147483647
  return state / 2147483647
end

--- Draws a number from the standard normal distribution, by the Box-Muller transform.
---@return number
function M.normal()
  local radius = math.sqrt(-2 * math.log(M.uniform()))
  return radius * math.cos(2 * math.pi * M.uniform())
end

--- Draws from a lognormal distribution with sigma 0.5 and median 1.
---@return number
function M.lognormal() return math.exp(0.5 * M.normal()) end

--- Draws from an exponential distribution with mean 1.
---@return number
function M.exponential() return -math.log(M.uniform()) end

--- Draws from two narrow peaks, at 1 ms and 10 s.
---@return number
function M.bimodal()
  local peak = M.uniform() < 0.5 and 0.001 or 10
  return peak * math.exp(0.05 * M.normal())
end

--- Returns n values, drawn from the seed on.
---@param n integer
---@param draw fun(): number
---@return number[]
function M.list(n, draw)
  state = SEED
  local values = {}
  for i = 1, n do
    values[i] = draw()
  end
  return values
end

--- Returns one value of each bucket of the finest scale. Their sketch has the same buckets as that of all values.
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

return M
