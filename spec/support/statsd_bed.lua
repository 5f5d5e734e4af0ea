--- A client with a StatsD exporter and the receiver that it sends to, which a strict parser reads.

local chalk = require "chalk"
local files = require "support.files"
local log = require "chalk.base.log"
local parser = require "support.statsd_parser"
local receivers = require "support.receivers"
local uv = require "luv"

local M = {}

---@class spec.StatsdBed
---@field kind "udp"|"unixgram"|"unixstream"
---@field agent spec.StatsdAgent what arrived, added up
---@field packets string[] those of the last flush
---@field options table the exporter's
---@field is_deaf boolean? what arrives stays unread
---@field lost spec.StatsdAgent? what a receiver that was killed had not read
local Bed = {}
Bed.__index = Bed

--- A receiver and the options of an exporter to it; `start` makes a client of one or several.
---@param options table? the exporter's, beside the address
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

--- Binds, once more after `die`.
function Bed:listen()
  self.receiver = self.kind == "udp" and receivers.udp(nil, self.port) or receivers[self.kind](self.path)
  self.port = self.receiver.port
end

--- The receiver goes away, having read what came; its socket file stays, and is replaced at the next start.
function Bed:die()
  self:read()
  self.receiver:close()
  self.receiver = nil
end

--- The same without having read what came, as one that is killed.
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

--- Takes what has arrived.
function Bed:read()
  if not self.receiver or self.is_deaf then return end
  for _, packet in ipairs(self.receiver:all()) do
    self.packets[#self.packets + 1] = packet
    self.agent:take(packet)
  end
end

function Bed:exporter() return chalk.exporter.statsd(self.options) end

--- A client that sends to this receiver, and to what else `options.exporters` says.
---@param options table?
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

--- Flushes a client, reading meanwhile at all these receivers.
---@param client table
---@param beds spec.StatsdBed[]
function M.flush(client, beds) return flush_and_read(client, beds) end

--- The client's end, with its last flush.
---@param client table
---@param beds spec.StatsdBed[]
function M.shutdown(client, beds)
  flush_and_read(client, beds, client.shutdown)
  for _, bed in ipairs(beds) do
    bed.client = nil
  end
end

--- Flushes and reads what came.
function Bed:flush() return flush_and_read(self.client, { self }) end

--- The lines of the last flush that are not of chalk's own metrics, parsed.
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

--- The same as text, sorted.
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

---@class spec.StatsdScene what each test of a block has for itself
---@field bed spec.StatsdBed? once it was started
---@field client table?
---@field said string[] what was logged
local Scene = {}
Scene.__index = Scene

--- A bed and its client; the scene closes them.
function Scene:start(options, client_options, kind)
  self.bed = M.new(options, kind)
  self.client = self.bed:start(client_options)
  return self.client
end

--- Flushes to the bed; raises when that fails.
function Scene:flush() assert(self.bed:flush()) end

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
