--- A small HTTP/1.1 server on luv, which serves metrics from the flush loop.
--
-- A server polls its listening socket and accepts a few connections per iteration of the loop. Each becomes a
-- chalk.net.http_connection. One timer closes connections that are past their time limit. When the server is full, it
-- closes the connection that has waited longest for a request, but never one that is being answered. So
-- connections that wait for a request never keep new ones out, and a connection that is being answered ends by its time
-- limit.

local uv = require "luv"
local connections = require "chalk.net.http_connection"
local socket = require "chalk.net.http_socket"
local system = require "chalk.net.system"
local wire = require "chalk.net.http_response"

local M = {}

local ACCEPTS_PER_ITERATION = 16
local ACCEPT_PAUSE = 100 -- milliseconds

-- Errors of accept() that concern one connection or none. The next iteration tries again.
local PASSING = { EAGAIN = true, EINTR = true, ECONNABORTED = true, EPROTO = true }

---@class chalk.http.Limits
---@field header_size integer? bytes of a request's head (8192)
---@field connections integer? open connections (256)
---@field header_timeout number? seconds from the first byte, or from the accept, to a complete head (5)
---@field idle_timeout number? seconds between two requests of a connection (60)
---@field request_timeout number? seconds for writing a response (30)
---@field linger_timeout number? seconds for which a peer may still send after the last response (1)
local DEFAULTS = {
  header_size = 8192,
  connections = 256,
  header_timeout = 5,
  idle_timeout = 60,
  request_timeout = 30,
  linger_timeout = 1,
}

local TIMEOUTS = {
  head = "header_timeout",
  idle = "idle_timeout",
  answer = "request_timeout",
  linger = "linger_timeout",
}

local close_handle = connections.close_handle

---@class chalk.http.Server
---@field port integer? of a TCP socket
---@field count integer open connections
local Server = {}
Server.__index = Server

function Server:report(level, message)
  if self.log then pcall(self.log, level, message) end
end

-- Makes a callback that calls a method. An error is reported and closes the object, unless that is the server itself.
-- No error may leave a callback, because luv would end the process.
function Server:guard(object, method)
  return function(...)
    local ok, message = pcall(method, object, ...)
    if not ok then
      self:report("error", "http: " .. tostring(message))
      if object ~= self then pcall(object.close, object) end
    end
  end
end

--- Releases a response at its end. `complete`: whether all of it was sent.
function Server:release(frame, complete)
  local ok, message = pcall(frame.release, complete)
  if not ok then self:report("error", "http: " .. tostring(message)) end
end

--- Returns the response to a request, and whether the connection may stay open after it.
function Server:respond(request)
  if request.method ~= "GET" and request.method ~= "HEAD" then
    return wire.text(405, "only GET and HEAD are served"), request.keep_alive and not request.has_body
  elseif request.has_body then
    return wire.text(400, "a request with a body is not served"), false
  end
  local ok, response = pcall(self.handler, request)
  if ok and type(response) == "table" then return response, request.keep_alive and not self.draining end
  local problem = ok and "the handler returned no response" or tostring(response)
  self:report("error", "http: " .. request.path:sub(1, 100) .. ": " .. problem)
  return wire.text(500, "internal server error"), false
end

--- Returns the frame of a response; for a malformed response that of an error with status 500.
function Server:frame(request, response, keep_alive)
  local ok, frame = pcall(wire.frame, request, response, keep_alive)
  if ok then return frame end
  self:report("error", "http: malformed response: " .. tostring(frame))
  if type(response.done) == "function" then pcall(response.done, false) end
  return wire.frame(request, wire.text(500, "internal server error"), false)
end

function Server:accept()
  for _ = 1, ACCEPTS_PER_ITERATION do
    local fd, name, message = socket.accept(self.fd)
    if not fd then return self:accept_failed(name, message) end
    self.troubled = false
    self:admit(fd)
  end
end

-- When the process has no free descriptor, the connection that has waited longest is closed, and polling pauses.
-- Without the pause the listening socket would be ready in every iteration.
function Server:accept_failed(name, message)
  if PASSING[name] then
    return
  elseif name == "EINVAL" then -- another process, whose configuration lacks the address, has shut the socket
    return self:stop_listening()
  end
  if not self.troubled then
    self.troubled = true
    self:report("warning", "http: cannot accept: " .. message)
  end
  self:evict()
  self.poll:stop()
  self.pause:start(ACCEPT_PAUSE, 0, self:guard(self, self.poll_start))
end

function Server:poll_start()
  if not self.closed then self.poll:start("r", self.on_acceptable) end
end

function Server:admit(fd)
  if self.count >= self.limits.connections and not self:evict() then
    system.close(fd)
    return
  end
  local handle = self.unix and uv.new_pipe(false) or uv.new_tcp()
  if not handle:open(fd) then
    system.close(fd)
    return close_handle(handle)
  end
  if not self.unix then handle:nodelay(true) end
  if self.unreferenced then handle:unref() end
  local connection = connections.new(self, handle)
  self.open[connection] = true
  self.count = self.count + 1
  if self.count == 1 then
    self.sweeper:start(self.sweep_interval, self.sweep_interval, self:guard(self, self.sweep))
  end
  connection:read(true)
end

--- Closes the connection that has waited longest without a complete request.
---@return boolean evicted false: all connections are being answered
function Server:evict()
  local oldest
  for connection in pairs(self.open) do
    local is_older = not oldest or connection.position < oldest.position
    if connection.state ~= "answer" and is_older then oldest = connection end
  end
  if oldest then oldest:close() end
  return oldest ~= nil
end

function Server:forget(connection)
  if self.open[connection] then
    self.open[connection] = nil
    self.count = self.count - 1
    if self.count == 0 and not self.sweeper:is_closing() then self.sweeper:stop() end
    if self.count == 0 and self.draining then self:close() end
  end
end

function Server:sweep()
  local now, overdue = uv.now(), {}
  for connection in pairs(self.open) do
    if now - connection.since >= self.limits[TIMEOUTS[connection.state]] * 1000 then
      overdue[#overdue + 1] = connection
    end
  end
  for _, connection in ipairs(overdue) do
    connection:close()
  end
end

--- Lets a connection continue in the loop's next iteration.
function Server:defer(connection)
  self.deferred[#self.deferred + 1] = connection
  self.deferrer:start(self.on_next_iteration)
end

function Server:resume_deferred()
  local deferred = self.deferred
  self.deferred = {}
  self.deferrer:stop()
  for _, connection in ipairs(deferred) do
    if not connection.closed then
      connection.resume = connection.resume or self:guard(connection, connection.advance)
      connection.resume()
    end
  end
end

--- Lets the loop end while the server is open.
function Server:unref()
  self.unreferenced = true
  for _, handle in ipairs { self.poll, self.sweeper, self.pause, self.deferrer } do
    handle:unref()
  end
  for connection in pairs(self.open) do
    connection.handle:unref()
  end
end

function Server:stop_listening()
  close_handle(self.poll)
  close_handle(self.pause)
  if self.fd then system.close(self.fd) end
  if self.bound then close_handle(self.bound) end
  self.fd, self.bound = nil, nil
end

--- Stops accepting and closes idle connections. Every other connection gets one last response, and the server closes
--- after the last of them.
function Server:drain()
  if self.closed or self.draining then return end
  self.draining = true
  self:stop_listening()
  local idle = {}
  for connection in pairs(self.open) do
    if connection.state == "idle" then idle[#idle + 1] = connection end
  end
  for _, connection in ipairs(idle) do
    connection:close()
  end
  if self.count == 0 then self:close() end
end

--- Closes the listening socket and all connections at once. May be called again. libuv frees the handles in the loop's
--- next iteration, which a program should still run: luv up to 1.44 crashes in lua_close() while handles are closing.
function Server:close()
  if self.closed then return end
  self.closed = true
  local open = {}
  for connection in pairs(self.open) do
    open[#open + 1] = connection
  end
  for _, connection in ipairs(open) do
    pcall(connection.close, connection)
  end
  self:stop_listening()
  close_handle(self.sweeper)
  close_handle(self.deferrer)
end

local function merge_limits(given)
  local limits = {}
  for name, value in pairs(DEFAULTS) do
    limits[name] = given and given[name] or value
  end
  return limits
end

-- Milliseconds between two sweeps: half the shortest time limit, but at most a second.
local function sweep_interval(limits)
  local shortest = 2
  for _, name in pairs(TIMEOUTS) do
    shortest = math.min(shortest, limits[name])
  end
  return math.max(10, math.floor(shortest * 500))
end

---@class chalk.http.Options
---@field fd integer? a bound stream socket, TCP or unix; the server owns and closes it, unless serve() fails
---@field address string? bound if there is no fd: "127.0.0.1:9464", "[::1]:0", "unix:///run/metrics.sock"
---@field handler fun(request: chalk.http.Request): chalk.http.Response called for GET and HEAD
---@field log (fun(level: "warning"|"error", message: string))?
---@field limits chalk.http.Limits?

-- Listens on a socket. Returns the fields of a server that belong to its socket, or nil and a message.
local function open_socket(fd, bound)
  local unix, port = socket.listen(fd)
  if unix == nil then return nil, port end
  local poll, message = uv.new_poll(fd)
  if not poll then return nil, message end
  return { fd = fd, bound = bound, unix = unix, port = port, poll = poll }
end

local function start(server, options)
  server.handler, server.log = options.handler, options.log
  server.limits = merge_limits(options.limits)
  server.sweep_interval = sweep_interval(server.limits)
  server.open, server.count, server.waits, server.deferred = {}, 0, 0, {}
  server.sweeper, server.pause, server.deferrer = uv.new_timer(), uv.new_timer(), uv.new_idle()
  server.on_acceptable = server:guard(server, server.accept)
  server.on_next_iteration = server:guard(server, server.resume_deferred)
  server:poll_start()
  socket.survive_sigpipe()
  return server
end

--- Serves HTTP from this VM's luv loop until close(). Returns nil and a message if it cannot listen.
---@param options chalk.http.Options
---@return chalk.http.Server? server
---@return string? message
function M.serve(options)
  if type(options) ~= "table" or type(options.handler) ~= "function" then
    error("http.serve needs a handler", 2)
  elseif not options.fd and type(options.address) ~= "string" then
    error("http.serve needs an fd or an address", 2)
  end
  local fd, bound = options.fd, nil
  if not fd then
    fd, bound = socket.bind(options.address)
    if not fd then return nil, ("cannot listen on %s: %s"):format(options.address, bound) end
  end
  local server, message = open_socket(fd, bound)
  if server then
    return start(setmetatable(server, Server), options)
  elseif bound then
    system.close(fd)
    bound:close()
  end
  return nil, ("cannot listen on %s: %s"):format(bound and options.address or "fd " .. fd, message)
end

return M
