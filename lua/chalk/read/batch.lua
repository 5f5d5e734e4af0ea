-- A batch: what an exporter gets in a flush. It has the metrics of a view, and for each the difference to what this
-- exporter has already sent, which its cursor knows.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local sketch = require "chalk.record.sketch"
local view = require "chalk.read.view"

local ffi, C = core.ffi, core.C

local M = {}

local OVER = "a batch is over when export has returned: read it before, or copy what is needed later"
local bounds = ffi.new("double[?]", C.CHALK_LES + 1)
local counts = ffi.new("uint64_t[?]", C.CHALK_LES + 1)

---@class chalk.BatchMetric one series; the fields of its definition are fields of it too
---@field name string
---@field namespace string[]
---@field type "count"|"gauge"|"histogram"
---@field description string
---@field unit string?
---@field tags string[][] pairs of key and value in declared order; absent tags are left out
---@field total integer? of a count: the sum of all records
---@field delta integer? of a count: the sum since this exporter's last success
---@field value number? of a gauge
---@field sketch chalk.Sketch? of a histogram: all values
---@field delta_sketch chalk.Sketch? of a histogram: the values since this exporter's last success
---@field les fun(): number?, integer? of a histogram: iterates over bounds and cumulative counts, +Inf last
---@field own boolean? true for one of chalk's own metrics

-- Fields that are computed when they are read, by what the kind of the metric holds (see chalk.define.kinds). Each is a
-- function of the metric and its definition.
local lazy = { total = {}, value = {}, sketch = {} }

-- The batch of a metric. Its memory is freed after the flush, so reading a metric later is an error.
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

-- The metrics of instrumented functions are defined like chalk's own, but they belong to the application.
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
  -- The snapshot owns its sketch. The exporter gets a copy, which it may keep.
  local own = C.chalk_snapshot_sketch(live(m).snapshot, m.entry)
  local copy = sketch.new { initial_error = 0.0001 }
  if C.chalk_sketch_merge(copy, own) ~= C.CHALK_OK then return nil end -- no memory for one of them
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

-- A metatable for each definition, through which its metrics get the fields of the definition.
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
---@field blocking boolean? true: the loop does not run before `export` returns, so `export` must block and not yield
local Batch = {}
Batch.__index = Batch

-- A dropped series is in a batch only for what this exporter has not sent of it.
local function is_shown(batch, i)
  if batch.entries[i].dropped == 0 then return true end
  return batch.cursor ~= nil and C.chalk_cursor_delta(batch.cursor, batch.snapshot, i) > 0
end

--- Iterates over all metrics of the batch. The series of one metric follow each other.
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
        -- `tags = nil` reserves a slot of the table, so that setting it later does not make the table grow.
        return setmetatable({ batch = self, entry = entry, tags = nil }, meta)
      end
    end
  end
end

--- Marks one metric as sent, even if the export of the others fails.
---@param m chalk.BatchMetric
function Batch:commit(m)
  if self.over then error(OVER, 2) end
  if self.cursor then C.chalk_cursor_commit(self.cursor, self.snapshot, m.entry, m.entry + 1, self.now()) end
end

--- Marks all metrics as sent.
function Batch:commit_all()
  if self.cursor then C.chalk_cursor_commit(self.cursor, self.snapshot, 0, self.count, self.now()) end
end

--- Ends the batch. Nothing can be read from it any more.
function Batch:finish() self.over = true end

--- Makes a batch of a view, which must live as long as the batch.
---@param v chalk.View
---@param cursor ffi.cdata*? nil for an exporter that needs no differences; each delta is then the total
---@param now (fun(): number)? the clock for commits; needed with a cursor
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
