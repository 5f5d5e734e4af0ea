--- Ports of 127.0.0.1 that are free at the moment. The caller binds the port right after.

local uv = require "luv"

local M = {}

local function free_port(socket)
  assert(socket:bind("127.0.0.1", 0))
  local port = socket:getsockname().port
  socket:close()
  uv.run "nowait"
  return port
end

---@return integer
function M.tcp() return free_port(uv.new_tcp()) end

---@return integer
function M.udp() return free_port(uv.new_udp()) end

return M
