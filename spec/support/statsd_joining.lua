--- Names with joined tag values, as the core writes them for the dialect `statsd`. This is a second implementation in
--- Lua, with which specs compare the core's output.

local names = require "chalk.exporter.statsd.names"

local M = {}

--- A tag value as it is joined into a name.
---@param value (string|number|boolean)?
---@return string
function M.value(value)
  if value == nil or value == "" then return names.ABSENT end
  local whole = tostring(value)
  return names.fitted((whole:gsub("[^%w_-]", "_")), names.LONGEST_VALUE, whole)
end

--- A name with the values of its tags: NAME.VALUE1.VALUE2, followed by the suffix.
---@param name string
---@param values table<integer, string|number|boolean?> in declared order, absent ones nil
---@param n integer how many tags are declared
---@param suffix string?
---@return string
function M.joined(name, values, n, suffix)
  local parts = { name }
  for i = 1, n do
    parts[i + 1] = M.value(values[i])
  end
  return table.concat(parts, ".") .. (suffix or "")
end

return M
