--- Strings from outside in messages.

local json = require "chalk.base.json"

local QUOTED = 64

local function escaped(character) return ("\\%d"):format(character:byte()) end

--- A string in double quotes, made fit for one line of a log and cut when it is long.
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
