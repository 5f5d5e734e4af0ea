-- The manual driver flushes when the application calls flush, in its own VM, and once more when the VM ends.

local embedded = require "chalk.flush.driver.embedded"
local exits = require "chalk.flush.driver.exits"
local flushers = require "chalk.flush.flusher"
local now = require("chalk.core").now
local luv = require "chalk.flush.driver.luv"
local wait = require "chalk.flush.driver.wait"

local M = {}

local PATIENCE = 0.02 -- seconds to wait for another process's flush before trying to take the role again

---@class chalk.ManualDriver: chalk.EmbeddedDriver
local Driver = embedded.class()

--- Starts the driver. Raises a message if an exporter fails, or needs a loop to serve with.
---@param client chalk.Client
---@param config table as chalk.flush.flusher takes it
---@return chalk.ManualDriver
function M.start(client, config)
  config.lasting = true
  wait.begin()
  -- Exporters that yield need luv. It must be loaded before `exits.add`, so that its loop is older than the finalizer
  -- that flushes for the last time.
  local uv = luv.load()
  local self = setmetatable({ flusher = flushers.new(client, config), config = config, uv = uv }, Driver)
  for _, job in ipairs(self.flusher.jobs) do
    if job.exporter.needs_loop and job.listen then
      self.flusher:close()
      error(
        ("exporter %s: the manual driver has no loop to listen with: "):format(job.name)
          .. "use the thread or the loop driver",
        0
      )
    end
  end
  -- Taking the role opens the cursors, so the differences of a new exporter start here and not at the first flush.
  if self.flusher:hold() then self.flusher:release() end
  exits.add(self)
  return self
end

-- Takes the role, or asks its holder for a flush and waits. Returns whether this process holds the role, and whether
-- the holder has flushed.
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

-- Flushes while holding the role, then releases it. Returns whether all exports have returned in time.
local function flush_held(self, timeout)
  local flusher, done = self.flusher, false
  local blocking = not self.uv or not wait.can_run(self.uv, self.exiting)
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
  if self.uv and not self.is_child then wait.finish_closing(self.uv) end
end

return M
