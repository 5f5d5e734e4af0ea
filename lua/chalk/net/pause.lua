-- Waiting in an export without holding up the flush loop: for a socket, for a time, or for a callback. Each wait has a
-- time limit.
--
-- An export runs in a coroutine of the flush loop. With luv the coroutine yields, and a handle or timer of the wait
-- resumes it. Without luv, outside a coroutine, or if the caller says that no loop runs, poll(2) blocks instead.
--
-- A wait ends in one of three ways: its event wakes it, its time is over, or it is cancelled and its coroutine never
-- continues. When a VM is closed, it finalizes the handles of a wait in progress, and they must not be used after that.
-- Each wait has a sentinel, which is younger than its handles. So the VM finalizes the sentinel first, which marks the
-- wait as over.

local core = require "chalk.core"
local log = require "chalk.base.log"
local system = require "chalk.net.system"

local M = {}

local LOOK = 0.005 -- seconds between two attempts if a descriptor cannot be watched

---@class chalk.net.Pause
---@field blocking boolean? whether to block instead of yielding, because no loop runs
local Pause = {}
Pause.__index = Pause

--- Makes the pause of one object. It has at most one wait at a time.
---@return chalk.net.Pause
function M.new() return setmetatable({}, Pause) end

--- Whether waiting yields, so that other exporters go on.
---@return boolean
function Pause:yields()
  if not package.loaded.luv or self.blocking then return false end -- the driver has loaded luv, if it needs it
  local thread, is_main = coroutine.running()
  return thread ~= nil and not is_main
end

local function close(wait)
  wait.over = true
  for _, handle in ipairs(wait.handles) do
    handle:stop()
    handle:close()
  end
  if wait.watcher then system.close(wait.watcher) end
end

local function wake(self, wait, result)
  if wait.over then return end
  close(wait)
  if self.wait == wait then self.wait = nil end
  wait.result = result
  local ok, message = coroutine.resume(wait.thread)
  if not ok then log.write("error", debug.traceback(wait.thread, log.text(message))) end
end

-- Yields until the function that `arm` receives is called, or until the time is over. `arm` may return a handle and a
-- descriptor, which are closed then.
local function await(self, seconds, arm)
  local uv = require "luv"
  local wait = { thread = coroutine.running(), over = false, result = false }
  local timer = uv.new_timer()
  wait.handles = { timer }
  wait.handles[2], wait.watcher = arm(function(result) wake(self, wait, result) end)
  wait.sentinel = core.finalizer(function() wait.over = true end)
  self.wait = wait
  -- The handles do not keep an application's loop alive. If the loop ends, the last flush sends the rest.
  for _, handle in ipairs(wait.handles) do
    handle:unref()
  end
  uv.update_time()
  timer:start(math.max(1, math.ceil(seconds * 1000)), 0, function() wake(self, wait, false) end)
  repeat
    coroutine.yield()
  until wait.over
  return wait.result
end

--- Waits until a socket can be written or read, or has an error.
---@param fd integer
---@param events "r"|"w"
---@param seconds number
---@return boolean ready false: the time was over first
function Pause:fd(fd, events, seconds)
  if not self:yields() then return system.poll(fd, events, seconds) end
  local watcher = system.watch(fd, events)
  if not watcher then
    self:sleep(math.min(LOOK, seconds))
    return true
  end
  return await(self, seconds, function(ready)
    local poll = require("luv").new_poll(watcher)
    poll:start("r", function() ready(true) end)
    return poll, watcher
  end)
end

--- Waits for a time.
---@param seconds number
function Pause:sleep(seconds)
  if not self:yields() then return system.poll(-1, "r", seconds) end
  await(self, seconds, function() end)
end

--- Waits until a function is called. The caller must be able to yield (`yields`).
---@param seconds number
---@param register fun(ready: fun()) receives the function, and passes it to the code that will call it
---@return boolean called false: the time was over first
function Pause:callback(seconds, register)
  return await(self, seconds, function(ready)
    register(function() ready(true) end)
  end)
end

--- Ends a wait. Its coroutine does not continue.
function Pause:cancel()
  local wait = self.wait
  self.wait = nil
  if wait and not wait.over then close(wait) end
end

--- Forgets a wait without closing its handles, which belong to a parent process or may have been finalized. Its
--- coroutine does not continue.
function Pause:forget()
  if self.wait then self.wait.over = true end
  self.wait = nil
end

return M
