-- Where `serve` reaches the flush thread: a unix socket that the master opens. Its place has to be reachable by the
-- workers' user, and the same after a reload.

local core = require "chalk.core"
local exporters = require "chalk.flush.exporters"

local C = core.C

local M = {}

local function name_for(prefix) return ("chalk-%08x"):format(ngx.crc32_long(prefix)) end

-- One name for an installation, so that a socket left by an nginx that was killed is found and replaced; another for
-- the case that two masters share the prefix.
local function candidates()
  local prefix, list = ngx.config.prefix(), {}
  local name = name_for(prefix)
  for _, directory in ipairs { "/run/", prefix .. "logs/", "/tmp/" } do
    list[#list + 1] = directory .. name .. ".sock"
    list[#list + 1] = ("%s%s-%d.sock"):format(directory, name, C.chalk_process())
  end
  return list
end

local function open(client, path)
  local address = "unix://" .. path
  if C.chalk_listen(exporters.listener(client), address, core.message) ~= 0 then return nil, core.said() end
  -- Whoever may connect to a loopback port may connect here: the workers' user is not known yet.
  C.chalk_listen_to_all(address)
  return address
end

--- Opens the socket, or finds it open; its address as chalk.exporter.prometheus takes it.
---@param client chalk.Client
---@param path string? where the user wants it
---@return string
function M.open(client, path)
  if path ~= nil and type(path) ~= "string" then error("resty.chalk: socket must be a path", 0) end
  client:open()
  local message
  for _, candidate in ipairs(path and { path } or candidates()) do
    local address, problem = open(client, candidate)
    if address then return address end
    message = message or problem
  end
  error("resty.chalk: " .. message, 0)
end

return M
