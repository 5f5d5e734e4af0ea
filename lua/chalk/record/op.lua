-- An operation: a count, and a histogram of durations, that each verb records together.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local series = require "chalk.record.series"

local now = core.now

local M = {}

-- An operation has the verbs of its histogram. Every other name is passed on to the histogram, which refuses it.
local unknown = {}
function unknown.__index(_, name)
  if type(name) ~= "string" or name:find "^_" then return nil end
  return function(self, ...) return self.histogram[name](self.histogram, ...) end
end

---@class chalk.OpSeries
local Series = setmetatable({}, unknown)
Series.__index = Series

--- Records one operation that took this many seconds.
---@param seconds number
function Series:record(seconds)
  if type(seconds) == "number" and seconds - seconds == 0 then self.count:inc() end
  return self.histogram:record(seconds)
end

local function finish(self, started, ok, ...)
  self:record(now() - started)
  if not ok then error((...), 0) end
  return ...
end

--- Calls f and records how long it took; returns what f returns, or raises what f raises.
---@param f function
function Series:time(f, ...)
  if type(f) ~= "function" and not series.is_callable(f) then return self.histogram:time(f) end
  return finish(self, now(), pcall(f, ...))
end

--- Starts a clock. The returned function records the operation each time it is called.
---@return fun()
function Series:start()
  local started = now()
  return function() return self:record(now() - started) end
end

---@class chalk.Op
---@overload fun(tags: table): chalk.OpSeries
local Op = {}

local function pair(count, histogram) return setmetatable({ count = count, histogram = histogram }, Series) end

-- The series that records nothing.
local null = series.null(kinds.of.histogram)

-- `ok` and `count` come from a pcall of the count's accessor. An error raised in the accessor has no position, because
-- its caller is pcall, so it is raised again with the position of the operation's caller. If the accessor refused the
-- tags without raising, this returns the null series: asking the histogram too would report the error twice.
local function found(self, ok, count)
  if not ok then error(count, 3) end
  return count == self.refused and null or nil
end

--- The series with these tag values, in declared order.
---@return chalk.OpSeries
function Op:with(...)
  local ok, count = pcall(self.count.with, self.count, ...)
  return found(self, ok, count) or pair(count, self.histogram:with(...))
end

local function call(self, tags)
  local ok, count = pcall(self.count, tags)
  return found(self, ok, count) or pair(count, self.histogram(tags))
end

-- An operation without tags is its own series. If it has tags, the histogram raises the error that they are missing.
for _, verb in ipairs(kinds.of.histogram.verbs) do
  Op[verb] = function(self, ...)
    if self.tagged then return self.histogram[verb](self.histogram, ...) end
    return Series[verb](self, ...)
  end
end

setmetatable(Op, unknown)

local meta = { __index = Op, __call = call }

-- The operation of a disabled client looks at no tags and reads no clock.
local function nowhere() return null end

local disabled = {
  __index = setmetatable({ record = null.record, time = null.time, start = null.start, with = nowhere }, unknown),
  __call = nowhere,
}

--- Makes every verb of an operation an empty function, for good.
---@param op chalk.Op
function M.disable(op) setmetatable(op, disabled) end

--- Makes an operation of its two metrics.
---@param count chalk.Metric
---@param histogram chalk.Metric
---@param refused table what the count's accessor returns for tags that it refuses without raising
---@param tagged boolean whether the metrics have tags
---@return chalk.Op
function M.new(count, histogram, refused, tagged)
  return setmetatable({ count = count, histogram = histogram, refused = refused, tagged = tagged }, meta)
end

return M
