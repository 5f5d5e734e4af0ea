--- Merges the sample lines of several versions of one metric.
--
-- After a reload, the old workers record under the old definition until they end. If the new definition differs in a
-- field that series depend on, both versions have their own series, and the same labels would appear twice in the
-- exposition. So lines with the same name and labels, in any order of labels, become one line: values of counts and
-- histograms are added, and gauges are combined as their definition says. Such versions are rare, so the merge works on
-- the text, independently of the format.

local kinds = require "chalk.define.kinds"

local M = {}

local function add(a, b) return a + b end

local ACROSS = {
  sum = add,
  min = math.min,
  max = math.max,
  last = function(_, newer) return newer end,
}

-- Returns the position after the quote that ends a label's value.
local function value_end(labels, at)
  while true do
    local stop = labels:find('[\\"]', at)
    if labels:byte(stop) == 34 then return stop + 1 end
    at = stop + 2
  end
end

-- Returns the identity of a line's series: its name and its sorted labels.
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

-- Values that tonumber cannot read in Go's notation.
local SPECIAL = { ["NaN"] = 0 / 0, ["+Inf"] = math.huge, ["-Inf"] = -math.huge }

local function number_of(text) return SPECIAL[text] or tonumber(text) end

--- Merges sample lines.
---@param texts string[] the lines of each version, the oldest version first
---@param def chalk.Definition the newest version
---@param number_text fun(value: number): string
---@return string
function M.lines(texts, def, number_text)
  local combine = kinds.of[def.type].combines and ACROSS[def.across] or add
  local heads, values, indexes = {}, {}, {}
  for _, text in ipairs(texts) do
    for head, value in text:gmatch "([^\n]*) ([^ \n]*)\n" do
      local id = identity(head)
      local index = indexes[id]
      if index then
        values[index] = number_text(combine(number_of(values[index]), number_of(value)))
      else
        index = #heads + 1
        heads[index], values[index], indexes[id] = head, value, index
      end
    end
  end
  for i, head in ipairs(heads) do
    heads[i] = head .. " " .. values[i] .. "\n"
  end
  return table.concat(heads)
end

return M
