-- Waiting for a flush in the application's own VM. Exporters that yield need a running loop in that time:
--
--   outside the loop's callbacks   `till` runs the loop
--   in a callback                  the loop is running already, so a coroutine yields until a timer resumes it; code
--                                  outside a coroutine cannot wait
--   in a callback, at the exit     the callback never continues, so `till` runs the loop inside it, which only older
--                                  luv can do

local now = require("chalk.core").now

local M = {}

local POLL = 5 -- milliseconds
local ITERATIONS = 100 -- at most, until a closed handle has ended; it takes two, or more if callbacks stop the loop

local function resume(thread)
  local ok, message = coroutine.resume(thread)
  if not ok then error(debug.traceback(thread, tostring(message)), 0) end
end

-- Whether this luv can run the loop inside one of the loop's callbacks; nil if that has not been tried since the loop
-- ran last. Any value but nil means that a callback is in progress: older luv forgets that when `can_nest` tries it.
local nests

--- Whether the caller runs in a callback of the loop.
function M.is_inside(uv) return nests ~= nil or uv.loop_mode ~= nil and uv.loop_mode() ~= nil end

-- Tries to run the loop. The loop is stopped first, so that the trial calls no callbacks and only clears the stop.
local function can_nest(uv)
  if nests == nil then
    uv.stop()
    nests = uv.run "nowait" ~= nil
  end
  return nests
end

--- Whether `till` can wait: it can run the loop, or it can yield in a coroutine while the loop goes on.
---@param uv table
---@param exiting boolean? whether the program ends
---@return boolean
function M.can_run(uv, exiting)
  if not M.is_inside(uv) then return true end
  if exiting then return can_nest(uv) end
  local thread, main = coroutine.running()
  return thread ~= nil and not main
end

-- Closes a handle and runs the loop until the handle has ended, and with it all handles that were closed before: luv
-- crashes in a VM that is closed earlier. A loop that a callback has stopped needs one more iteration, which only
-- clears the stop.
local function close(uv, handle)
  local closed = false
  handle:close(function() closed = true end)
  for _ = 1, ITERATIONS do
    if closed or uv.run "nowait" == nil then return end
  end
end

--- Waits until `is_done` returns true.
---@param uv table
---@param timeout number seconds
---@param is_done fun(): boolean
---@param exiting boolean? whether the program ends
---@return boolean done false: the time is over, or waiting is not possible here
function M.till(uv, timeout, is_done, exiting)
  if is_done() then return true end
  if not M.can_run(uv, exiting) then return false end
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

--- Runs the loop until all closed handles have ended, unless the caller is in a callback of the loop.
function M.finish_closing(uv)
  if not M.is_inside(uv) then close(uv, uv.new_timer()) end
end

--- Forgets the result of a trial, because a driver starts and the program goes on.
function M.begin() nests = nil end

return M
