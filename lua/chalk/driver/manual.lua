-- The manual driver: flushes when the application says so, in its own VM, and a last time when the VM ends.

local flushers = require "chalk.flusher"
local exits = require "chalk.driver.exits"

local M = {}

---@class chalk.ManualDriver
local Driver = {}
Driver.__index = Driver

---@param client chalk.Client
---@param config table
function M.start(client, config)
  for _, spec in ipairs(config.exporters) do
    if spec.listen then error("the manual driver has no loop to listen with: use the thread or the loop driver", 0) end
  end
  local self = setmetatable({ flusher = flushers.new(client, config) }, Driver)
  exits.add(self)
  return self
end

-- An export may have yielded to wait for something of luv's.
local function wait(timeout, is_done)
  local ok, uv = pcall(require, "luv")
  if is_done() or not ok or (uv.loop_mode and uv.loop_mode()) then return is_done() end
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
  local flusher, done = self.flusher, false
  if not flusher then return true end
  if not flusher:hold() then return nil, "another process or VM is flushing" end
  flusher:flush(function() done = true end)
  if wait(timeout, function() return done end) then
    flusher:release()
    return true
  end
  flusher:release()
  return nil, "the flush did not end in time"
end

--- In a forked child the flusher of the parent is not held.
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
  flusher:close()
  return ok, message
end

return M
