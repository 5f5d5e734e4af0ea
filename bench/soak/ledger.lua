-- The ledger: what the workers have really recorded, in memory that all processes share. For each worker and entry it
-- has two doubles: the total that the worker intends to have recorded, which it raises before a record, and the total
-- that it has recorded, which it raises after the record. They differ only during a record, so if a worker is killed
-- anywhere, its true total is known up to that one record.
--
--     worker 1: (intended, done) of each entry, busy | worker 2: ... | counters of what happened
--
-- Each double is written by one process at a time.

local posix = require "soak.posix"

local M = {}

M.WORKERS = 4
M.KINDS = { "mail", "image", "report" }

-- A histogram has two entries: `latency` for its `le` counts and `sketch` for its sketch, because a worker may be
-- killed between the two.
M.ENTRIES = { "mail", "image", "report", "latency", "sketch", "churn", "wild" }

local COUNTERS = { "stop", "kills", "forks", "ended", "stops", "removes", "clears", "in_flight", "descriptors" }
local WIDTH = #M.ENTRIES * 2 + 1

---@class soak.Ledger
local Ledger = {}
Ledger.__index = Ledger

--- Returns the pair of an entry: [0] intended, [1] done.
function Ledger:pair(worker, name) return self.page + (worker - 1) * WIDTH + self.offsets[name] end

--- Returns the double that says whether the worker is recording right now.
function Ledger:busy(worker) return self.page + worker * WIDTH - 1 end

--- Returns the least and the most that an entry's total can be, over all workers.
---@return number done, number intended
function Ledger:bounds(name)
  local done, intended = 0, 0
  for worker = 1, M.WORKERS do
    local pair = self:pair(worker, name)
    done, intended = done + pair[1], intended + pair[0]
  end
  return done, intended
end

--- Enters the total that chalk has of a worker that has ended, and fails if it is not within the bounds.
function Ledger:enter(worker, name, total)
  local pair = self:pair(worker, name)
  if total < pair[1] or total > pair[0] then
    posix.fail(
      ("%s of worker %d is %d, expected %d to %d as recorded"):format(name, worker, total, pair[1], pair[0])
    )
  end
  self:add("in_flight", pair[0] > pair[1] and 1 or 0)
  pair[1], pair[0] = total, total
end

function Ledger:add(name, n)
  local at = self.counters[name]
  self.page[at] = self.page[at] + (n or 1)
end

function Ledger:set(name, n) self.page[self.counters[name]] = n end

function Ledger:get(name) return self.page[self.counters[name]] end

---@return soak.Ledger
function M.new()
  local cells = M.WORKERS * WIDTH
  local self = setmetatable({ page = posix.shared(cells + #COUNTERS), offsets = {}, counters = {} }, Ledger)
  for i, name in ipairs(M.ENTRIES) do
    self.offsets[name] = (i - 1) * 2
  end
  for i, name in ipairs(COUNTERS) do
    self.counters[name] = cells + i - 1
  end
  return self
end

return M
