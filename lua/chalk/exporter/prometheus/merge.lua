--- Sample lines of several versions of one metric, made one.
--
-- After a reload the workers of before go on recording under the old definition until they end. When it differs in
-- what series depend on, both have series of their own, and the same labels would stand in the exposition twice. So
-- lines that say the same series, in whatever order of labels, become one: counts and buckets add up, a gauge is
-- combined as its definition says. This is rare, and done on the text, for then it needs nothing of a format.

local kinds = require "chalk.define.kinds"

local M = {}

local function add(a, b) return a + b end

local ACROSS = {
  sum = add,
  min = math.min,
  max = math.max,
  last = function(_, newer) return newer end,
}

-- The position behind the quote that ends a label's value.
local function value_end(labels, at)
  while true do
    local stop = labels:find('[\\"]', at)
    if labels:byte(stop) == 34 then return stop + 1 end
    at = stop + 2
  end
end

-- What a line's series is known by: its name and its labels in order.
local function identity(head)
  local name, labels = head:match "^([^{]*){(.*)}$"
  if not name then return head end
  local pairs_of, at = {}, 1
  while at <= #labels do
    local stop = value_end(labels, (select(2, labels:find('="', at, true))) + 1)
    pairs_of[#pairs_of + 1] = labels:sub(at, stop - 1)
    at = stop + 1
  end
  table.sort(pairs_of)
  return name .. "{" .. table.concat(pairs_of, ",")
end

-- tonumber does not take Go's way of writing them.
local SPECIAL = { ["NaN"] = 0 / 0, ["+Inf"] = math.huge, ["-Inf"] = -math.huge }

local function number_of(text) return SPECIAL[text] or tonumber(text) end

--- Merges the sample lines of versions, oldest first.
---@param texts string[] the lines of each version
---@param def chalk.Definition the newest
---@param number_text fun(value: number): string
---@return string
function M.lines(texts, def, number_text)
  local combine = kinds.of[def.type].combines and ACROSS[def.across] or add
  local heads, values, places = {}, {}, {}
  for _, text in ipairs(texts) do
    for head, value in text:gmatch "([^\n]*) ([^ \n]*)\n" do
      local id = identity(head)
      local place = places[id]
      if place then
        values[place] = number_text(combine(number_of(values[place]), number_of(value)))
      else
        place = #heads + 1
        heads[place], values[place], places[id] = head, value, place
      end
    end
  end
  for i, head in ipairs(heads) do
    heads[i] = head .. " " .. values[i] .. "\n"
  end
  return table.concat(heads)
end

return M
