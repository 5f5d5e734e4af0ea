--- HTTP requests that wait for the answer by running luv's loop, so that timers of a spec continue meanwhile.

local uv = require "luv"

local M = {}

local DEADLINE = 15

local function unchunk(text)
  local chunks, at = {}, 1
  while true do
    local size, start = text:match("^(%x+)\r\n()", at)
    size = size and tonumber(size, 16)
    if not size or #text < start + size + 1 then return nil, "broken off" end
    if size == 0 then return table.concat(chunks) end
    chunks[#chunks + 1] = text:sub(start, start + size - 1)
    at = start + size + 2
  end
end

local function read(text, method)
  local head, at = text:match "^(.-\r\n)\r\n()"
  local status = head and tonumber(head:match "^HTTP/1%.%d (%d+)")
  if not status then return nil, "no head: " .. text:sub(1, 100) end
  local response = { status = status, headers = {}, head = head, body = text:sub(at) }
  for name, value in head:gmatch "([^:\r\n]+): ([^\r\n]*)\r\n" do
    response.headers[name:lower()] = value
  end
  if method == "HEAD" then return response end
  if response.headers["transfer-encoding"] then
    local body, problem = unchunk(response.body)
    response.body = body
    return body and response or nil, problem
  end
  local length = tonumber(response.headers["content-length"])
  if length and #response.body ~= length then return nil, "broken off" end
  return response
end

local function connect(address, done)
  local path = address:match "^unix:/?/?(/.*)$"
  if path then
    local pipe = uv.new_pipe(false)
    pipe:connect(path, done)
    return pipe
  end
  local socket = uv.new_tcp()
  socket:connect("127.0.0.1", tonumber(address), done)
  return socket
end

---@class spec.Request
---@field method string?
---@field path string?
---@field headers string? header lines, each with its CRLF
---@field raw string? the whole text to send, in place of all other fields
---@field deadline number? seconds, default 15

local function text_of(options)
  return options.raw
    or ("%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n"):format(
      options.method or "GET",
      options.path or "/metrics",
      options.headers or ""
    )
end

--- Sends a request without waiting for the answer. `wait` of the result waits for it, and `close` breaks it off.
---@param address string|integer a port of 127.0.0.1, or unix:///path
---@param options spec.Request?
---@return table pending
function M.send(address, options)
  options = options or {}
  local pending, received, started = {}, {}, uv.hrtime()
  local timer, handle = uv.new_timer(), nil
  local function finish(problem)
    if pending.over then return end
    pending.over, pending.problem, pending.seconds = true, problem, (uv.hrtime() - started) / 1e9
    if not handle:is_closing() then handle:close() end
    timer:close()
  end
  function pending.close()
    finish "broken off"
    uv.run "nowait"
  end
  function pending.received() return table.concat(received) end
  handle = connect(tostring(address), function(refused)
    if refused then return finish(refused) end
    handle:read_start(function(err, data)
      if not data then return finish(err) end
      received[#received + 1] = data
    end)
    handle:write(text_of(options))
  end)
  uv.update_time() -- the loop's time is old if the loop has not run for long
  timer:start((options.deadline or DEADLINE) * 1000, 0, function() finish "no answer in time" end)
  function pending.wait()
    while not pending.over do
      uv.run "once"
    end
    if pending.problem then return nil, pending.problem, pending.seconds end
    local response, problem = read(table.concat(received), options.method)
    return response, problem, pending.seconds
  end
  return pending
end

--- Sends a request and waits for the answer.
---@param address string|integer
---@param options spec.Request?
---@return { status: integer, headers: table<string, string>, head: string, body: string }? response
---@return string? problem
---@return number seconds
function M.get(address, options) return M.send(address, options).wait() end

--- Runs the loop for a while.
---@param seconds number
function M.turn(seconds)
  local over = false
  local timer = uv.new_timer()
  timer:start(seconds * 1000, 0, function()
    over = true
    timer:close()
  end)
  while not over do
    uv.run "once"
  end
end

return M
