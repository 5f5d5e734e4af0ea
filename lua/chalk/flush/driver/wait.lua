-- Waiting for a flush in the application's own VM, whose loop has to turn meanwhile for exporters that yield.

local now = require("chalk.core").now

local M = {}

local POLL = 5 -- milliseconds
local TURNS = 100 -- in which a closed handle comes to its end: two, or more where callbacks stop the loop

local function resume(thread)
  local ok, message = coroutine.resume(thread)
  if not ok then error(debug.traceback(thread, tostring(message)), 0) end
end

-- Newer luv turns no loop inside of one of its callbacks, not even at the exit. This says whether this one does, once
-- that was tried and until the loop is turned: older luv no longer knows after the trial that it is inside.
local nests

--- Whether the loop is turning right now, this being called from one of its callbacks.
function M.is_inside(uv) return nests ~= nil or uv.loop_mode ~= nil and uv.loop_mode() ~= nil end

-- A loop that is stopped calls nothing back, it only forgets that.
local function can_nest(uv)
  if nests == nil then
    uv.stop()
    nests = uv.run "nowait" ~= nil
  end
  return nests
end

--- Whether `till` can wait: the loop can be turned, or goes on turning while a coroutine waits.
---@param uv table
---@param exiting boolean?
---@return boolean
function M.can_turn(uv, exiting)
  if not M.is_inside(uv) then return true end
  if exiting then return can_nest(uv) end
  local thread, main = coroutine.running()
  return thread ~= nil and not main
end

-- Closes a handle and turns the loop until the handle has come to its end, and with it all that were closed before: a
-- VM that is closed earlier crashes luv. A loop that somebody stopped does nothing in its next turn but forget that.
local function close(uv, handle)
  local closed = false
  handle:close(function() closed = true end)
  for _ = 1, TURNS do
    if closed or uv.run "nowait" == nil then return end
  end
end

--- Turns the loop until `is_done`. Where the loop runs already, and cannot be turned, a coroutine waits. At the exit it
--- is turned all the same: the turn under way never goes on.
---@param uv table
---@param timeout number seconds
---@param is_done fun(): boolean
---@param exiting boolean?
---@return boolean
function M.till(uv, timeout, is_done, exiting)
  if is_done() then return true end
  if not M.can_turn(uv, exiting) then return false end
  nests = nil
  local inside, thread = not exiting and M.is_inside(uv), coroutine.running()
  local timer, over, ends = uv.new_timer(), false, now() + timeout
  timer:start(POLL, POLL, function()
    if over or not (is_done() or now() >= ends) then return end
    over = true
    if inside then resume(thread) end
  end)
  if inside then coroutine.yield() end
  while not over and not is_done() and now() < ends and uv.run "once" ~= nil do
  end
  timer:stop()
  if inside then
    timer:close()
  else
    close(uv, timer)
  end
  return is_done()
end

--- Lets closed handles come to their end.
function M.settle(uv)
  if not M.is_inside(uv) then close(uv, uv.new_timer()) end
end

--- A driver starts, so this is not the exit after all.
function M.begin() nests = nil end

return M
