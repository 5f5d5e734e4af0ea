-- The unix socket at which `serve` reaches the flush thread. The master opens it. The workers' user must be able to
-- reach its path, and the path must be the same after a reload.

local core = require "chalk.core"
local exporters = require "chalk.flush.exporters"

local C = core.C

local M = {}

local function name_for(prefix) return ("chalk-%08x"):format(ngx.crc32_long(prefix)) end

-- Returns the paths to try. The first name in each directory depends only on the prefix, so that the socket of an nginx
-- that was killed is found and replaced. The second contains the process id, in case two masters share the prefix.
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
  -- The workers' user is not known yet, so all users may connect, as they may to a loopback port.
  C.chalk_listen_to_all(address)
  return address
end

--- Opens the socket, unless it is open already. Raises a message if it cannot be opened at any path.
---@param client chalk.Client
---@param path string? the path that the user has configured
---@return string address as the option `listen` of chalk.exporter.prometheus
function M.open(client, path)
  if path ~= nil and type(path) ~= "string" then
    error("resty.chalk: socket must be a path, got a " .. type(path), 0)
  end
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
