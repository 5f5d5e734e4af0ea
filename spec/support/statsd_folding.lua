--- Names with tag values folded in, dialect `statsd`: what the core writes, made in Lua to be compared with it.

local names = require "chalk.exporter.statsd.names"

local M = {}

--- A tag value as a part of a name.
---@param value? string|number|boolean
---@return string
function M.part(value)
  if value == nil or value == "" then return names.ABSENT end
  local whole = tostring(value)
  return names.fitted((whole:gsub("[^%w_-]", "_")), names.LONGEST_PART, whole)
end

--- A name with the values of its tags folded in: NAME.VALUE1.VALUE2, and the suffix.
---@param name string
---@param values table<integer, string|number|boolean?> in declared order, absent ones nil
---@param n integer how many tags are declared
---@param suffix? string
---@return string
function M.folded(name, values, n, suffix)
  local parts = { name }
  for i = 1, n do
    parts[i + 1] = M.part(values[i])
  end
  return table.concat(parts, ".") .. (suffix or "")
end

return M
