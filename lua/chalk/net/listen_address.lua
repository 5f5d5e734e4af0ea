--- The addresses that an exporter may listen at: "host:port", "[host]:port" and "unix:///path".

local quote = require "chalk.base.quote"

local M = {}

local FORMS = '"host:port", "[host]:port" or "unix:///path"'

local function is_inet(address)
  local host, port = address:match "^(.+):(%d+)$"
  if not host or #port > 5 or tonumber(port) > 65535 then return false end
  return host:find "^%[[^%[%]]+%]$" ~= nil or not host:find "[%s:%[%]/]"
end

--- What is wrong with the form of an address. A name is not resolved and a path is not looked at: opening the socket
--- does that.
---@param address any
---@param absolute boolean? whether the path of a unix socket has to be absolute
---@return string? message nil when nothing is
function M.problem(address, absolute)
  if type(address) ~= "string" then return ("expected %s, got a %s"):format(FORMS, type(address)) end
  local is_unix = address:find(absolute and "^unix:///." or "^unix://.") ~= nil
  local is_right = not address:find "%z" and (is_unix or is_inet(address))
  return not is_right and ("bad address %s: expected %s"):format(quote(address), FORMS) or nil
end

return M
