-- Figures sampled over time. To see whether a figure is flat, its maximum in the last quarter is compared with that in
-- the first quarter; the first fifth of the time counts as warm-up and is left out.

local M = {}

local WARM, QUARTER = 0.2, 0.25

---@class soak.Samples
local Samples = {}
Samples.__index = Samples

function Samples:add(name, time, value)
  local list = self.lists[name] or {}
  self.lists[name] = list
  list[#list + 1] = { time, value }
end

--- Drops the samples of a figure, which is that of another process from now on.
function Samples:forget(name) self.lists[name] = {} end

local function most_between(list, from, to)
  local most = -math.huge
  for _, one in ipairs(list) do
    if one[1] >= from and one[1] <= to then most = math.max(most, one[2]) end
  end
  return most
end

--- Returns the maximum after the warm-up and the maximum at the end; nil if there are too few samples.
---@return number? early, number? late
function Samples:ends(name)
  local list = self.lists[name] or {}
  if #list < 8 then return nil end
  local first, last = list[1][1], list[#list][1]
  local from = first + (last - first) * WARM
  local quarter = (last - from) * QUARTER
  return most_between(list, from, from + quarter), most_between(list, last - quarter, last)
end

---@return soak.Samples
function M.new() return setmetatable({ lists = {} }, Samples) end

return M
