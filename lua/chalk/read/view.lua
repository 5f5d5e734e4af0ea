-- A snapshot with its definitions: what exporters see. The definitions come out of shared memory, where whichever VM
-- defined a metric left them, so a view shows the metrics of all processes.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local schema = require "chalk.define.schema"

local ffi, C = core.ffi, core.C

---@class chalk.Range entries first to last - 1 of a view are the series of one metric
---@field definition table
---@field metric integer
---@field first integer
---@field last integer
---@field les number[]? a histogram's bounds, as counted

---@class chalk.View
---@field snapshot ffi.cdata*
---@field entries ffi.cdata*
---@field count integer
---@field ranges chalk.Range[]

local M = {}

local room = 4096
local text = ffi.new("char[?]", room)
local count = ffi.new "uint32_t[1]"
local bounds = ffi.new("double[?]", C.CHALK_LES)
local KEY = 64 * 1024
local key = ffi.new("char[?]", KEY)
local bytes = ffi.cast("uint8_t *", key)

-- Decoded definitions by their bytes, so that one metric is one table from scrape to scrape.
local decoded = setmetatable({}, { __mode = "v" })

---@return string? blob
local function blob_of(segment, metric)
  local size = tonumber(C.chalk_metric_blob(segment, metric, text, room))
  while size > room do
    room = size
    text = ffi.new("char[?]", room)
    size = tonumber(C.chalk_metric_blob(segment, metric, text, room))
  end
  return size > 0 and ffi.string(text, size) or nil
end

--- The definition of a metric by its number.
---@param segment ffi.cdata*
---@param metric integer
---@return table? definition nil: there is none of that number
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

--- Takes a view of all series as they stand now.
---@param segment ffi.cdata*
---@param dropped boolean? also series dropped but perhaps not sent
---@param unset boolean? also gauges that were never set
---@return chalk.View?
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

local FRESH = 1 -- seconds in which a view that is being read serves others too
local MOST = 8 -- of them at once

local function held(alive)
  local n = 0
  for _ in pairs(alive) do
    n = n + 1
  end
  return n
end

-- Those that somebody forgot to free go with the collector.
local function is_full(alive)
  if held(alive) < MOST then return false end
  collectgarbage()
  return held(alive) >= MOST
end

--- Views for readers that take their time, such as scrapes. One that begins within a second of another that is still
--- under way reads the same view; more views than a few are not to be had. Each reader frees its own once.
---@param take fun(): chalk.View?, string?
---@param clock (fun(): number)?
---@return fun(): chalk.View?, string? take
function M.sharing(take, clock)
  clock = clock or C.chalk_now
  local alive, newest = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "v" })
  return function()
    local now, v = clock(), newest.view
    if v and alive[v] and now - v.taken < FRESH then
      v.readers = v.readers + 1
      return v
    end
    if is_full(alive) then return nil, "too many scrapes are under way, and none of them ends" end
    local message
    v, message = take()
    if not v then return nil, message end
    v.taken, v.readers, v.alive = now, 1, alive
    alive[v], newest.view = true, v
    return v
  end
end

--- The tags of an entry, as pairs of name and value in declared order; absent ones are left out.
---@param snapshot ffi.cdata*
---@param entry integer
---@param definition chalk.Definition
---@return string[][]
function M.tags(snapshot, entry, definition)
  local size = tonumber(C.chalk_snapshot_key(snapshot, entry, key, KEY))
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

--- Frees a view before the collector gets to it; nothing may be read of it afterwards. One that is shared goes with the
--- last of its readers.
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
