-- The loop driver flushes on the application's own luv loop, from a timer that does not keep the loop alive.

local embedded = require "chalk.flush.driver.embedded"
local exits = require "chalk.flush.driver.exits"
local flushers = require "chalk.flush.flusher"
local log = require "chalk.base.log"
local luv = require "chalk.flush.driver.luv"
local wait = require "chalk.flush.driver.wait"

local M = {}

local PERIOD = 100 -- milliseconds between two iterations of the flush loop

---@class chalk.LoopDriver: chalk.EmbeddedDriver
local Driver = embedded.class()

-- Runs the first iteration of the flush loop. If it fails, closes the flusher and raises the message, for init to
-- raise.
local function run_first(flusher, uv)
  local ok, message = pcall(flusher.run_once, flusher)
  if ok then return end
  flusher:close()
  flusher:close_servers()
  wait.finish_closing(uv)
  error(message, 0)
end

--- Starts the driver. Raises a message if luv cannot be loaded or an exporter fails.
---@param client chalk.Client
---@param config table as chalk.flush.flusher takes it
---@return chalk.LoopDriver
function M.start(client, config)
  local uv, message = luv.load()
  if not uv then error("the loop driver needs luv: " .. message, 0) end
  config.uv = uv
  wait.begin()
  local self = setmetatable({ uv = uv, config = config, flusher = flushers.new(client, config) }, Driver)
  run_first(self.flusher, uv)
  self.timer = uv.new_timer()
  self.timer:start(PERIOD, PERIOD, function()
    local ok, problem = xpcall(self.flusher.run_once, debug.traceback, self.flusher)
    if not ok then log.write("error", problem) end
  end)
  self.timer:unref()
  exits.add(self)
  return self
end

-- Starts a flush in this process, or asks the holder of the role for one. Returns a function that tells whether it is
-- done.
local function begin(flusher, blocking)
  if not flusher:hold() then return embedded.ask(flusher) end
  local done = false
  flusher:flush(function() done = true end, blocking)
  return function() return done end
end

function Driver:flush_now(timeout)
  local blocking = self.exiting and not wait.can_run(self.uv, true)
  if wait.till(self.uv, timeout, begin(self.flusher, blocking), self.exiting) then return true end
  return nil, "the flush did not end in time (in a callback of the loop only a coroutine can wait for it)"
end

function Driver:flush_last(timeout)
  local flusher = self.flusher
  flusher.client:on_stale()
  if flusher:hold() then return self:flush(timeout) end
  wait.till(self.uv, timeout, function() return not flusher:send_rest() end, self.exiting)
  return true
end

function Driver:let_go()
  if self.is_child or self.timer:is_closing() then return end
  self.timer:stop()
  self.timer:close()
  wait.finish_closing(self.uv)
end

return M
