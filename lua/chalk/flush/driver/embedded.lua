-- The base class of the drivers `loop` and `manual`, which flush in the application's own VM: the order of steps in a
-- flush and at the end. A driver implements:
--
--     flush_now(timeout)    flushes once; returns true, or nil and a message
--     flush_last(timeout)   flushes for the last time; without the flusher's role sends what exporters have left
--     let_go()              closes the driver's handles

local core = require "chalk.core"
local exits = require "chalk.flush.driver.exits"
local exporters = require "chalk.flush.exporters"
local flushers = require "chalk.flush.flusher"

local C = core.C

local M = {}

---@class chalk.EmbeddedDriver
---@field flusher chalk.Flusher? nil after `close`
---@field config table
---@field is_child boolean? whether this is a forked child; its handles share the parent's epoll and must not be closed
---@field flush_now fun(self, timeout: number): boolean?, string?
---@field flush_last fun(self, timeout: number): boolean?, string?
---@field let_go fun(self)
local Driver = {}
Driver.__index = Driver

--- Makes a subclass.
---@return table
function M.class()
  local class = setmetatable({}, Driver)
  class.__index = class
  return class
end

--- Asks the process that holds the flusher's role for a flush.
---@param flusher chalk.Flusher
---@return fun(patience: number?): boolean is_done waits up to `patience` seconds (0) for the flush
function M.ask(flusher)
  local ticket = C.chalk_flush_request(flusher.segment)
  return function(patience) return C.chalk_flush_wait(flusher.segment, ticket, patience or 0) == 0 end
end

--- Flushes, and waits until the exports have returned.
---@param timeout number seconds
---@return boolean?, string?
function Driver:flush(timeout)
  local flusher = self.flusher
  if not flusher then return true end
  if flusher:is_exporting() then return nil, flushers.INSIDE end
  exits.check(self)
  flusher.client:on_stale()
  return self:flush_now(timeout)
end

--- Drops what belongs to the parent, in a forked child.
function Driver:forked()
  self.is_child = true
  if self.flusher then self.flusher:forked() end
end

--- Flushes for the last time and ends the driver.
---@param timeout number? seconds; nil: the VM or the process ends
---@return boolean?, string?
function Driver:close(timeout)
  local flusher = self.flusher
  if not flusher then return true end
  if timeout and flusher:is_exporting() then return nil, flushers.INSIDE end
  exits.check(self)
  exits.remove(self)
  local ok, message = self:flush_last(timeout or exits.LAST_FLUSH)
  self.flusher = nil
  flusher:close()
  flusher:close_servers()
  exporters.unlisten(flusher.client, self.config.exporters)
  self:let_go()
  return ok, message
end

return M
