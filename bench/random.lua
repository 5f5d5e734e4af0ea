-- Numbers at random that are the same on every machine.

local M = {}

local SEED = 20240229
local state = SEED

--- Begins the sequence again.
function M.reset() state = SEED end

--- Uniform in (0, 1): the minimal standard generator (Park and Miller 1988).
---@return number
function M.uniform()
  state = state * 48271 % 2147483647
  return state / 2147483647
end

--- Normal, mean 0, standard deviation 1 (Box and Muller 1958).
---@return number
function M.normal() return math.sqrt(-2 * math.log(M.uniform())) * math.cos(2 * math.pi * M.uniform()) end

return M
