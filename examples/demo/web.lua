--- A small web server on luv for the examples, with GET, keep-alive, and answers that may come later.
--
-- A connection buffers what was received and not parsed yet. While a request waits for its answer, no further request
-- is parsed, so answers are sent in the order of their requests.

local uv = require "luv"

local M = {}

local LONGEST_HEAD = 8192 -- bytes
local REASONS = { [200] = "OK", [400] = "Bad Request", [404] = "Not Found", [500] = "Internal Server Error" }

local Connection = {}
Connection.__index = Connection

local function response(status, body, content_type, keep_alive)
  return ("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n%s"):format(
    status,
    REASONS[status],
    content_type or "text/plain",
    #body,
    keep_alive and "" or "Connection: close\r\n",
    body
  )
end

function Connection:close()
  if self.closed then return end
  self.closed = true
  self.server.connections[self] = nil
  self.handle:close()
end

function Connection:answer(keep_alive, status, body, content_type)
  if self.closed then return end
  self.handle:write(response(status, body, content_type, keep_alive), function()
    if not keep_alive then self:close() end
  end)
  self.busy = false
  if keep_alive then self:next_request() end
end

function Connection:next_request()
  if self.busy or self.closed then return end
  local head, after = self.buffer:match "^(.-\r\n)\r\n()"
  if not head then
    if #self.buffer > LONGEST_HEAD then self:close() end
    return
  end
  self.buffer, self.busy = self.buffer:sub(after), true
  local path, minor = head:match "^GET (/[^ ?]*)%S* HTTP/1%.(%d)\r\n"
  if not path then return self:answer(false, 400, "expected a GET request\n") end
  local keep_alive = minor == "1" and not head:lower():find("\r\nconnection: close", 1, true)
  self.server.handler(path, function(...) return self:answer(keep_alive, ...) end)
end

local function accept(server)
  local handle = uv.new_tcp()
  server.handle:accept(handle)
  handle:nodelay(true)
  local connection = setmetatable({ server = server, handle = handle, buffer = "" }, Connection)
  server.connections[connection] = true
  handle:read_start(function(problem, data)
    if problem or not data then return connection:close() end
    connection.buffer = connection.buffer .. data
    connection:next_request()
  end)
end

---@class demo.Server
---@field port integer
local Server = {}
Server.__index = Server

--- Closes the socket and all connections.
function Server:close()
  if self.handle:is_closing() then return end
  self.handle:close()
  for connection in pairs(self.connections) do
    connection:close()
  end
end

--- Starts a server on this VM's luv loop.
---@param port integer of 127.0.0.1; 0 for any free port
---@param handler fun(path: string, reply: fun(status: integer, body: string, content_type: string?))
---@return demo.Server
function M.serve(port, handler)
  local server = setmetatable({ handle = uv.new_tcp(), handler = handler, connections = {} }, Server)
  assert(server.handle:bind("127.0.0.1", port))
  assert(server.handle:listen(128, function(problem)
    if not problem then accept(server) end
  end))
  server.port = server.handle:getsockname().port
  return server
end

--- Returns a port of 127.0.0.1 that is free at the moment.
---@return integer
function M.free_port()
  local handle = uv.new_tcp()
  assert(handle:bind("127.0.0.1", 0))
  local port = handle:getsockname().port
  handle:close()
  return port
end

return M
