-- The manual driver: flushes when the application says so, in its own VM, and a last time when the VM ends.

local embedded = require "chalk.flush.driver.embedded"
local exits = require "chalk.flush.driver.exits"
local flushers = require "chalk.flush.flusher"
local now = require("chalk.core").now
local luv = require "chalk.flush.driver.luv"
local wait = require "chalk.flush.driver.wait"

local M = {}

local PATIENCE = 0.02

---@class chalk.ManualDriver: chalk.EmbeddedDriver
local Driver = embedded.class()

---@param client chalk.Client
---@param config table
function M.start(client, config)
  config.lasting = true
  wait.begin()
  -- luv is for exporters that yield; it has to be older than the finalizer that flushes last.
  local uv = luv.load()
  local self = setmetatable({ flusher = flushers.new(client, config), config = config, uv = uv }, Driver)
  for _, job in ipairs(self.flusher.jobs) do
    if job.exporter.needs_loop and job.listen then
      self.flusher:close()
      error("the manual driver has no loop to listen with: use the thread or the loop driver", 0)
    end
  end
  -- A new exporter's differences start here, not at the first flush.
  if self.flusher:hold() then self.flusher:release() end
  exits.add(self)
  return self
end

-- Takes the role, or asks whoever has it and waits. Returns whether it has the role, and whether the flush was done.
local function hold_or_ask(flusher, timeout)
  if flusher:hold() then return true, false end
  flusher:send_rest()
  local is_done, ends = embedded.ask(flusher), now() + timeout
  repeat
    if is_done(PATIENCE) then return false, true end
    if flusher:hold() then return true, false end
  until now() >= ends
  return false, false
end

-- Flushes with the role, and gives it back.
local function flush_held(self, timeout)
  local flusher, done = self.flusher, false
  local blocking = not self.uv or not wait.can_turn(self.uv, self.exiting)
  flusher:flush(function() done = true end, blocking)
  if not done and self.uv then wait.till(self.uv, timeout, function() return done end, self.exiting) end
  flusher:release()
  return done
end

function Driver:flush_now(timeout)
  local holds, done = hold_or_ask(self.flusher, timeout)
  if done or (holds and flush_held(self, timeout)) then return true end
  return nil, "the flush did not end in time"
end

function Driver:flush_last(timeout) return self:flush(timeout) end

function Driver:let_go()
  if self.uv and not self.is_child then wait.settle(self.uv) end
end

return M
