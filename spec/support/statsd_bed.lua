--- A client with a StatsD exporter, and the receiver that it sends to, whose packets a strict parser reads.

local chalk = require "chalk"
local files = require "support.files"
local log = require "chalk.base.log"
local parser = require "support.statsd_parser"
local receivers = require "support.receivers"
local uv = require "luv"

local M = {}

---@class spec.StatsdBed
---@field kind "udp"|"unixgram"|"unixstream"
---@field agent spec.StatsdAgent sums of all that arrived
---@field packets string[] the packets of the last flush
---@field options table the exporter's options
---@field is_deaf boolean? packets that arrive are not read
---@field lost spec.StatsdAgent? sums of what a killed receiver had not read
local Bed = {}
Bed.__index = Bed

--- Opens a receiver and makes the options of an exporter that sends to it. `start` makes the client.
---@param options table? the exporter's options without the address
---@param kind "udp"|"unixgram"|"unixstream"|nil
---@return spec.StatsdBed
function M.new(options, kind)
  local self = setmetatable({ kind = kind or "unixgram", options = { container_id = false } }, Bed)
  for name, value in pairs(options or {}) do
    self.options[name] = value
  end
  if self.options.dialect == "statsd" then self.options.container_id = nil end
  self.path = self.kind ~= "udp" and files.name() or nil
  self.agent, self.packets = parser.agent(self.options.dialect), {}
  self:listen()
  self.options.address = self.path and ("%s://%s"):format(self.kind, self.path) or "127.0.0.1:" .. self.port
  return self
end

--- Opens the receiver, also again after `die`.
function Bed:listen()
  self.receiver = self.kind == "udp" and receivers.udp(nil, self.port) or receivers[self.kind](self.path)
  self.port = self.receiver.port
end

--- Closes the receiver after it has read all that arrived. Its socket file stays until `revive` replaces it.
function Bed:die()
  self:read()
  self.receiver:close()
  self.receiver = nil
end

--- Closes the receiver without reading what arrived, as if it were killed. The unread packets are summed in `lost`.
function Bed:be_killed()
  self.lost = self.lost or parser.agent(self.options.dialect)
  for _, packet in ipairs(self.receiver:all()) do
    self.lost:take(packet)
  end
  self.receiver:close()
  self.receiver, self.is_deaf = nil, nil
end

function Bed:revive()
  if self.path then os.remove(self.path) end
  self:listen()
end

--- Reads all packets that have arrived.
function Bed:read()
  if not self.receiver or self.is_deaf then return end
  for _, packet in ipairs(self.receiver:all()) do
    self.packets[#self.packets + 1] = packet
    self.agent:take(packet)
  end
end

function Bed:exporter() return chalk.exporter.statsd(self.options) end

--- Makes a client that sends to this receiver.
---@param options table? further options of the client, which may replace `exporters`
function Bed:start(options)
  local all = { driver = "manual", flush_interval = 3600, exporters = { self:exporter() } }
  for name, value in pairs(options or {}) do
    all[name] = value
  end
  self.client = chalk.new(all)
  return self.client
end

local function flush_and_read(client, beds, flush)
  local tick = uv.new_timer()
  local function read()
    for _, bed in ipairs(beds) do
      bed:read()
    end
  end
  for _, bed in ipairs(beds) do
    bed.packets = {}
  end
  tick:start(1, 1, read)
  local ok, message = (flush or client.flush)(client, 20)
  tick:close()
  if not uv.loop_mode() then uv.run "nowait" end
  read()
  return ok, message
end

--- Flushes a client, and reads at all these receivers meanwhile.
---@param client table
---@param beds spec.StatsdBed[]
function M.flush(client, beds) return flush_and_read(client, beds) end

--- Shuts a client down, which flushes once more, and reads at all these receivers meanwhile.
---@param client table
---@param beds spec.StatsdBed[]
function M.shutdown(client, beds)
  flush_and_read(client, beds, client.shutdown)
  for _, bed in ipairs(beds) do
    bed.client = nil
  end
end

--- Flushes the client and reads what arrives.
function Bed:flush() return flush_and_read(self.client, { self }) end

--- Returns the parsed lines of the last flush, without those of chalk's own metrics.
---@return spec.StatsdLine[]
function Bed:lines()
  local lines = {}
  for _, packet in ipairs(self.packets) do
    for _, line in ipairs(parser.packet(packet, self.options.dialect)) do
      if not line.name:find "^chalk" then lines[#lines + 1] = line end
    end
  end
  return lines
end

--- Returns the lines of the last flush as sorted texts, without those of chalk's own metrics.
---@return string[]
function Bed:text()
  local lines = {}
  for line in table.concat(self.packets):gmatch "[^\n]+" do
    if not line:find "^chalk" then lines[#lines + 1] = line end
  end
  table.sort(lines)
  return lines
end

function Bed:close()
  if self.client then M.shutdown(self.client, { self }) end
  if self.receiver then self.receiver:close() end
  if self.path then os.remove(self.path) end
end

---@class spec.StatsdScene the objects of one test, which are closed at its end
---@field bed spec.StatsdBed? once it was started
---@field client table?
---@field said string[] the log messages
local Scene = {}
Scene.__index = Scene

--- Starts a bed and its client, which the scene closes.
function Scene:start(options, client_options, kind)
  self.bed = M.new(options, kind)
  self.client = self.bed:start(client_options)
  return self.client
end

--- Flushes to the bed. Raises an error if that fails.
function Scene:flush() assert(self.bed:flush()) end

--- Returns a scene that is made anew for each test of a block.
---@param before_each function busted's
---@param after_each function
---@return spec.StatsdScene
function M.scene(before_each, after_each)
  local scene, write = setmetatable({}, Scene), log.write
  before_each(function()
    scene.said = {}
    log.write = function(_, message) scene.said[#scene.said + 1] = message end
  end)
  after_each(function()
    if scene.bed then scene.bed:close() end
    scene.bed, scene.client = nil, nil
    log.write = write
    files.clean()
  end)
  return scene
end

return M
