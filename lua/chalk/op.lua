-- An operation: a count and a histogram of its durations, recorded as one.

local core = require "chalk.core"

local C = core.C

local M = {}

---@class chalk.OpSeries
local Series = {}
Series.__index = Series

--- One operation that took so many seconds.
---@param seconds number
function Series:record(seconds)
  self.count:inc()
  return self.histogram:record(seconds)
end

local function finish(self, started, ok, ...)
  self:record(C.chalk_now() - started)
  if not ok then error((...), 0) end
  return ...
end

--- Calls f and records it; returns or raises what f does.
---@param f function
function Series:time(f, ...) return finish(self, C.chalk_now(), pcall(f, ...)) end

--- Starts a clock: the function returned records the operation when called.
---@return fun()
function Series:start()
  local started = C.chalk_now()
  return function() return self:record(C.chalk_now() - started) end
end

---@class chalk.Op
---@overload fun(tags: table): chalk.OpSeries
local Op = {}

--- The series with these tag values, in declared order.
---@return chalk.OpSeries
function Op:with(...)
  return setmetatable({ count = self.count:with(...), histogram = self.histogram:with(...) }, Series)
end

for _, verb in ipairs { "record", "time", "start" } do
  Op[verb] = function(self, ...) return Series[verb](self, ...) end
end

local meta = {
  __index = Op,
  __call = function(self, tags)
    return setmetatable({ count = self.count(tags), histogram = self.histogram(tags) }, Series)
  end,
}

---@param count chalk.Metric
---@param histogram chalk.Metric
---@return chalk.Op
function M.new(count, histogram) return setmetatable({ count = count, histogram = histogram }, meta) end

return M
