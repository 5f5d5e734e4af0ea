-- The loop driver: flushes on the application's own luv loop, from a timer that does not keep the loop alive.

local exits = require "chalk.driver.exits"
local flushers = require "chalk.flusher"
local log = require "chalk.log"

local M = {}

local TURN = 100

---@class chalk.LoopDriver
local Driver = {}
Driver.__index = Driver

---@param client chalk.Client
---@param config table
function M.start(client, config)
  local ok, uv = pcall(require, "luv")
  if not ok then error("the loop driver needs luv: " .. tostring(uv), 0) end
  local self = setmetatable({ uv = uv, flusher = flushers.new(client, config) }, Driver)
  self.timer = uv.new_timer()
  self.timer:start(TURN, TURN, function()
    local fine, message = xpcall(self.flusher.turn, debug.traceback, self.flusher)
    if not fine then log.write("error", message) end
  end)
  self.timer:unref()
  self.flusher:turn()
  exits.add(self)
  return self
end

-- Turns the loop until `done`; inside of it, where it cannot be turned, a coroutine waits.
local function wait(uv, timeout, is_done, wake)
  if is_done() then return true end
  local thread, main = coroutine.running()
  if thread and not main then
    wake.thread = thread
    local timer = uv.new_timer()
    timer:start(timeout * 1000, 0, function()
      if wake.thread then
        wake.thread = nil
        coroutine.resume(thread)
      end
    end)
    coroutine.yield()
    timer:stop()
    timer:close()
    return is_done()
  end
  if uv.loop_mode and uv.loop_mode() then return false end
  local timer, over = uv.new_timer(), false
  timer:start(timeout * 1000, 0, function() over = true end)
  while not is_done() and not over do
    uv.run "once"
  end
  timer:stop()
  timer:close()
  return is_done()
end

---@param timeout number
---@return boolean?, string?
function Driver:flush(timeout)
  local flusher, done, wake = self.flusher, false, {}
  if not flusher then return true end
  if not flusher:hold() then return nil, "another process or VM is flushing" end
  flusher:flush(function()
    done = true
    local thread = wake.thread
    if thread then
      wake.thread = nil
      coroutine.resume(thread)
    end
  end)
  if wait(self.uv, timeout, function() return done end, wake) then return true end
  return nil, "the flush did not end in time"
end

function Driver:forked()
  if self.flusher then self.flusher.holding = false end
end

---@param timeout number?
function Driver:close(timeout)
  local flusher = self.flusher
  if not flusher then return true end
  exits.remove(self)
  local ok, message = self:flush(timeout or 5)
  self.flusher = nil
  if not self.timer:is_closing() then
    self.timer:stop()
    self.timer:close()
  end
  flusher:close()
  -- A VM that is closed over a closing handle crashes luv.
  if not (self.uv.loop_mode and self.uv.loop_mode()) then self.uv.run "nowait" end
  return ok, message
end

return M
