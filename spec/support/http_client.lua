--- For the specs of the HTTP server: a server with its clients, all on this VM's loop.

local ffi = require "ffi"
local uv = require "luv"
local http = require "chalk.net.http"
local wire = require "chalk.net.http_response"

local M = {}

if not pcall(ffi.typeof, "chalk_spec_rlimit") then
  ffi.cdef [[
    typedef struct { unsigned long soft, hard; } chalk_spec_rlimit;
    int chalk_spec_getrlimit(int, chalk_spec_rlimit *) __asm__("getrlimit");
    int chalk_spec_setrlimit(int, const chalk_spec_rlimit *) __asm__("setrlimit");
  ]]
end
local RLIMIT_NOFILE = 7

---Sets how many descriptors the process may have; returns how many it could.
function M.limit_descriptors(count)
  local limit = ffi.new "chalk_spec_rlimit"
  assert(ffi.C.chalk_spec_getrlimit(RLIMIT_NOFILE, limit) == 0)
  local before = tonumber(limit.soft)
  limit.soft = count
  assert(ffi.C.chalk_spec_setrlimit(RLIMIT_NOFILE, limit) == 0, "cannot have " .. count .. " descriptors")
  return before
end

function M.clock() return uv.hrtime() / 1e9 end

---Runs the loop until a condition holds; false when it does not in time.
function M.wait(condition, seconds)
  local deadline = M.clock() + (seconds or 10)
  local tick = uv.new_timer()
  tick:start(5, 5, function() end)
  while not condition() and M.clock() < deadline do
    uv.run "once"
  end
  tick:close()
  return condition() and true or false
end

local Client = {}
Client.__index = Client

function Client:send(bytes)
  if not self.closed then self.handle:write(bytes) end
  return self
end

function Client:listen()
  self.handle:read_start(function(err, data)
    if data then
      self.pieces[#self.pieces + 1] = data
    else
      self.ended, self.error = true, err
    end
  end)
  return self
end

function Client:received()
  self.pieces = { table.concat(self.pieces) }
  return self.pieces[1]
end

function Client:close()
  if not self.closed then
    self.closed = true
    self.handle:close()
  end
end

local function unchunk(text)
  local parts, position = {}, 1
  while true do
    local size, start = text:match("^(%x+)\r\n()", position)
    if not size or #text < start + tonumber(size, 16) + 1 then return nil end
    size = tonumber(size, 16)
    assert(text:sub(start + size, start + size + 1) == "\r\n", "a chunk ends without CRLF")
    position = start + size + 2
    if size == 0 then return table.concat(parts), position end
    parts[#parts + 1] = text:sub(start, start + size - 1)
  end
end

-- Cuts the first response from what was received; nil while it is incomplete.
local function cut(client, bodiless)
  local text = client:received()
  local head, start = text:match "^(.-\r\n)\r\n()"
  if not head then return nil end
  local response = { status = tonumber(head:match "^HTTP/1%.1 (%d+) "), headers = {}, head = head }
  for name, value in head:gmatch "([^:\r\n]+): ([^\r\n]*)\r\n" do
    response.headers[name:lower()] = value
  end
  local length, after = tonumber(response.headers["content-length"]), nil
  if bodiless then
    response.body, after = "", start
  elseif response.headers["transfer-encoding"] then
    response.body, after = unchunk(text:sub(start))
    after = after and start + after - 1
  elseif length then
    after = start + length
    response.body = #text >= after - 1 and text:sub(start, after - 1) or nil
  elseif client.ended then
    response.body, after = text:sub(start), #text + 1
  end
  if not response.body then return nil end
  client.pieces = { text:sub(after) }
  return response
end

function Client:response(bodiless)
  local response
  assert(
    M.wait(function()
      response = response or cut(self, bodiless)
      return response
    end),
    "no whole response, but: " .. self:received():sub(1, 200)
  )
  return response
end

function Client:get(path, fields)
  return self:send("GET " .. path .. " HTTP/1.1\r\nHost: x\r\n" .. (fields or "") .. "\r\n"):response()
end

---@class spec.HttpFixture
---@field server chalk.http.Server
---@field logged string[]
---@field handler function
local Fixture = {}
Fixture.__index = Fixture

function M.fixture()
  local fixture = setmetatable({ clients = {}, logged = {} }, Fixture)
  fixture.handler = function(request)
    if request.path ~= "/metrics" then return wire.text(404, "not here") end
    return { headers = { ["Content-Type"] = "text/x-test" }, body = request.method .. request.query }
  end
  return fixture
end

function Fixture:serve(options)
  options = options or {}
  options.address = not options.fd and (options.address or "127.0.0.1:0") or nil
  options.handler = function(request) return self.handler(request) end
  options.log = function(level, message) self.logged[#self.logged + 1] = level .. " " .. message end
  self.server = assert(http.serve(options))
  return self.server
end

-- A client that reads nothing until told to.
function Fixture:connect(path)
  local client = setmetatable({ pieces = {}, handle = path and uv.new_pipe(false) or uv.new_tcp() }, Client)
  local function connected(err) client.connected = not err end
  if path then
    client.handle:connect(path, connected)
  else
    client.handle:connect("127.0.0.1", self.server.port, connected)
  end
  self.clients[#self.clients + 1] = client
  return client
end

function Fixture:open(path)
  local client = self:connect(path)
  assert(M.wait(function() return client.connected end), "no connection")
  return client:listen()
end

function Fixture:close()
  for _, client in ipairs(self.clients) do
    client:close()
  end
  if self.server then
    self.server:close()
    assert(self.server.count == 0)
  end
  uv.run "nowait"
end

return M
