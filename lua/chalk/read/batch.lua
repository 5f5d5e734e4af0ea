-- What an exporter is given at a flush: the metrics of one view, with what came since this exporter's last success.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local sketch = require "chalk.record.sketch"
local view = require "chalk.read.view"

local ffi, C = core.ffi, core.C

local M = {}

local OVER = "a batch is over when export has returned"
local bounds = ffi.new("double[?]", C.CHALK_LES + 1)
local counts = ffi.new("uint64_t[?]", C.CHALK_LES + 1)

---@class chalk.BatchMetric
---@field name string
---@field namespace string[]
---@field type "count"|"gauge"|"histogram"
---@field description string
---@field unit string?
---@field tags string[][] pairs of name and value in declared order; absent ones are left out
---@field total integer? a count's, all time
---@field delta integer? a count's, since this exporter's last success
---@field value number? a gauge's
---@field sketch chalk.Sketch? a histogram's, all time
---@field delta_sketch chalk.Sketch? since this exporter's last success
---@field les fun(): number?, integer? a histogram's bounds and cumulative counts, +Inf last
---@field own boolean? one of chalk's own metrics

-- Fields that are worked out when they are read, by what a kind of metric holds: functions of the metric and its
-- definition. A batch's memory goes with its flush.
local lazy = { total = {}, value = {}, sketch = {} }

local function live(m)
  local batch = m.batch
  if batch.over then error(OVER, 3) end
  return batch
end

local function tags_of(m, definition)
  local tags = view.tags(live(m).snapshot, m.entry, definition)
  m.tags = tags
  return tags
end

-- Those of instrumented functions are defined like chalk's own, but they are the application's.
local function own_of(_, definition) return definition.own and definition.namespace[1] == "chalk" or nil end

for _, fields in pairs(lazy) do
  fields.tags, fields.own = tags_of, own_of
end

function lazy.total.delta(m)
  local batch = live(m)
  if not batch.cursor then return tonumber(batch.entries[m.entry].total) end
  return tonumber(C.chalk_cursor_delta(batch.cursor, batch.snapshot, m.entry))
end

function lazy.total.total(m) return tonumber(live(m).entries[m.entry].total) end

function lazy.value.value(m) return live(m).entries[m.entry].value end

function lazy.sketch.sketch(m)
  -- The snapshot owns it; a merged copy is the exporter's to keep.
  local own = C.chalk_snapshot_sketch(live(m).snapshot, m.entry)
  local copy = sketch.new { initial_error = 0.0001 }
  if C.chalk_sketch_merge(copy, own) ~= C.CHALK_OK then return nil end -- without memory for either
  m.sketch = copy
  return copy
end

function lazy.sketch.delta_sketch(m)
  local batch = live(m)
  if not batch.cursor then return m.sketch end
  local delta = sketch.own(C.chalk_cursor_delta_sketch(batch.cursor, batch.snapshot, m.entry))
  m.delta_sketch = delta
  return delta
end

function lazy.sketch.les(m)
  local n = tonumber(C.chalk_snapshot_les(live(m).snapshot, m.entry, bounds, counts))
  local list = {}
  for i = 1, n do
    list[i] = { bounds[i - 1], tonumber(counts[i - 1]) }
  end
  local i = 0
  return function()
    i = i + 1
    local le = list[i]
    if le then return le[1], le[2] end
  end
end

-- One for each definition: what is the same for all its series is looked up there.
local metatables = setmetatable({}, { __mode = "k" })

local function metatable_of(definition)
  local meta = metatables[definition]
  if not meta then
    local fields = lazy[kinds.of[definition.type].holds]
    meta = {
      __index = function(m, name)
        local work = fields[name]
        if work then return work(m, definition) end
        return definition[name]
      end,
    }
    metatables[definition] = meta
  end
  return meta
end

---@class chalk.Batch
---@field blocking boolean? nobody turns the loop until `export` returns: it has to block where it would yield
local Batch = {}
Batch.__index = Batch

-- A dropped series is there for the differences only: one that has nothing left to send is not shown.
local function is_shown(batch, i)
  if batch.entries[i].dropped == 0 then return true end
  return batch.cursor ~= nil and C.chalk_cursor_delta(batch.cursor, batch.snapshot, i) > 0
end

--- Every metric of the batch, a family at a time.
---@return fun(): chalk.BatchMetric?
function Batch:each()
  local ranges, r, i = self.ranges, 0, 0
  local range, meta = { first = 0, last = 0 }, nil
  return function()
    if self.over then error(OVER, 2) end
    while true do
      while i >= range.last do
        r = r + 1
        range = ranges[r]
        if not range then
          range = { first = 0, last = 0 }
          return nil
        end
        i = range.first
        meta = metatable_of(range.definition)
      end
      local entry = i
      i = i + 1
      if is_shown(self, entry) then
        -- The third place is for `tags`, so that setting it moves nothing.
        return setmetatable({ batch = self, entry = entry, tags = nil }, meta)
      end
    end
  end
end

--- Marks one metric as sent, whatever becomes of the rest.
---@param m chalk.BatchMetric
function Batch:commit(m)
  if self.over then error(OVER, 2) end
  if self.cursor then C.chalk_cursor_commit(self.cursor, self.snapshot, m.entry, m.entry + 1, self.now()) end
end

--- Marks everything as sent.
function Batch:commit_all()
  if self.cursor then C.chalk_cursor_commit(self.cursor, self.snapshot, 0, self.count, self.now()) end
end

--- The end of the batch: nothing can be read of it any more.
function Batch:finish() self.over = true end

---@param v chalk.View
---@param cursor ffi.cdata*? nil: the exporter needs no differences
---@param now fun(): number
---@return chalk.Batch
function M.new(v, cursor, now)
  return setmetatable({
    view = v,
    snapshot = v.snapshot,
    entries = v.entries,
    count = v.count,
    ranges = v.ranges,
    cursor = cursor,
    now = now,
  }, Batch)
end

return M
