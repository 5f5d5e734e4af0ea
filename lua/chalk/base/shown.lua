--- Shows any value in a message.

local log = require "chalk.base.log"
local quote = require "chalk.base.quote"

local BY_TYPE = { table = true, ["function"] = true, thread = true, userdata = true }

--- Strings are quoted, and values without a text of their own are named by type, such as `a table`.
---@param value any
---@return string
return function(value)
  local kind = type(value)
  if kind == "string" then return quote(value) end
  if BY_TYPE[kind] then return "a " .. kind end
  return kind == "number" and value ~= value and "NaN" or log.text(value)
end
