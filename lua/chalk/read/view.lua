-- A view: a snapshot together with the definitions of its metrics. The definitions come from shared memory, where the
-- VM that defined a metric has put them, so a view shows the metrics of all processes.
--
-- The snapshot's entries, one for each series, are ordered by metric. A view divides them into ranges:
--
--     entries    | 0  1  2 | 3 | 4  5  6  7 | ...
--     ranges     metric 0   1    metric 4             first, last, definition, les

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local schema = require "chalk.define.schema"

local ffi, C = core.ffi, core.C

---@class chalk.Range the series of one metric in a view: the entries from `first` to `last - 1`
---@field definition chalk.Definition
---@field metric integer the metric's number in the segment
---@field first integer
---@field last integer equal to `first` when the metric has no series yet
---@field les number[]? a histogram's bounds, as its values are counted

---@class chalk.View
---@field snapshot ffi.cdata*
---@field entries ffi.cdata* of the snapshot, as an array
---@field count integer the number of entries
---@field ranges chalk.Range[]

local M = {}

local text_size = 4096
local text = ffi.new("char[?]", text_size)
local count = ffi.new "uint32_t[1]"
local bounds = ffi.new("double[?]", C.CHALK_LES)
local KEY_SIZE = 64 * 1024
local key = ffi.new("char[?]", KEY_SIZE)
local bytes = ffi.cast("uint8_t *", key)

-- Decoded definitions by their bytes, so that a metric's definition is the same table in every view.
local decoded = setmetatable({}, { __mode = "v" })

-- The bytes of a definition; nil when no metric has the number.
local function blob_of(segment, metric)
  local size = tonumber(C.chalk_metric_blob(segment, metric, text, text_size))
  while size > text_size do
    text_size = size
    text = ffi.new("char[?]", text_size)
    size = tonumber(C.chalk_metric_blob(segment, metric, text, text_size))
  end
  return size > 0 and ffi.string(text, size) or nil
end

--- The definition of a metric by its number.
---@param segment ffi.cdata*
---@param metric integer
---@return chalk.Definition? definition nil when no metric has the number, or its bytes are not a definition
function M.definition(segment, metric)
  local blob = blob_of(segment, metric)
  if not blob then return nil end
  local definition = decoded[blob]
  if not definition then
    definition = schema.decode(blob) or schema.plain(blob)
    decoded[blob] = definition
  end
  return definition
end

local function les_of(segment, metric)
  local les = {}
  for i = 1, C.chalk_metric_les(segment, metric, bounds) do
    les[i] = bounds[i - 1]
  end
  return les
end

local function ranges_of(segment, entries, n)
  local ranges, at = {}, 0
  for metric = 0, C.chalk_metric_top(segment) - 1 do
    local first = at
    while at < n and entries[at].metric == metric do
      at = at + 1
    end
    local definition = (at > first or C.chalk_metric_shown(segment, metric) ~= 0) and M.definition(segment, metric)
    if definition then
      ranges[#ranges + 1] = {
        definition = definition,
        metric = metric,
        first = first,
        last = at,
        les = kinds.of[definition.type].has_bounds and les_of(segment, metric) or nil,
      }
    end
  end
  return ranges
end

--- Takes a view of all series as they are now.
---@param segment ffi.cdata*
---@param dropped boolean? also show dropped series, of which an exporter may have something to send
---@param unset boolean? also show gauges that were never set
---@return chalk.View? view nil when there is no memory for it
---@return string? message
function M.take(segment, dropped, unset)
  local what = (dropped and C.CHALK_DROPPED or 0) + (unset and C.CHALK_UNSET or 0)
  local snapshot = C.chalk_snapshot_take(segment, what, core.message)
  if snapshot == nil then return nil, core.said() end
  ffi.gc(snapshot, C.chalk_snapshot_free)
  local entries = C.chalk_snapshot_entries(snapshot, count)
  local n = tonumber(count[0])
  return { snapshot = snapshot, entries = entries, count = n, ranges = ranges_of(segment, entries, n) }
end

local FRESH = 1 -- seconds for which a view that is being read serves further readers
local MAX_VIEWS = 8 -- views of one `sharing` that are being read at once

local function number_of(alive)
  local n = 0
  for _ in pairs(alive) do
    n = n + 1
  end
  return n
end

-- The collector frees views that a reader lost without freeing them, so it runs before the limit is reached.
local function is_full(alive)
  if number_of(alive) < MAX_VIEWS then return false end
  collectgarbage()
  return number_of(alive) >= MAX_VIEWS
end

--- Makes a function that takes views for slow readers, such as scrapes, in little memory. A reader that begins within a
--- second of another one gets the same view, if that is still being read. At most 8 views are read at once. Each reader
--- must call `free` once.
---@param take fun(): chalk.View?, string? takes a new view
---@param clock (fun(): number)? seconds; the core's clock when left out
---@return fun(): chalk.View?, string? take returns nil and a message when 8 views are being read
function M.sharing(take, clock)
  clock = clock or C.chalk_now
  local alive, newest = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "v" })
  return function()
    local now, v = clock(), newest.view
    if v and alive[v] and now - v.taken < FRESH then
      v.readers = v.readers + 1
      return v
    end
    if is_full(alive) then
      return nil, ("too many scrapes at once: %d are still being read, try again later"):format(MAX_VIEWS)
    end
    local message
    v, message = take()
    if not v then return nil, message end
    v.taken, v.readers, v.alive = now, 1, alive
    alive[v], newest.view = true, v
    return v
  end
end

--- The tags of an entry, as pairs of key and value in declared order. Absent tags are left out.
---@param snapshot ffi.cdata*
---@param entry integer the entry's index
---@param definition chalk.Definition
---@return string[][]
function M.tags(snapshot, entry, definition)
  local size = tonumber(C.chalk_snapshot_key(snapshot, entry, key, KEY_SIZE))
  local tags, at, n, i = {}, 0, 0, 0
  local names = definition.tags
  while at + 2 <= size do
    i = i + 1
    local length = bytes[at] + bytes[at + 1] * 256
    if length > 0 then
      n = n + 1
      tags[n] = { names[i].key, ffi.string(key + at + 2, length) }
    end
    at = at + 2 + length
  end
  return tags
end

--- Frees a view now, and not only when it is collected. Its reader must not read it afterwards. A shared view is freed
--- by the last of its readers.
---@param v chalk.View
function M.free(v)
  if v.readers then v.readers = v.readers - 1 end
  if v.freed or (v.readers or 0) > 0 then return end
  v.freed = true
  if v.alive then v.alive[v] = nil end
  C.chalk_snapshot_free(ffi.gc(v.snapshot, nil))
  v.snapshot, v.entries = nil, nil
end

return M
