--- A client with a stream exporter on a free port, with any driver, and clients of that stream.

local chalk = require "chalk"
local core = require "chalk.core"
local stream_client = require "support.stream_client"
local uv = require "luv"
local wait = require "support.wait"

local M = {}

local DRIVERS = { thread = true, loop = true, manual = true }

math.randomseed(tonumber(tostring(uv.hrtime()):match "%d+") % 2 ^ 31)

---@class spec.StreamBed
---@field client chalk.Client
---@field port integer
---@field driver "thread"|"loop"|"manual"
---@field clients spec.StreamClient[]
local Bed = {}
Bed.__index = Bed

--- Returns a free port, outside of the range that the kernel gives to connecting sockets.
---@return integer
function M.port()
  for _ = 1, 100 do
    local port = math.random(20000, 32000)
    local probe = stream_client.connect(port)
    if not probe then return port end
    probe:close()
  end
  error "no free port"
end

--- Starts a client.
---@param driver "thread"|"loop"|"manual"
---@param stream table? the exporter's options without the address
---@param options table? the client's options; `exporters` come in addition to the stream
---@return spec.StreamBed
function M.start(driver, stream, options)
  assert(DRIVERS[driver])
  local self = setmetatable({ port = M.port(), driver = driver, clients = {} }, Bed)
  local all = { driver = driver, flush_interval = 3600, exporters = {} }
  for name, value in pairs(options or {}) do
    all[name] = value
  end
  local own = { listen = "127.0.0.1:" .. self.port }
  for name, value in pairs(stream or {}) do
    own[name] = value
  end
  all.exporters = { chalk.exporter.stream(own), unpack(all.exporters) }
  self.client = chalk.new(all)
  if driver == "loop" then
    self.alive = uv.new_timer() -- chalk's handles do not keep the loop alive; without this timer it would not run
    self.alive:start(1, 1, function() end)
  end
  self.segment = self.client.segment
  return self
end

--- Lets the server work. With the thread driver it does so on its own.
function Bed:run_once()
  if self.driver == "loop" then uv.run "once" end
  if self.driver == "manual" then assert(self.client:flush()) end
end

--- Returns the kinds of metrics for which the tap is on; 0 if it is off.
function Bed:tapped() return core.C.chalk_tap_kinds(self.segment) end

function Bed:till(condition, what)
  return wait.till(function()
    self:run_once()
    return condition()
  end, 20, what)
end

--- Connects, and waits until records are streamed to the new client.
---@param options table? options of stream_client.connect
---@return spec.StreamClient
function Bed:connect(options)
  local before = self:connected()
  local client = self:till(function() return stream_client.connect(self.port, options) end, "a connection")
  self.clients[#self.clients + 1] = client
  self:till(function() return self:connected() > before and self:tapped() ~= 0 end, "the client's stream")
  return client
end

--- Returns the number of connected clients from chalk's own gauge.
---@return integer
function Bed:connected() return self:own("stream_clients", "") end

--- Returns the sum of one of chalk's own metrics over the series whose labels contain a text.
---@param name string
---@param labels string
---@return number
function Bed:own(name, labels)
  local sum = 0
  for line in self.client:text():gmatch "[^\n]+" do
    local found, value = line:match("^chalk_" .. name .. "(%b{}) (%S+)$")
    if found and found:find(labels, 1, true) then sum = sum + tonumber(value) end
  end
  return sum
end

--- Returns the number of dropped events, of one place of the drop or of all.
function Bed:dropped(where) return self:own("stream_dropped_total", where and '"' .. where .. '"' or "") end

--- Reads at a client until it has received n metrics.
function Bed:read(client, n)
  client:till(function() return #client.metrics >= n end, function() self:run_once() end, n .. " metrics")
end

function Bed:close()
  for _, client in ipairs(self.clients) do
    client:close()
  end
  if self.client then self.client:shutdown() end
  self.client = nil
  if self.alive then self.alive:close() end
  if not uv.loop_mode() then uv.run "nowait" end
end

return M
