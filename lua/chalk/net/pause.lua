-- Waiting in an export without holding up the loop: for a socket, for a while, or for a callback, each with a limit.
--
-- An export runs in a coroutine of the flush loop. With luv the coroutine yields, and a handle or a timer of this
-- wait's own resumes it. Where there is no luv or no coroutine, or where the caller says that nobody is going to turn
-- the loop, poll(2) blocks instead, for as long.
--
-- A wait can end in three ways: something wakes it, its time is over, or it is cancelled and its coroutine is left
-- where it is. A VM that is closed finalizes the handles of a wait under way, which then must not be touched: its
-- sentinel is younger than they are, so that it is finalized first and says so.

local core = require "chalk.core"
local log = require "chalk.base.log"
local system = require "chalk.net.system"

local M = {}

local LOOK = 0.005 -- where a descriptor cannot be watched

---@class chalk.net.Pause
---@field blocking boolean? nobody turns the loop: block instead of yielding
local Pause = {}
Pause.__index = Pause

--- One for each object that waits; it waits for one thing at a time.
---@return chalk.net.Pause
function M.new() return setmetatable({}, Pause) end

--- Whether waiting lets others go on.
---@return boolean
function Pause:yields()
  if not package.loaded.luv or self.blocking then return false end -- drivers load it
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

-- Yields until `arm`'s argument is called or the time is over. `arm` returns a handle and a descriptor to be closed
-- then, if there are any.
local function await(self, seconds, arm)
  local uv = require "luv"
  local wait = { thread = coroutine.running(), over = false, result = false }
  local timer = uv.new_timer()
  wait.handles = { timer }
  wait.handles[2], wait.watcher = arm(function(result) wake(self, wait, result) end)
  wait.sentinel = core.finalizer(function() wait.over = true end)
  self.wait = wait
  -- An application's loop is not kept alive: what is not sent when it ends, the last flush sends.
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
---@return boolean ready false: the time is over
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

--- Waits for a while.
---@param seconds number
function Pause:sleep(seconds)
  if not self:yields() then return system.poll(-1, "r", seconds) end
  await(self, seconds, function() end)
end

--- Waits until a function is called. Only where waiting yields.
---@param seconds number
---@param register fun(ready: fun()) hands the function over to whoever is going to call it
---@return boolean called false: the time is over
function Pause:callback(seconds, register)
  return await(self, seconds, function(ready)
    register(function() ready(true) end)
  end)
end

--- Ends what is waited for; its coroutine does not go on.
function Pause:cancel()
  local wait = self.wait
  self.wait = nil
  if wait and not wait.over then close(wait) end
end

--- Forgets what was waited for: the coroutine does not go on, and its handles are somebody else's.
function Pause:forget()
  if self.wait then self.wait.over = true end
  self.wait = nil
end

return M
