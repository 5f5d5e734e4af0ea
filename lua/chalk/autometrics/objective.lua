-- Service level objectives: the percentage of a function's calls that should succeed, and the percentage that should
-- take no longer than a threshold.
--
--     auto.objective("checkout"):success_rate(99.9):latency(0.25, 99)
--
-- A name stands for one objective in the whole program: every module that asks for the name gets the same object. So a
-- value that was set cannot change, and nothing can be added once a wrapped function has the objective, because its
-- series already exist with the objective's labels.

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

-- Other modules may use the value, and rules may have been written from it.
local function check_unchanged(name, what, before, now)
  if before ~= nil and before ~= now then
    fail(
      ("objective %q already has %s %s: it cannot change to %s"):format(name, what, tostring(before), tostring(now)),
      3
    )
  end
end

local function check_open(self)
  if self.used then
    fail(("objective %q is in use: set its rate and latency before a function has it"):format(self.name), 3)
  end
end

--- Sets the percentage of calls that should succeed.
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

--- Sets the percentage of calls that should take no longer than the threshold.
---@param threshold number seconds, above 0 and finite
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

--- Returns the objective as a plain table.
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

--- Creates an objective, and warns of a name that other tools may not accept.
---@param name string
---@param on_latency fun(threshold: number) called before a latency is set; may raise to refuse it
---@return chalk.autometrics.Objective
function M.new(name, on_latency)
  if name:find "[^%w_ -]" or name:sub(1, 1) == "-" then
    log.write(
      "warning",
      ("objective %q: some tools accept only letters, digits, _, - and spaces, and no - at the start"):format(name)
    )
  end
  return setmetatable({ name = name, values = {}, on_latency = on_latency }, Objective)
end

return M
