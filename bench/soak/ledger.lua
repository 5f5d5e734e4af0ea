-- What was recorded, by those who did: a page that all processes share. For each worker and each of its entries there
-- are two doubles, what it set out to record and what it has recorded. They differ by the record under way, so that
-- of a worker that was killed anywhere the true total is known but for that one.
--
-- Beside it, counters of what happened; each is written by one process at a time.

local posix = require "soak.posix"

local M = {}

M.WORKERS = 4
M.KINDS = { "mail", "image", "report" }

-- The count of a histogram by its `le` cells, and by its sketch: a death may come between the two.
M.ENTRIES = { "mail", "image", "report", "latency", "sketch", "churn", "wild" }

local COUNTERS = { "stop", "kills", "forks", "ended", "stops", "removes", "clears", "in_flight", "descriptors" }
local WIDTH = #M.ENTRIES * 2 + 1

---@class soak.Ledger
local Ledger = {}
Ledger.__index = Ledger

--- The pair of an entry: [0] set out for, [1] done.
function Ledger:pair(worker, name) return self.page + (worker - 1) * WIDTH + self.place[name] end

--- One double: whether the worker is recording right now.
function Ledger:busy(worker) return self.page + worker * WIDTH - 1 end

--- The least and the most that an entry's total can be, over all workers.
---@return number done, number intended
function Ledger:bounds(name)
  local done, intended = 0, 0
  for worker = 1, M.WORKERS do
    local pair = self:pair(worker, name)
    done, intended = done + pair[1], intended + pair[0]
  end
  return done, intended
end

--- A worker has ended and its true total is known: it is within the bounds, and is what counts from here on.
function Ledger:settle(worker, name, total)
  local pair = self:pair(worker, name)
  if total < pair[1] or total > pair[0] then
    posix.fail(("%s of worker %d is %d, recorded were %d to %d"):format(name, worker, total, pair[1], pair[0]))
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
  local self = setmetatable({ page = posix.shared(cells + #COUNTERS), place = {}, counters = {} }, Ledger)
  for i, name in ipairs(M.ENTRIES) do
    self.place[name] = (i - 1) * 2
  end
  for i, name in ipairs(COUNTERS) do
    self.counters[name] = cells + i - 1
  end
  return self
end

return M
