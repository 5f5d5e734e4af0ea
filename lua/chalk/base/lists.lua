-- Helpers for lists and sets of plain values.

local M = {}

--- The keys of a table that are strings, sorted.
---@param t table
---@return string[]
function M.names(t)
  local names = {}
  for key in next, t do
    if type(key) == "string" then names[#names + 1] = key end
  end
  table.sort(names)
  return names
end

--- Whether two lists have the same items in the same order. Two nils are the same; nil and a list are not.
---@param a any[]?
---@param b any[]?
---@return boolean
function M.is_same(a, b)
  if a == b then return true end
  if not a or not b or #a ~= #b then return false end
  for i = 1, #a do
    if a[i] ~= b[i] then return false end
  end
  return true
end

--- The set of the items of a list: a table that has them as keys.
---@param list any[]
---@return table<any, true>
function M.set(list)
  local set = {}
  for i = 1, #list do
    set[list[i]] = true
  end
  return set
end

--- The numbers of several lists in increasing order, each once.
---@param lists number[][]
---@return number[]
function M.union(lists)
  local seen, all = {}, {}
  for _, list in ipairs(lists) do
    for _, number in ipairs(list) do
      if not seen[number] then all[#all + 1] = number end
      seen[number] = true
    end
  end
  table.sort(all)
  return all
end

return M
