--- Suggests the known word that a misspelt word was probably meant to be.

local quote = require "chalk.base.quote"

local LONGEST = 128
local FURTHEST = 2

-- Optimal string alignment distance (Damerau 1964, Levenshtein 1966): the least number of insertions, deletions,
-- substitutions and swaps of neighbours that turn a into b. A row of the table depends on the two rows before it only,
-- so three rows are kept.
local function distance(a, b)
  local before, above, row = {}, {}, {}
  for j = 0, #b do
    row[j] = j
  end
  for i = 1, #a do
    before, above, row = above, row, before
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      local least = math.min(above[j] + 1, row[j - 1] + 1, above[j - 1] + cost)
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        least = math.min(least, before[j - 2] + 1)
      end
      row[j] = least
    end
  end
  return row[#b]
end

-- The distance of two words if they are near. A word in which every letter would have to change is not.
local function near(word, candidate)
  if #candidate > LONGEST or math.abs(#word - #candidate) > FURTHEST then return nil end
  local found = distance(word, candidate)
  return found <= FURTHEST and found < math.min(#word, #candidate) and found or nil
end

--- `did you mean "endpoint"?` for the nearest of the words, or nil when none is near.
---@param word any what was written; anything but a string has no suggestion
---@param list string[] the words that would have been right
---@return string?
local function suggest(word, list)
  if type(word) ~= "string" or #word > LONGEST then return nil end
  local best, least
  for _, candidate in ipairs(list) do
    local found = near(word, candidate)
    if found and (not least or found < least or (found == least and candidate < best)) then
      best, least = candidate, found
    end
  end
  return best and ("did you mean %s?"):format(quote(best, LONGEST)) or nil
end

return suggest
