--- HTTP clients on luv: one fetches a page, and one makes load over kept connections and counts exactly how many
--- answers it got.

local uv = require "luv"

local M = {}

local function request(path, fields)
  return ("GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n"):format(path, fields or "")
end

-- Returns the value of a header field.
local function field(head, name)
  name = name:gsub("%-", "%%-")
  return head:lower():match("\r\n" .. name .. ": *([^\r]*)")
end

local function unchunk(text)
  local chunks, at = {}, 1
  while true do
    local size, start = text:match("^(%x+)[^\r]*\r\n()", at)
    size = tonumber(size or "0", 16)
    if size == 0 then return table.concat(chunks) end
    chunks[#chunks + 1] = text:sub(start, start + size - 1)
    at = start + size + 2
  end
end

---@class demo.Response
---@field status integer
---@field head string
---@field body string

local function parse(text)
  local head, body = text:match "^(HTTP/1%.%d %d%d%d.-\r\n)\r\n(.*)$"
  if not head then return nil, "the answer is not an HTTP response" end
  if (field(head, "transfer-encoding") or "") == "chunked" then body = unchunk(body) end
  return { status = tonumber(head:match " (%d+)"), head = head, body = body }
end

--- Fetches a page of 127.0.0.1 over a new connection.
---@param port integer
---@param path string
---@param done fun(response: demo.Response?, message: string?)
---@param fields string? further header lines, each with its CRLF
function M.get(port, path, done, fields)
  local handle, received = uv.new_tcp(), {}
  local function finish(problem)
    if handle:is_closing() then return end
    handle:close()
    if problem then return done(nil, problem) end
    done(parse(table.concat(received)))
  end
  handle:connect("127.0.0.1", port, function(problem)
    if problem then return finish(problem) end
    handle:write(request(path, "Connection: close\r\n" .. (fields or "")))
    handle:read_start(function(trouble, data)
      if trouble or not data then return finish(trouble) end
      received[#received + 1] = data
    end)
  end)
end

---@class demo.Load
---@field requests integer the number of answered requests
---@field statuses table<integer, integer> the number of answers by status
---@field latencies number[] in seconds
---@field errors integer connections that failed
---@field seconds number the duration so far
---@field running integer connections that still send requests
local Load = {}
Load.__index = Load

-- Takes the first complete answer from the buffer. Returns its status and the rest; nil if it is not complete.
local function take(buffer)
  local head, start = buffer:match "^(.-\r\n)\r\n()"
  if not head then return nil end
  local after = start + tonumber(field(head, "content-length"))
  if #buffer < after - 1 then return nil end
  return tonumber(head:match " (%d+)"), buffer:sub(after)
end

function Load:note(status, seconds)
  self.requests = self.requests + 1
  self.statuses[status] = (self.statuses[status] or 0) + 1
  self.latencies[self.requests] = seconds
end

-- Returns whether a connection shall send another request.
function Load:claim()
  if self.left then
    self.left = self.left - 1
    return self.left >= 0
  end
  return uv.hrtime() < self.deadline
end

function Load:connect(port, text)
  local handle, buffer, sent = uv.new_tcp(), "", nil
  self.running = self.running + 1
  local function finish(problem)
    if handle:is_closing() then return end
    handle:close()
    if problem then self.errors = self.errors + 1 end
    self.running = self.running - 1
    self.seconds = (uv.hrtime() - self.started) / 1e9
  end
  local function send()
    if not self:claim() then return finish() end
    sent = uv.hrtime()
    handle:write(text)
  end
  handle:connect("127.0.0.1", port, function(problem)
    if problem then return finish(problem) end
    handle:nodelay(true)
    handle:read_start(function(trouble, data)
      if trouble or not data then return finish(trouble or "EOF") end
      local status
      buffer = buffer .. data
      status, data = take(buffer)
      if not status then return end
      buffer = data
      self:note(status, (uv.hrtime() - sent) / 1e9)
      send()
    end)
    send()
  end)
end

--- Returns the latency below which the share q of the latencies lies, in seconds.
---@param q number 0 to 1
---@return number
function Load:quantile(q)
  table.sort(self.latencies)
  return self.latencies[math.floor(q * (self.requests - 1)) + 1] or 0 / 0
end

--- Requests a page again and again, and waits for the answer of every request that was sent.
---@param options { port: integer, path: string, connections: integer, requests: integer?, seconds: number? }
---@return demo.Load
function M.load(options)
  local now = uv.hrtime()
  local self = setmetatable({
    requests = 0,
    statuses = {},
    latencies = {},
    errors = 0,
    running = 0,
    started = now,
    left = options.requests,
    deadline = now + (options.seconds or 0) * 1e9,
  }, Load)
  for _ = 1, options.connections do
    self:connect(options.port, request(options.path))
  end
  return self
end

return M
