-- Figures sampled over time, and whether they are flat: the most of the last quarter against the most of the first,
-- after a fifth of the time was left out to warm up.

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

--- Starts a figure anew: it is another process's from here on.
function Samples:forget(name) self.lists[name] = {} end

local function most_between(list, from, to)
  local most = -math.huge
  for _, one in ipairs(list) do
    if one[1] >= from and one[1] <= to then most = math.max(most, one[2]) end
  end
  return most
end

--- The most after warming up and the most at the end; nil where there are too few.
---@return number? early, number? late
function Samples:ends(name)
  local list = self.lists[name] or {}
  if #list < 8 then return nil end
  local first, last = list[1][1], list[#list][1]
  local from = first + (last - first) * WARM
  local part = (last - from) * QUARTER
  return most_between(list, from, from + part), most_between(list, last - part, last)
end

---@return soak.Samples
function M.new() return setmetatable({ lists = {} }, Samples) end

return M
