--- The addresses that an exporter may listen at: "host:port", "[host]:port" and "unix:///path".

local quote = require "chalk.base.quote"

local M = {}

local FORMS = '"host:port", "[host]:port" or "unix:///path"'

local function is_inet(address)
  local host, port = address:match "^(.+):(%d+)$"
  if not host or #port > 5 or tonumber(port) > 65535 then return false end
  return host:find "^%[[^%[%]]+%]$" ~= nil or not host:find "[%s:%[%]/]"
end

--- Checks the form of an address. Names are not resolved and paths are not looked up, because opening the socket does
--- so.
---@param address any
---@param absolute boolean? whether the path of a unix socket must be absolute
---@return string? message what is wrong with it; nil if it is right
function M.problem(address, absolute)
  if type(address) ~= "string" then return ("expected %s, got a %s"):format(FORMS, type(address)) end
  local is_unix = address:find(absolute and "^unix:///." or "^unix://.") ~= nil
  local is_right = not address:find "%z" and (is_unix or is_inet(address))
  return not is_right and ("bad address %s: expected %s"):format(quote(address), FORMS) or nil
end

return M
