-- The manual driver: flushes when the application says so, in its own VM, and a last time when the VM ends.

local core = require "chalk.core"
local exits = require "chalk.flush.driver.exits"
local exporters = require "chalk.flush.exporters"
local flushers = require "chalk.flush.flusher"
local luv = require "chalk.flush.driver.luv"
local wait = require "chalk.flush.driver.wait"

local C = core.C

local M = {}

local PATIENCE = 0.02

---@class chalk.ManualDriver
local Driver = {}
Driver.__index = Driver

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
  local ticket, ends = C.chalk_flush_request(flusher.segment), C.chalk_now() + timeout
  repeat
    if C.chalk_flush_wait(flusher.segment, ticket, PATIENCE) == 0 then return false, true end
    if flusher:hold() then return true, false end
  until C.chalk_now() >= ends
  return false, false
end

local function flush_now(self, timeout)
  local flusher, done = self.flusher, false
  local blocking = not self.uv or not wait.can_turn(self.uv, self.exiting)
  flusher:flush(function() done = true end, blocking)
  if not done and self.uv then wait.till(self.uv, timeout, function() return done end, self.exiting) end
  flusher:release()
  return done
end

---@param timeout number
---@return boolean?, string?
function Driver:flush(timeout)
  local flusher = self.flusher
  if not flusher then return true end
  if flusher:is_exporting() then return nil, flushers.INSIDE end
  exits.look(self)
  flusher.client:on_stale()
  local holds, done = hold_or_ask(flusher, timeout)
  if done or (holds and flush_now(self, timeout)) then return true end
  return nil, "the flush did not end in time"
end

function Driver:forked()
  self.is_child = true
  if self.flusher then self.flusher:forked() end
end

---@param timeout number? nil: the VM or the process ends
function Driver:close(timeout)
  local flusher = self.flusher
  if not flusher then return true end
  if timeout and flusher:is_exporting() then return nil, flushers.INSIDE end
  exits.look(self)
  exits.remove(self)
  local ok, message = self:flush(timeout or exits.LAST_FLUSH)
  self.flusher = nil
  flusher:close()
  flusher:close_servers()
  exporters.unlisten(flusher.client, self.config.exporters)
  if self.uv and not self.is_child then wait.settle(self.uv) end
  return ok, message
end

return M
