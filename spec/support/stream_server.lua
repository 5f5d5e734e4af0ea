--- A server for tests of stream clients. It sends any bytes that a test gives it.

local uv = require "luv"

local M = {}

---@class spec.StreamServer
---@field port integer
---@field clients userdata[] in the order they connected
local Server = {}
Server.__index = Server

--- Listens on a free port of loopback.
---@param greeting string? the bytes that each client gets first
---@return spec.StreamServer
function M.start(greeting)
  local self = setmetatable({ listener = uv.new_tcp(), clients = {}, broken_pipe = uv.new_signal() }, Server)
  -- Without a handler, a write to a closed connection would end this process.
  self.broken_pipe:start("sigpipe", function() end)
  assert(self.listener:bind("127.0.0.1", 0))
  self.port = self.listener:getsockname().port
  assert(self.listener:listen(8, function()
    local client = uv.new_tcp()
    self.listener:accept(client)
    client:read_start(function() end)
    self.clients[#self.clients + 1] = client
    if greeting then client:write(greeting) end
  end))
  return self
end

function Server:address() return "127.0.0.1:" .. self.port end

--- Sends to every client.
---@param bytes string
function Server:send(bytes)
  for _, client in ipairs(self.clients) do
    client:write(bytes)
  end
end

--- Ends every connection after all bytes are sent. The listener stays open.
function Server:hang_up()
  for _, client in ipairs(self.clients) do
    client:shutdown(function() client:close() end)
  end
  self.clients = {}
end

--- Ends every connection with a reset.
function Server:reset()
  for _, client in ipairs(self.clients) do
    client:close_reset()
  end
  self.clients = {}
end

function Server:stop()
  self.listener:close()
  self.broken_pipe:close()
  for _, client in ipairs(self.clients) do
    client:close()
  end
  uv.run "nowait"
end

return M
