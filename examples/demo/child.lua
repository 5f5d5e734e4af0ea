--- Starts programs from a luv loop, collects their output, and ends them by their process id.

local uv = require "luv"

local M = {}

--- Runs the loop until a condition holds.
---@param condition fun(): any
---@param seconds number
---@return boolean holds false if it does not hold in time
function M.wait(condition, seconds)
  local over = false
  local tick, deadline = uv.new_timer(), uv.new_timer()
  tick:start(5, 5, function() end)
  deadline:start(math.floor(seconds * 1000), 0, function() over = true end)
  while not condition() and not over do
    uv.run "once"
  end
  tick:close()
  deadline:close()
  uv.run "nowait" -- finishes closing them: luv up to 1.44 crashes if the VM is closed while a handle is closing
  return condition() and true or false
end

--- Calls `start` with a function `done`, and waits until that is called.
---@param start fun(done: fun(...))
---@param seconds number
---@return any ... the arguments of `done`; nothing if it is not called in time
function M.await(start, seconds)
  local result
  start(function(...) result = { n = select("#", ...), ... } end)
  M.wait(function() return result end, seconds)
  if result then return unpack(result, 1, result.n) end
end

--- Finds a program on PATH.
---@param name string
---@return string?
function M.find(name)
  for folder in (os.getenv "PATH" or ""):gmatch "[^:]+" do
    local path = folder .. "/" .. name
    if uv.fs_access(path, "X") then return path end
  end
end

---@class demo.Child
---@field pid integer
---@field output string what the program has written to its standard output
---@field code integer? its exit code, once it has ended
---@field signal integer? the signal that killed it, or 0, once it has ended
local Child = {}
Child.__index = Child

--- Starts a program. Its standard error is that of this process, and its standard input ends when this process ends.
---@param path string
---@param args string[]
---@return demo.Child
function M.spawn(path, args)
  local stdin, stdout = uv.new_pipe(false), uv.new_pipe(false)
  local self = setmetatable({ output = "", stdin = stdin, stdout = stdout }, Child)
  local handle, pid = uv.spawn(path, { args = args, stdio = { stdin, stdout, 2 } }, function(code, signal)
    self.code, self.signal = code, signal
    self.handle:close()
    stdin:close()
  end)
  if not handle then
    stdin:close()
    stdout:close()
    error(("cannot start %s: %s"):format(path, pid), 2)
  end
  self.handle, self.pid = handle, pid
  stdout:read_start(function(problem, data)
    if data then
      self.output = self.output .. data
    elseif not stdout:is_closing() then
      stdout:close()
    end
    self.problem = problem
  end)
  return self
end

--- Returns whether the program has ended and all of its output has been read.
---@return boolean
function Child:ended() return self.code ~= nil and self.stdout:is_closing() end

--- Waits for the program's end.
---@param seconds number
---@return integer? code nil if it is still running
function Child:finish(seconds)
  M.wait(function() return self:ended() end, seconds)
  return self.code
end

--- Ends the program by SIGTERM, or by SIGKILL if it does not end in time.
---@return integer? code
function Child:stop()
  if self.code then return self.code end
  self.handle:kill "sigterm"
  if not self:finish(5) and not self.code then
    self.handle:kill "sigkill"
    self:finish(5)
  end
  return self.code
end

--- Starts examples/service.lua on free ports.
---@param here string the folder of the examples, with a slash at its end
---@return demo.Child service with the fields port and metrics_port
function M.service(here)
  local service = M.spawn(uv.exepath(), { here .. "service.lua", "--stdin" })
  M.wait(function() return service.output:find "\n" or service:ended() end, 10)
  local port, metrics_port = service.output:match "listening on 127.0.0.1:(%d+) metrics on 127.0.0.1:(%d+)\n"
  if not port then
    service:stop()
    error("the service did not start: " .. service.output, 0)
  end
  service.port, service.metrics_port = tonumber(port), tonumber(metrics_port)
  return service
end

return M
