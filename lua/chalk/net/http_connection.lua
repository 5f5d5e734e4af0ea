--- One connection of the HTTP server. It is always in one state, each of which has its time limit:
--
--     head    its first byte, or since the accept its first request, is awaited to become a whole head
--     idle    kept alive, nothing of a next request is there
--     answer  a response is being written; nothing is read meanwhile, so pipelined requests wait in the kernel
--     linger  the last response is written; what still comes is discarded, or closing would reset the
--             connection under the response (RFC 9112, section 9.6)
--
-- A body made by a function is asked for its next piece when the piece before is written, at most one a turn: a slow
-- reader holds one piece, and no response keeps the others waiting. A peer that must not be given more than it can
-- handle at once says so in its request (Chalk-Paced: 1), and asks for each piece after the head with a byte.

local uv = require "luv"
local parser = require "chalk.net.http_parser"
local wire = require "chalk.net.http_response"

local M = {}

---Closes a handle, also one that luv closed itself when the loop or the VM ended.
function M.close_handle(handle)
  pcall(function()
    if not handle:is_closing() then handle:close() end
  end)
end

---@class chalk.http.Connection
local Connection = {}
Connection.__index = Connection

---A connection that was just accepted; its first request is awaited.
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
  uv.update_time() -- a handler may have taken long
  self.state, self.since = state, uv.now()
end

-- Takes the last place in the order in which waiting connections are evicted; milliseconds would not order them.
function Connection:queue()
  self.server.waits = self.server.waits + 1
  self.place = self.server.waits
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

-- The end of the peer's stream is seen only between responses, so it ends nothing that was asked for.
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
    self.scanned = math.max(1, #self.buffer - 1) -- the end of a head takes up to three bytes
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

-- The peer of a paced response asks for each piece with a byte; one is made beforehand.
function Connection:asked_for(pieces)
  local frame = self.frame
  frame.asked = frame.asked + pieces
  local ready = frame.ready
  if ready then
    frame.ready, frame.asked = nil, frame.asked - 1
    self:write(ready)
  end
end

local function next_piece(frame)
  local piece = frame.pull and frame.pull()
  if not frame.paced or not piece or piece == "" then
    return piece
  elseif frame.asked > 0 then
    frame.asked = frame.asked - 1
    return piece
  end
  frame.ready = piece
  return nil
end

-- libuv calls back about a write in a later turn, even when the kernel took it at once: one piece a turn.
function Connection:advance()
  local piece = next_piece(self.frame)
  if self.closed or self.frame.ready then
    return
  elseif not piece then
    self:finish()
  elseif piece == "" then
    self.server:defer(self)
  else
    self:write(piece)
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
