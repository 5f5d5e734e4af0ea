--- Runs the examples in separate processes, with the module paths of this one.

local uv = require "luv"

package.path = "examples/?.lua;" .. package.path
uv.os_setenv("LUA_PATH", package.path)
uv.os_setenv("LUA_CPATH", package.cpath)

local child = require "demo.child"
local client = require "demo.client"

local M = { folder = "examples/", child = child, client = client }

--- Fetches a page. Raises an error if there is no answer.
---@param port integer
---@param path string
---@param fields string? header lines
---@return demo.Response
function M.get(port, path, fields)
  local response, message = child.await(function(done) client.get(port, path, done, fields) end, 10)
  return response or error(path .. ": " .. tostring(message or "no answer in time"), 2)
end

--- Runs an example to its end.
---@param name string
---@param args string[]?
---@param seconds number? the time limit, default 10
---@return integer? code
---@return string output
function M.run(name, args, seconds)
  local words = { M.folder .. name }
  for _, word in ipairs(args or {}) do
    words[#words + 1] = word
  end
  local process = child.spawn(uv.exepath(), words)
  local code = process:finish(seconds or 10)
  if not code then process:stop() end
  return code, process.output
end

--- Makes requests and waits for every answer.
---@param port integer
---@param path string
---@param requests integer
---@return demo.Load
function M.request(port, path, requests)
  local load = client.load { port = port, path = path, connections = 4, requests = requests }
  assert(
    child.wait(function() return load.running == 0 end, 30),
    path .. ": some requests were not answered in time"
  )
  assert(load.errors == 0 and load.requests == requests)
  return load
end

return M
