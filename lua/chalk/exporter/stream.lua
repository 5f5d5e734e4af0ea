--- The event stream exporter sends every record live to clients over TCP, as protobuf messages. Their fields are in
-- src/export/stream_encoder.h.
--
-- While no client is connected, there is only a listening socket. The first client switches the event tap on. The core
-- then takes events from the tap, encodes them and sends them.
--
-- A *server* exists in the process that holds the flusher's role. Its `run_once` accepts clients, takes events and
-- sends them, and never waits. On a loop a timer calls it while there are clients; without a loop each flush calls it.

local core = require "chalk.core"
local json = require "chalk.base.json"
local kinds = require "chalk.define.kinds"
local metrics = require "chalk.exporter.stream.metric"
local option = require "chalk.define.options"

local C = core.C

local M = {}

local PERIOD = 1 -- milliseconds between two calls of `run_once` while there are clients
local LISTEN = "127.0.0.1:5000"
local BUFFER, MOST_BUFFER = 1024, 2 ^ 30
local ACCEPTS = 16 -- clients that one call of `run_once` accepts at most
local PAUSE = 100 -- milliseconds without accepting after an error

-- Linux's numbers of errors that concern one connection or none: EINTR, EAGAIN, EPROTO, EUSERS (the core has too many
-- clients), ECONNABORTED. EINVAL means that another process has shut the socket.
local PASSING, SHUT = { [4] = true, [11] = true, [71] = true, [87] = true, [103] = true }, 22

---@class chalk.stream.Options
---@field listen string? the address for clients ("127.0.0.1:5000")
---@field namespace string? a prefix of every name
---@field buffer_size (integer|false)? events that are kept for slow clients; false: no limit (1024)
---@field global_tags table<string, string|number|boolean>? constant labels; a metric's own tag of the same name wins
---@field name string? the exporter's name

local function is_buffer_size(v)
  local words = ("a whole number from 1 to %d, or false for no limit"):format(MOST_BUFFER)
  return v == false or type(v) == "number" and v >= 1 and v <= MOST_BUFFER and v % 1 == 0, words
end

local function is_namespace(v)
  return type(v) == "string" and v:find "^[a-zA-Z_:][a-zA-Z0-9_:]*$" ~= nil,
    "a string of letters, digits, _ and :, not starting with a digit"
end

-- Strings in protobuf must be valid UTF-8, or a reader refuses the whole message.
local function is_tags(v)
  local ok, words = option.is_tags(v)
  if not ok then return false, words end
  for _, value in pairs(v) do
    value = tostring(value)
    if json.invalid_utf8(value) or value:find("\0", 1, true) then return false, "valid UTF-8 without NUL" end
  end
  return true
end

local CHECKS = {
  listen = function(v) return type(v) == "string", 'an address, such as "' .. LISTEN .. '"' end,
  namespace = is_namespace,
  buffer_size = is_buffer_size,
  global_tags = is_tags,
  name = option.of_type("string", "a string"),
}

-- Returns what is wrong with the options, or nil.
local function problem_of(options)
  if type(options) ~= "table" then return "options must be a table" end
  local problems = option.problems(options, CHECKS)
  return problems[1] and table.concat(problems, "; ") or nil
end

--- Returns the options with defaults; or nil and a message that lists all problems.
---@param options chalk.stream.Options
---@return chalk.stream.Options? resolved, string? message
function M.resolve(options)
  local message = problem_of(options)
  if message then return nil, message end
  local resolved = {}
  for name, value in pairs(options) do
    resolved[name] = value
  end
  resolved.listen = resolved.listen or LISTEN
  if resolved.buffer_size == nil then resolved.buffer_size = BUFFER end
  return resolved
end

---@class chalk.stream.Exporter
local Exporter = {}
Exporter.__index = Exporter

--- Makes an exporter. Raises a message if the options are wrong.
---@param options chalk.stream.Options?
---@return chalk.stream.Exporter
function M.new(options)
  local resolved, message = M.resolve(options or {})
  if not resolved then error(message, 2) end
  return setmetatable({ deltas = false, options = resolved, listen = resolved.listen }, Exporter)
end

--- Sends events only if there is no loop. With a loop, clients receive records as they are made.
---@return true
function Exporter:export()
  local server = self.server
  if server and not server.timer then server:run_once() end
  return true
end

-- Serving

---@class chalk.stream.Server
---@field closed boolean?
local Server = {}
Server.__index = Server

--- Serves the clients of a listening socket while this process holds the flusher's role.
---@param fd integer the listening socket; the server closes it
---@param context chalk.ExporterContext
---@return chalk.stream.Server
function Exporter:serve(fd, context)
  local size = self.options.buffer_size or 0
  local stream = C.chalk_stream_new(context.client.segment, size, fd)
  if stream == nil then error("out of memory", 0) end
  local server = setmetatable({
    stream = stream,
    events = context.events,
    segment = context.client.segment,
    gauge = context.client.own.stream_clients:with(context.name),
    options = self.options,
    clients = 0,
  }, Server)
  -- This is not ffi.gc, because lua_close runs the finalizers of cdata before the last flush.
  server.guard = core.finalizer(function() server:free() end)
  server.subscription = {
    kinds = kinds.names,
    events = size == 0 and C.CHALK_TAP_MOST or size,
    take = function(tap, n)
      if not server.closed then server:take(tap, n) end
    end,
  }
  server.gauge:set(0)
  if context.uv then server:watch(context.uv, fd, context.log) end
  self.server = server
  return server
end

--- Frees the child's copy of the server, in a forked child. Sockets and loop belong to the parent.
function Exporter:forked()
  local server = self.server
  self.server = nil
  if server then
    server:leave()
    server:free()
  end
end

-- Puts the server on a loop: `tick` is called when a client connects, and every PERIOD while there are clients.
function Server:watch(uv, fd, log)
  function self.tick()
    local ok, message = xpcall(self.run_once, debug.traceback, self)
    if not ok then log("error", "stream: " .. tostring(message)) end
  end
  self.poll, self.timer, self.pause_timer = uv.new_poll(fd), uv.new_timer(), uv.new_timer()
  for _, handle in ipairs { self.poll, self.timer, self.pause_timer } do
    handle:unref()
  end
  self:listen()
end

function Server:listen()
  if self.poll then self.poll:start("r", self.tick) end
end

-- Stops polling the listening socket after an error, because the socket would be ready in every iteration of the loop.
-- Polling starts again after a pause, unless another process, whose configuration lacks the address, has shut it.
function Server:pause_listening(code)
  if not self.poll then return end
  self.poll:stop()
  if code ~= SHUT then self.pause_timer:start(PAUSE, 0, function() self:listen() end) end
end

-- Describes a metric to the core. Returns false if the metric is not shown to clients.
function Server:define(number)
  local metric = metrics.new(self.segment, number, self.options)
  if not metric then return false end
  return C.chalk_stream_define(self.stream, number, metric.c) == 0
end

-- Describes all metrics to the core, so that a client learns of a metric before it receives the metric's events.
function Server:define_all()
  for number = 0, C.chalk_metric_top(self.segment) - 1 do
    if C.chalk_stream_knows(self.stream, number) == 0 then self:define(number) end
  end
end

-- Encodes a batch of events. The core stops at a metric that it does not know yet and returns its number.
function Server:take(tap, n)
  while true do
    local number = C.chalk_stream_take(self.stream, tap, n)
    if number < 0 then break end
    if not self:define(number) then C.chalk_stream_pass_over(self.stream) end
  end
end

function Server:accept()
  local before = self.clients
  for _ = 1, ACCEPTS do
    local code = C.chalk_stream_accept(self.stream)
    if code < 0 then
      if not PASSING[-code] then self:pause_listening(-code) end
      break
    end
    self.clients = self.clients + 1
  end
  if self.clients > before then self:define_all() end
end

-- Counts the clients, and subscribes to the event tap while there are any.
function Server:update_clients()
  local clients = C.chalk_stream_clients(self.stream)
  self.clients = clients
  local subscription = self.subscription
  if clients > 0 and not self.subscribed then
    self.subscribed = true
    self.events:subscribe(subscription)
    if self.timer then self.timer:start(PERIOD, PERIOD, self.tick) end
  elseif clients == 0 and self.subscribed then
    self.subscribed = false
    self.events:unsubscribe(subscription)
    if self.timer then self.timer:stop() end
  end
  if clients ~= self.shown then
    self.shown = clients
    self.gauge:set(clients)
  end
end

--- Accepts clients, takes events and sends them. Never waits.
function Server:run_once()
  if self.closed then return end
  self:accept()
  self:update_clients()
  if self.clients == 0 then return end
  self.events:pump()
  C.chalk_stream_send(self.stream)
  self.events:dropped("series", tonumber(C.chalk_stream_dropped(self.stream, 0)))
  self.events:dropped("client", tonumber(C.chalk_stream_dropped(self.stream, 1)))
end

function Server:free()
  self.closed = true
  if self.stream then C.chalk_stream_free(self.stream) end
  self.stream = nil
end

-- Unsubscribes from the event tap.
function Server:leave()
  if self.subscribed then self.events:unsubscribe(self.subscription) end
  self.subscribed = false
end

--- Closes all connections. Clients can connect to the next holder of the role at the same address.
function Server:close()
  if self.closed then return end
  self.closed = true
  for _, handle in ipairs { self.poll, self.timer, self.pause_timer } do
    pcall(handle.close, handle) -- at the end of a VM a handle may be finalized already
  end
  self:leave()
  self.gauge:set(0)
  self:free()
end

Server.drain = Server.close

return M
