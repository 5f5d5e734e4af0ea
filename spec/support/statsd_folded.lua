--- Names of the dialect statsd, which has no tags: values are appended to the name in the order in which the metric
--- declares them, NAME.VALUE1.VALUE2. The dot separates, so only ASCII letters, digits, _ and - stay of a value; one
--- that is absent is "none". What the core writes is held against this.

local bit = require "bit"

local M = {}

local LONGEST = 128
local HASHED = 9 -- "_" and eight digits

-- FNV-1a of 32 bits (Fowler, Noll, Vo), in 64-bit integers.
local function hash(text)
  local h = 2166136261ULL
  for i = 1, #text do
    h = bit.bxor(h, text:byte(i)) * 16777619ULL % 4294967296ULL
  end
  return "_" .. bit.tohex(tonumber(h))
end

--- A tag value as a part of a name.
---@param value? string|number|boolean
---@return string
function M.part(value)
  if value == nil or value == "" then return "none" end
  local whole = tostring(value)
  local clean = whole:gsub("[^%w_-]", "_")
  return #clean <= LONGEST and clean or clean:sub(1, LONGEST - HASHED) .. hash(whole)
end

--- A name with the values of its tags, and the suffix.
---@param name string
---@param values table<integer, string|number|boolean?> in declared order, absent ones nil
---@param n integer how many tags are declared
---@param suffix? string
---@return string
function M.name(name, values, n, suffix)
  local parts = { name }
  for i = 1, n do
    parts[i + 1] = M.part(values[i])
  end
  return table.concat(parts, ".") .. (suffix or "")
end

return M
