--- One connection of the HTTP server. It is always in one of four states, and each has a time limit:
--
--     head    waiting for a complete head, since the accept or since the head's first byte
--     idle    kept alive, and no byte of the next request has arrived
--     answer  a response is being written; nothing is read, so pipelined requests wait in the kernel
--     linger  the last response is written; bytes that still arrive are discarded, because closing a socket with
--             unread bytes would reset the connection before the peer has the response (RFC 9112, section 9.6)
--
-- The function that makes a body is called for its next chunk when the last chunk is written, at most once per
-- iteration of the loop. So a slow reader costs the memory of one chunk, and no response keeps the others waiting. A
-- peer may ask to set the pace itself, with the header "Chalk-Paced: 1" in its request. It then sends a byte for each
-- chunk that it wants after the head.

local uv = require "luv"
local parser = require "chalk.net.http_parser"
local wire = require "chalk.net.http_response"

local M = {}

--- Closes a handle. luv may have closed it already, when the loop or the VM ended.
function M.close_handle(handle)
  pcall(function()
    if not handle:is_closing() then handle:close() end
  end)
end

---@class chalk.http.Connection
local Connection = {}
Connection.__index = Connection

--- Makes a connection that was just accepted and waits for its first request.
---@param server chalk.http.Server
---@param handle table luv's stream
---@return chalk.http.Connection
function M.new(server, handle)
  local self =
    setmetatable({ server = server, handle = handle, buffer = "", scanned = 1, reading = false }, Connection)
  self.on_read = server:guard(self, self.received)
  self.on_written = server:guard(self, self.written)
  self:enter "head"
  self:queue()
  return self
end

function Connection:enter(state)
  uv.update_time() -- the loop's time is old if a handler took long
  self.state, self.since = state, uv.now()
end

-- Puts the connection last in the order in which waiting connections are evicted. Times would not order connections of
-- the same millisecond.
function Connection:queue()
  self.server.waits = self.server.waits + 1
  self.position = self.server.waits
end

function Connection:read(enabled)
  if enabled == self.reading then return end
  self.reading = enabled
  local ok
  if enabled then
    ok = self.handle:read_start(self.on_read)
  else
    ok = self.handle:read_stop()
  end
  if not ok then self:close() end
end

-- Receives bytes, or the end of the peer's stream, which closes the connection. While a response that is not paced is
-- written, nothing is read. So a peer that shuts its side after a request still gets the whole response.
function Connection:received(err, data)
  if err or not data then
    return self:close()
  elseif self.state == "linger" then
    return
  elseif self.state == "answer" then
    return self:asked_for(#data)
  elseif self.state == "idle" then
    self:enter "head"
  end
  self.buffer = self.buffer .. data
  self:next_request()
end

function Connection:next_request()
  local limit = self.server.limits.header_size
  local request, position, message = parser.take(self.buffer, limit, self.scanned)
  if request then
    self.buffer, self.scanned = self.buffer:sub(position), 1
    self:send(request, self.server:respond(request))
  elseif request == false then
    self.buffer = ""
    self:send({ method = "GET", version = "1.1", headers = {} }, wire.text(position, message, nil), false)
  else
    self.scanned = math.max(1, #self.buffer - 1) -- the three bytes that end a head may be split
    self:read(true)
  end
end

function Connection:send(request, response, keep_alive)
  local frame = self.server:frame(request, response, keep_alive)
  if self.closed then -- by the handler, through the server
    return self.server:release(frame, false)
  end
  self.frame = frame
  self:read(frame.paced)
  self:enter "answer"
  self:write(frame.body and { frame.head, frame.body } or frame.head)
  frame.head, frame.body = nil, nil
end

function Connection:write(data)
  if not self.closed and not self.handle:write(data, self.on_written) then self:close() end
end

function Connection:written(err)
  if err or self.closed then return self:close() end
  self:advance()
end

-- Receives requests for chunks of a paced response, one byte each. One chunk is made in advance.
function Connection:asked_for(chunks)
  local frame = self.frame
  frame.asked = frame.asked + chunks
  local ready = frame.ready
  if ready then
    frame.ready, frame.asked = nil, frame.asked - 1
    self:write(ready)
  end
end

-- Returns the next chunk to write, "" if none is ready yet, or nil at the end. A paced chunk that the peer has not
-- asked for is kept in `frame.ready`, and nil is returned.
local function next_chunk(frame)
  local chunk = frame.pull and frame.pull()
  if not frame.paced or not chunk or chunk == "" then
    return chunk
  elseif frame.asked > 0 then
    frame.asked = frame.asked - 1
    return chunk
  end
  frame.ready = chunk
  return nil
end

-- Writes the next chunk. libuv reports a write in a later iteration, even if the kernel took all bytes at once, so
-- there is at most one chunk per iteration.
function Connection:advance()
  local chunk = next_chunk(self.frame)
  if self.closed or self.frame.ready then
    return
  elseif not chunk then
    self:finish()
  elseif chunk == "" then
    self.server:defer(self)
  else
    self:write(chunk)
  end
end

function Connection:finish()
  local frame = self.frame
  self.frame = nil
  self.server:release(frame, true)
  if self.closed then
    return
  elseif frame.keep_alive and not self.server.draining then
    self:enter(self.buffer == "" and "idle" or "head")
    self:queue()
    self:next_request()
  else
    self:linger()
  end
end

-- Ends the connection's output, and reads until the peer closes its side.
function Connection:linger()
  self.buffer = ""
  self:enter "linger"
  self:queue()
  if not self.handle:shutdown() then return self:close() end
  self:read(true)
end

function Connection:close()
  if self.closed then return end
  self.closed, self.buffer = true, ""
  self.server:forget(self)
  M.close_handle(self.handle)
  local frame = self.frame
  self.frame = nil
  if frame then self.server:release(frame, false) end
end

return M
