-- The manual driver: flushes when the application says so, in its own VM, and a last time when the VM ends.

local core = require "chalk.core"
local exits = require "chalk.driver.exits"
local flushers = require "chalk.flusher"

local C = core.C

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

-- Takes the role, or asks whoever has it and waits. Returns whether it has the role, and whether the flush was done.
local function hold_or_ask(flusher, timeout)
  if flusher:hold() then return true, false end
  local ticket, ends = C.chalk_flush_request(flusher.segment), C.chalk_now() + timeout
  repeat
    if C.chalk_flush_wait(flusher.segment, ticket, 0.02) == 0 then return false, true end
    if flusher:hold() then return true, false end
  until C.chalk_now() >= ends
  return false, false
end

local function flush_now(flusher, timeout)
  local done = false
  flusher:flush(function() done = true end)
  local ok = wait(timeout, function() return done end)
  flusher:release()
  return ok
end

---@param timeout number
---@return boolean?, string?
function Driver:flush(timeout)
  local flusher = self.flusher
  if not flusher then return true end
  flusher.client:on_stale()
  local holds, done = hold_or_ask(flusher, timeout)
  if done or (holds and flush_now(flusher, timeout)) then return true end
  return nil, "the flush did not end in time"
end

function Driver:forked()
  if self.flusher then self.flusher:forked() end
end

---@param timeout number?
function Driver:close(timeout)
  local flusher = self.flusher
  if not flusher then return true end
  exits.remove(self)
  local ok, message = self:flush(timeout or exits.LAST_FLUSH)
  self.flusher = nil
  flusher:close()
  return ok, message
end

return M
