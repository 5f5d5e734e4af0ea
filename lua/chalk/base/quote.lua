--- Quotes strings that come from outside, for messages.

local json = require "chalk.base.json"

local QUOTED = 64

local function escaped(character) return ("\\%d"):format(character:byte()) end

--- Returns a string in double quotes. Control characters, quotes and backslashes are escaped, and all bytes above 127
--- if the string is not UTF-8, so a message stays one line of text. A long string is cut and ends in "...".
---@param text string
---@param most integer? bytes to show (64)
---@return string
return function(text, most)
  most = most or QUOTED
  local shown = text:sub(1, most)
  if json.invalid_utf8(shown) then shown = shown:gsub("[\128-\255]", escaped) end
  shown = shown:gsub('[%c\\"]', escaped)
  return '"' .. shown .. (#text > most and "..." or "") .. '"'
end
