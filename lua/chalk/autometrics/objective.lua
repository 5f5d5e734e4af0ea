-- Service level objectives: how many of the calls of some functions should succeed, how many should be done in time.
--
--     auto.objective("checkout"):success_rate(99.9):latency(0.25, 99)
--
-- One name is one objective, wherever it is asked for.

local log = require "chalk.base.log"

local M = {}

---@class chalk.autometrics.Objective
---@field name string
---@field values { success_rate: number?, latency: { threshold: number, percentile: number }? }
local Objective = {}
Objective.__index = Objective

local function fail(message, level) error("chalk.autometrics: " .. message, level + 1) end

local function check_percentile(name, percentile)
  if type(percentile) ~= "number" or not (percentile >= 0 and percentile <= 100) then
    fail(("objective %q: a percentile is a number from 0 to 100, not %s"):format(name, tostring(percentile)), 3)
  end
end

-- Others may have used it, or made their rules of it.
local function check_unchanged(name, what, before, now)
  if before ~= nil and before ~= now then
    fail(("objective %q has %s %s already, not %s"):format(name, what, tostring(before), tostring(now)), 3)
  end
end

local function check_open(self)
  if self.used then fail(("objective %q is in use and cannot be added to"):format(self.name), 3) end
end

--- The percentage of calls that should succeed.
---@param percentile number 0 to 100
---@return chalk.autometrics.Objective self
function Objective:success_rate(percentile)
  check_percentile(self.name, percentile)
  local before = self.values.success_rate
  check_unchanged(self.name, "success rate", before, percentile)
  if before == nil then check_open(self) end
  self.values.success_rate = percentile
  return self
end

--- The percentage of calls that should take no longer than a time.
---@param threshold number seconds
---@param percentile number 0 to 100
---@return chalk.autometrics.Objective self
function Objective:latency(threshold, percentile)
  if type(threshold) ~= "number" or not (threshold > 0 and threshold < math.huge) then
    fail(
      ("objective %q: a latency is a number of seconds above 0, not %s"):format(self.name, tostring(threshold)),
      2
    )
  end
  check_percentile(self.name, percentile)
  local before = self.values.latency
  if before then
    check_unchanged(self.name, "latency", before.threshold, threshold)
    check_unchanged(self.name, "latency percentile", before.percentile, percentile)
    return self
  end
  check_open(self)
  self.on_latency(threshold)
  self.values.latency = { threshold = threshold, percentile = percentile }
  return self
end

--- What it asks for, as data.
---@return { name: string, success_rate: number?, latency: { threshold: number, percentile: number }? }
function Objective:describe()
  local latency = self.values.latency
  return {
    name = self.name,
    success_rate = self.values.success_rate,
    latency = latency and { threshold = latency.threshold, percentile = latency.percentile },
  }
end

---@param value any
---@return boolean
function M.is(value) return getmetatable(value) == Objective end

--- An objective of a name.
---@param name string
---@param on_latency fun(threshold: number)
---@return chalk.autometrics.Objective
function M.new(name, on_latency)
  if name:find "[^%w_ -]" or name:sub(1, 1) == "-" then
    log.write(
      "warning",
      ("objective %q: names of letters, digits, _, - and spaces, - not first, work with every tool"):format(name)
    )
  end
  return setmetatable({ name = name, values = {}, on_latency = on_latency }, Objective)
end

return M
