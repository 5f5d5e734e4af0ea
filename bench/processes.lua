-- Times processes that record into one segment at the same time, to see whether they slow each other down.

local children = require "children"
local core = require "chalk.core"
local harness = require "harness"
local record = require "record"

local M = {}

local PATIENCE = 5 -- seconds

-- Runs f in a child. Returns a function that waits for f's result, which is NaN if the child has failed.
local function start(f)
  local reader, writer = children.pipe()
  local pid = children.fork(function() children.put(writer, f()) end)
  children.close(writer)
  return function()
    local result = children.get(reader)
    children.close(reader)
    children.wait(pid)
    return result or 0 / 0
  end
end

-- Returns a function for a child, which times a loop of the record paths in rounds of about `seconds` and returns the
-- nanoseconds of a record.
local function work_of(name, seconds)
  local loop = record.loops(record.client())[name]
  return function() return harness.time(loop, seconds) end
end

--- Returns the nanoseconds of a record in one process alone, and in each of two processes at once. Both are medians of
--- rounds that alternate.
---@return number alone, number both
function M.run()
  local work = work_of("with", 0.05)
  local alone, both = {}, {}
  for i = 1, 5 do
    alone[i] = start(work)()
    local a, b = start(work), start(work)
    both[2 * i - 1], both[2 * i] = a(), b()
  end
  return harness.median(alone), harness.median(both)
end

--- Returns the millions of records per second that n processes at once make together.
---@param name "with"|"histogram_call"
---@param n integer
---@return number
function M.together(name, n)
  local work, running, rate = work_of(name, 0.1), {}, 0
  for i = 1, n do
    running[i] = start(work)
  end
  for i = 1, n do
    rate = rate + 1e3 / running[i]()
  end
  return rate
end

-- Waits until the gauge has another value. Returns false if that does not happen in time.
local function moves(gauge, from)
  local ends = core.C.chalk_now() + PATIENCE
  while gauge:value() == from do
    if core.C.chalk_now() > ends then return false end
  end
  return true
end

--- Returns whether each `set` of a gauge is stored even if its value is the same each time. A child sets a gauge to the
--- same value over and over; whenever this process sets another value in between, the child's value must come back.
---@return boolean
function M.stores_each()
  local loops, gauge = record.loops(record.client())
  local pid = children.fork(function()
    while true do
      loops.gauge_same(1e12)
    end
  end)
  local all = moves(gauge, 0)
  for other = 10, 20 do
    gauge:set(other)
    all = all and moves(gauge, other)
  end
  children.kill(pid, children.KILL)
  children.wait(pid)
  return all
end

return M
