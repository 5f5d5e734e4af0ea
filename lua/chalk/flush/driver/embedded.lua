-- What the drivers `loop` and `manual` have in common, which flush in the application's own VM: the order of steps in a
-- flush and at the end. A driver adds what differs:
--
--     flush_now(timeout)    one flush; true, or nil and a message
--     flush_last(timeout)   the last one, or what a process without the flusher's role still has to send
--     let_go()              closes its handles

local core = require "chalk.core"
local exits = require "chalk.flush.driver.exits"
local exporters = require "chalk.flush.exporters"
local flushers = require "chalk.flush.flusher"

local C = core.C

local M = {}

---@class chalk.EmbeddedDriver
---@field flusher chalk.Flusher? nil once it is closed
---@field config table
---@field is_child boolean? of a forked process, whose handles share the parent's epoll and are left alone
---@field flush_now fun(self, timeout: number): boolean?, string?
---@field flush_last fun(self, timeout: number): boolean?, string?
---@field let_go fun(self)
local Driver = {}
Driver.__index = Driver

--- A class of drivers.
---@return table
function M.class()
  local class = setmetatable({}, Driver)
  class.__index = class
  return class
end

--- Asks the process that has the flusher's role for a flush.
---@param flusher chalk.Flusher
---@return fun(patience: number?): boolean is_done waits for at most so many seconds, or not at all
function M.ask(flusher)
  local ticket = C.chalk_flush_request(flusher.segment)
  return function(patience) return C.chalk_flush_wait(flusher.segment, ticket, patience or 0) == 0 end
end

---@param timeout number
---@return boolean?, string?
function Driver:flush(timeout)
  local flusher = self.flusher
  if not flusher then return true end
  if flusher:is_exporting() then return nil, flushers.INSIDE end
  exits.look(self)
  flusher.client:on_stale()
  return self:flush_now(timeout)
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
  local ok, message = self:flush_last(timeout or exits.LAST_FLUSH)
  self.flusher = nil
  flusher:close()
  flusher:close_servers()
  exporters.unlisten(flusher.client, self.config.exporters)
  self:let_go()
  return ok, message
end

return M
