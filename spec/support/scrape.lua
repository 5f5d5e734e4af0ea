--- Sends one HTTP request, on a luv loop that nothing else uses.

local uv = require "luv"

local M = {}

local REQUEST = "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
local DEADLINE = 10000

--- Returns the answer, head and body; or nil and a message.
---@param address string host:port
---@param path string? default /metrics
---@return string?, string?
function M.get(address, path)
  local host, port = address:match "^(.*):(%d+)$"
  local socket, deadline = uv.new_tcp(), uv.new_timer()
  local received, problem = {}, nil
  local function finish(message)
    problem = problem or message
    if not socket:is_closing() then socket:close() end
    if not deadline:is_closing() then deadline:close() end
  end
  deadline:start(DEADLINE, 0, function() finish "no answer in time" end)
  socket:connect(host, tonumber(port), function(refused)
    if refused then return finish(refused) end
    socket:read_start(function(err, data)
      if not data then return finish(err) end
      received[#received + 1] = data
    end)
    socket:write(REQUEST:format(path or "/metrics"))
  end)
  uv.run()
  if problem then return nil, problem end
  return table.concat(received)
end

return M
