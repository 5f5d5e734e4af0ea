-- The relay behind `serve`: passes a scrape on to the flush thread's server, and its answer back to the client in
-- chunks. It asks for each chunk (the header Chalk-Paced of chalk.net.http_connection) after the last one was passed
-- on. While it waits for a chunk, the worker serves other requests, which ngx.sleep(0) and ngx.flush(true) do not
-- ensure.

local M = {}

local TIMEOUT = 10000 -- milliseconds; if the flush thread ends, another worker takes over within a second
local ATTEMPTS = 2 -- because the flush thread may end, with its worker, during the first one
local PASSED = { ["content-type"] = true, ["content-encoding"] = true, ["vary"] = true, ["allow"] = true }
local HEADERS = { "Accept", "Accept-Encoding" }

-- Returns a header's value as one line of a request.
local function clean(value)
  if type(value) == "table" then value = table.concat(value, ", ") end
  return (value:gsub("[%c\127]", " "))
end

local function request_of(path)
  local lines = { ("%s %s HTTP/1.1"):format(ngx.req.get_method(), path), "Host: chalk", "Chalk-Paced: 1" }
  local headers = ngx.req.get_headers(0)
  for _, name in ipairs(HEADERS) do
    local value = headers[name]
    if value then lines[#lines + 1] = name .. ": " .. clean(value) end
  end
  return table.concat(lines, "\r\n") .. "\r\n\r\n"
end

local function read_head(socket)
  local line, problem = socket:receive "*l"
  if not line then return nil, problem end
  local head = { status = tonumber(line:match "^HTTP/1%.1 (%d%d%d)"), headers = {} }
  if not head.status then return nil, "not HTTP" end
  while true do
    line, problem = socket:receive "*l"
    if not line then return nil, problem end
    if line == "" then return head end
    local name, value = line:match "^([^:]+): *(.*)$"
    if name then head.headers[name:lower()] = value end
  end
end

-- Sends the request. Returns the socket and the head of the answer, or nil and a message.
local function ask(address)
  local socket = ngx.socket.tcp()
  socket:settimeouts(TIMEOUT, TIMEOUT, TIMEOUT)
  local ok, problem = socket:connect((address:gsub("^unix://", "unix:")))
  if not ok then return nil, problem end
  ok, problem = socket:send(request_of "/metrics")
  local head
  if ok then
    head, problem = read_head(socket)
  end
  if head then return socket, head end
  socket:close()
  return nil, problem
end

-- Asks for the next chunk and reads it. Returns "" at the end. The line end after a chunk is read before the next
-- chunk's size, because removing it from the chunk would make a copy, which the worker's collector would have to free.
local function read_chunk(socket)
  local ok, problem = socket:send "."
  if not ok then return nil, problem end
  local line
  repeat
    line, problem = socket:receive "*l"
  until line ~= ""
  local size = line and tonumber(line, 16)
  if not size then return nil, problem or "not a chunk" end
  if size == 0 then return "" end
  return socket:receive(size)
end

local function pass_on(text)
  local ok, problem = ngx.print(text)
  if ok then
    ok, problem = ngx.flush(true)
  end
  return ok, problem
end

local function pass_chunks(socket)
  while true do
    local chunk, problem = read_chunk(socket)
    if not chunk then return nil, problem end
    if chunk == "" then return true end
    local ok = pass_on(chunk)
    if not ok then return true end -- the client has gone
  end
end

local function pass_body(socket, head)
  if ngx.req.get_method() == "HEAD" then return true end
  if head.headers["transfer-encoding"] then return pass_chunks(socket) end
  local length = tonumber(head.headers["content-length"]) or 0
  local body, problem = socket:receive(length)
  if not body then return nil, problem end
  return ngx.print(body)
end

--- Answers the current request with the answer of the server at `address`.
---@param address string unix:///path
function M.run(address)
  local socket, head
  for _ = 1, ATTEMPTS do
    socket, head = ask(address)
    if socket then break end
  end
  if not socket then
    ngx.log(ngx.ERR, "chalk: no answer from the flush thread: ", head)
    return ngx.exit(ngx.HTTP_SERVICE_UNAVAILABLE)
  end
  ngx.status = head.status
  for name, value in pairs(head.headers) do
    if PASSED[name] then ngx.header[name] = value end
  end
  local length = head.headers["content-length"]
  if length and not head.headers["transfer-encoding"] then ngx.header["Content-Length"] = length end
  local ok, problem = pass_body(socket, head)
  socket:close()
  if not ok then
    ngx.log(ngx.ERR, "chalk: a scrape broke off: ", problem)
    return ngx.exit(ngx.ERROR) -- so that the client notices that the answer is incomplete
  end
  return ngx.exit(ngx.HTTP_OK)
end

return M
