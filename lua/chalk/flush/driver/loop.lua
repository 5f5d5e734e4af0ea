-- The loop driver: flushes on the application's own luv loop, from a timer that does not keep the loop alive.

local core = require "chalk.core"
local exits = require "chalk.flush.driver.exits"
local exporters = require "chalk.flush.exporters"
local flushers = require "chalk.flush.flusher"
local log = require "chalk.base.log"
local luv = require "chalk.flush.driver.luv"
local wait = require "chalk.flush.driver.wait"

local C = core.C

local M = {}

local TURN = 100

---@class chalk.LoopDriver
local Driver = {}
Driver.__index = Driver

-- What fails in the first turn is init's to say, which closes what the flusher turns over.
local function turn_first(flusher, uv)
  local ok, message = pcall(flusher.turn, flusher)
  if ok then return end
  flusher:close()
  flusher:close_servers()
  wait.settle(uv)
  error(message, 0)
end

---@param client chalk.Client
---@param config table
function M.start(client, config)
  local uv, message = luv.load()
  if not uv then error("the loop driver needs luv: " .. message, 0) end
  config.uv = uv
  wait.begin()
  local self = setmetatable({ uv = uv, config = config, flusher = flushers.new(client, config) }, Driver)
  turn_first(self.flusher, uv)
  self.timer = uv.new_timer()
  self.timer:start(TURN, TURN, function()
    local ok, problem = xpcall(self.flusher.turn, debug.traceback, self.flusher)
    if not ok then log.write("error", problem) end
  end)
  self.timer:unref()
  exits.add(self)
  return self
end

-- Starts a flush, here or where the role is; returns a function that says whether it is done.
local function begin(flusher, blocking)
  if not flusher:hold() then
    local ticket = C.chalk_flush_request(flusher.segment)
    return function() return C.chalk_flush_wait(flusher.segment, ticket, 0) == 0 end
  end
  local done = false
  flusher:flush(function() done = true end, blocking)
  return function() return done end
end

---@param timeout number
---@return boolean?, string?
function Driver:flush(timeout)
  local flusher = self.flusher
  if not flusher then return true end
  if flusher:is_exporting() then return nil, flushers.INSIDE end
  exits.look(self)
  flusher.client:on_stale()
  local blocking = self.exiting and not wait.can_turn(self.uv, true)
  if wait.till(self.uv, timeout, begin(flusher, blocking), self.exiting) then return true end
  return nil, "the flush did not end in time (in a callback of the loop only a coroutine can wait for it)"
end

--- The handles of a forked child's loop share the parent's epoll: they are let be.
function Driver:forked()
  self.is_child = true
  if self.flusher then self.flusher:forked() end
end

function Driver:close_timer()
  if self.is_child or self.timer:is_closing() then return end
  self.timer:stop()
  self.timer:close()
  wait.settle(self.uv)
end

---@param timeout number? nil: the VM or the process ends
function Driver:close(timeout)
  local flusher = self.flusher
  if not flusher then return true end
  if timeout and flusher:is_exporting() then return nil, flushers.INSIDE end
  exits.look(self)
  exits.remove(self)
  flusher.client:on_stale()
  local ok, message = true, nil
  if flusher:hold() then
    ok, message = self:flush(timeout or exits.LAST_FLUSH)
  else
    wait.till(self.uv, timeout or exits.LAST_FLUSH, function() return not flusher:send_rest() end, self.exiting)
  end
  self.flusher = nil
  flusher:close()
  flusher:close_servers()
  exporters.unlisten(flusher.client, self.config.exporters)
  self:close_timer()
  return ok, message
end

return M
