--- Runs real StatsD servers on loopback: Etsy's statsd and Prometheus's statsd_exporter. tools/receivers installs them.

local collect = require "support.collect"
local examples = require "support.examples"
local files = require "support.files"
local ports = require "support.ports"
local uv = require "luv"
local wait = require "support.wait"
local web = require "demo.web"

local child = examples.child

local M = {}

local SECONDS = 30
local TOOL = "tools/receivers"

local found

local function install()
  local pipe = io.popen("env -u LD_PRELOAD " .. TOOL .. " 2>&1")
  found = { said = pipe:read "*a" }
  pipe:close()
  for name, path in found.said:gmatch "(%l+) (/[^\n]+)\n" do
    found[name] = path
  end
  return found
end

--- Returns why a server cannot be started; nil if it can.
---@param name "etsy"|"exporter"
---@return string?
function M.missing(name)
  if (found or install())[name] then return nil end
  return ("%s is not installed, by %s: %s"):format(name, TOOL, found.said)
end

-- Starts a program without the sanitizer's runtime that may be preloaded into LuaJIT.
local function spawn(...) return child.spawn(child.find "env", { "-u", "LD_PRELOAD", ... }) end

---@class spec.StatsdServer
---@field address string the value of the exporter's option `address`
local Server = {}
Server.__index = Server

function Server:stop() self.process:stop() end

--- Sends a command to the admin port of Etsy's statsd. Returns the answer up to END.
---@param command "counters"|"gauges"|"timers"|"health"
---@return string
function Server:ask(command)
  local socket, text, over = uv.new_tcp(), "", false
  socket:connect("127.0.0.1", self.admin, function(refused)
    if refused then
      over = true
      return
    end
    socket:read_start(function(_, data)
      text = text .. (data or "")
      over = not data or text:find("END", 1, true) ~= nil
    end)
    socket:write(command .. "\n")
  end)
  child.wait(function() return over end, 5)
  socket:close()
  uv.run "nowait"
  return text
end

--- Returns the samples of statsd_exporter's page; an empty table before it answers.
---@return table<string, number>
function Server:samples()
  local ok, response = pcall(examples.get, self.pages, "/metrics")
  return ok and collect.samples(response.body) or {}
end

--- Starts Etsy's statsd, which keeps all values as long as it runs.
---@return spec.StatsdServer
function M.etsy()
  local port, admin = ports.udp(), web.free_port()
  local config = files.make(([[{ address: "127.0.0.1", port: %d, mgmt_address: "127.0.0.1", mgmt_port: %d,
    backends: ["./backends/console"], flushInterval: 3600000, prefixStats: "own" }]]):format(port, admin))
  local self = setmetatable({ address = "127.0.0.1:" .. port, admin = admin }, Server)
  self.process = spawn(child.find "node", found.etsy, config)
  wait.till(function() return self:ask("health"):find("up", 1, true) or self:ask "counters" ~= "" end, SECONDS)
  return self
end

--- Starts Prometheus's statsd_exporter.
---@param kind "udp"|"unixgram"
---@return spec.StatsdServer
function M.exporter(kind)
  local port, pages, path = ports.udp(), web.free_port(), files.name()
  local is_udp = kind == "udp"
  local address = is_udp and "127.0.0.1:" .. port or "unixgram://" .. path
  local self = setmetatable({ address = address, pages = pages }, Server)
  self.process = spawn(
    found.exporter,
    "--statsd.listen-tcp=",
    "--log.level=warn",
    "--statsd.listen-udp=" .. (is_udp and "127.0.0.1:" .. port or ""),
    "--statsd.listen-unixgram=" .. (is_udp and "" or path),
    "--web.listen-address=127.0.0.1:" .. pages
  )
  wait.till(function() return self:samples().statsd_exporter_lines_total end, SECONDS)
  return self
end

return M
