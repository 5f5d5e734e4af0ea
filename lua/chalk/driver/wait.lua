-- Waiting for a flush in the application's own VM, whose loop has to turn meanwhile for exporters that yield.

local core = require "chalk.core"

local C = core.C

local M = {}

local POLL = 5

local function resume(thread)
  local ok, message = coroutine.resume(thread)
  if not ok then error(debug.traceback(thread, tostring(message)), 0) end
end

--- Whether the loop is turning right now, this being called from one of its callbacks.
function M.is_inside(uv) return uv.loop_mode ~= nil and uv.loop_mode() ~= nil end

--- Whether `till` can wait: the loop can be turned, or goes on turning while a coroutine waits.
---@param uv table
---@param exiting boolean?
---@return boolean
function M.can_turn(uv, exiting)
  local thread, main = coroutine.running()
  return exiting or not M.is_inside(uv) or (thread ~= nil and not main)
end

-- Handles that are closed come to their end in the loop's next turn. A VM that is closed before that crashes luv.

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
  local inside, thread = not exiting and M.is_inside(uv), coroutine.running()
  local timer, over, ends = uv.new_timer(), false, C.chalk_now() + timeout
  timer:start(POLL, POLL, function()
    if over or not (is_done() or C.chalk_now() >= ends) then return end
    over = true
    if inside then resume(thread) end
  end)
  if inside then coroutine.yield() end
  while not over and not is_done() do
    uv.run "once"
  end
  timer:stop()
  timer:close()
  if not inside then uv.run "nowait" end
  return is_done()
end

--- Lets closed handles come to their end.
function M.settle(uv)
  if not M.is_inside(uv) then uv.run "nowait" end
end

return M
