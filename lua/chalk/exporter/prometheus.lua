--- The Prometheus exporter writes a view as exposition text, as a whole or in chunks.
--
-- A scrape lists the metrics that have series as *groups*: one for each family, in the order of definition. Then it
-- fills one buffer after another with headers and sample lines, which the C core writes. A chunk is the content of one
-- buffer. So the server holds one chunk of a scrape in memory at a time, and serves other requests between two chunks.
--
-- The names and labels of a family do not change between scrapes, so the exporter keeps them for each definition.

local core = require "chalk.core"
local lists = require "chalk.base.lists"
local naming = require "chalk.define.naming"
local numbers = require "chalk.base.numbers"
local response = require "chalk.net.http_response"
local views = require "chalk.read.view"
local accept = require "chalk.exporter.prometheus.accept"
local family = require "chalk.exporter.prometheus.family"
local merge = require "chalk.exporter.prometheus.merge"
local options_of = require "chalk.exporter.prometheus.options"

local ffi, C = core.ffi, core.C

local M = {}

local CHUNK = 65536 -- bytes

M.resolve = options_of.resolve
M.formats = { prometheus = true, openmetrics = true }

---@class chalk.prometheus.Options
---@field namespace string? a prefix of every name
---@field listen string? the address to serve at: "127.0.0.1:9464", "unix:///run/metrics.sock"
---@field path string? the path to serve ("/metrics")
---@field buckets number[]? the bounds to show of histograms that define none; only counted bounds are shown (all)
---@field name string? the exporter's name
---@field global_tags table<string, string|number|boolean>? constant labels; a metric's own tag of the same name wins

---@class chalk.prometheus.Exporter
---@field deltas boolean
---@field path string
local Exporter = {}
Exporter.__index = Exporter

local function by_definition() return setmetatable({}, { __mode = "k" }) end

--- Makes an exporter. Raises a message if the options are wrong.
---@param options chalk.prometheus.Options?
---@return chalk.prometheus.Exporter
function M.new(options)
  local message
  options, message = M.resolve(options or {})
  if not options then error(message, 2) end
  return setmetatable({
    deltas = false,
    path = options.path,
    namespace = options.namespace,
    shown = options.buckets and lists.set(options.buckets),
    constants = family.constants(options.global_tags),
    kept = {}, -- the last groups; they refer to definitions, and so keep the entries of the weak tables below
    families = { prometheus = by_definition(), openmetrics = by_definition() },
    buffer = ffi.new("char[?]", CHUNK),
    position = ffi.new "uint32_t[1]",
  }, Exporter)
end

--- Sends nothing, because scrapes read totals.
---@return true
function Exporter:export() return true end

local function bounds_of(self, range)
  local bounds, shown = {}, not range.definition.buckets and self.shown
  for i, value in ipairs(range.les or {}) do
    if not shown or shown[value] then bounds[#bounds + 1] = { value = value, index = i - 1 } end
  end
  return bounds
end

local NO_LES = {}

-- Metrics with the same definition may count different bounds, because default bounds are not a part of the definition.
local function family_of(self, range, name, format)
  local kept, def, les = self.families[format], range.definition, range.les or NO_LES
  local known = kept[def]
  if not known or not lists.is_same(known.les, les) then
    known = { les = les, family = family.new(def, name, bounds_of(self, range), self.constants, format) }
    kept[def] = known
  end
  return known.family
end

---@class chalk.prometheus.Group
---@field name string
---@field definition chalk.Definition the newest version
---@field ranges chalk.Range[] more than one if several versions of the metric are in use

-- Returns the group that has one of these names already.
local function group_with(held, names)
  for _, name in ipairs(names) do
    if held[name] then return held[name] end
  end
end

-- Adds a range to the group of its family. Two different metrics can have the same name only if VMs with different
-- definitions share a segment. The first one keeps the name and the other is left out, because an exposition must not
-- have two metrics under one TYPE line.
local function add_range(groups, held, range, name)
  local def = range.definition
  local names = naming.held(name, def.type)
  local group = group_with(held, names)
  if not group then
    group = { name = name, definition = def, ranges = {} }
    groups[#groups + 1] = group
    for _, taken in ipairs(names) do
      held[taken] = group
    end
  elseif group.name ~= name or group.definition.type ~= def.type or group.definition.id_name ~= def.id_name then
    return
  end
  group.definition = def
  group.ranges[#group.ranges + 1] = range
end

local function groups_of(self, view)
  local groups, held = {}, {}
  self.kept = groups
  for _, range in ipairs(view.ranges) do
    if range.first < range.last then
      add_range(groups, held, range, family.name(range.definition, self.namespace))
    end
  end
  return groups
end

-- Returns the lines of the series from first to last - 1. The buffer grows until the longest line fits.
local function render_alone(view, names, first, last)
  local size, position = CHUNK, ffi.new("uint32_t[1]", first)
  local texts = {}
  while position[0] < last do
    local buffer = ffi.new("char[?]", size)
    repeat
      local n = tonumber(C.chalk_snapshot_render(view.snapshot, names, position, last, buffer, size))
      texts[#texts + 1] = ffi.string(buffer, n)
    until n == 0 or position[0] == last
    size = size * 2
  end
  return table.concat(texts)
end

-- Returns for each version the bounds that all versions count.
local function common_bounds(self, ranges)
  local counts, bounds = {}, {}
  for i, range in ipairs(ranges) do
    bounds[i] = bounds_of(self, range)
    for _, bound in ipairs(bounds[i]) do
      counts[bound.value] = (counts[bound.value] or 0) + 1
    end
  end
  for i, own in ipairs(bounds) do
    local common = {}
    for _, bound in ipairs(own) do
      if counts[bound.value] == #ranges then common[#common + 1] = bound end
    end
    bounds[i] = common
  end
  return bounds
end

-- Returns the text of a group whose metric has several versions.
local function merged(self, view, group, format)
  local texts, header = {}, nil
  local bounds = common_bounds(self, group.ranges)
  for i, range in ipairs(group.ranges) do
    local own = family.new(range.definition, group.name, bounds[i], self.constants, format)
    texts[i], header = render_alone(view, own.names, range.first, range.last), own.header
  end
  return header .. merge.lines(texts, group.definition, numbers.text)
end

--- The state of one exposition that is written in chunks.
---@class chalk.prometheus.Walk
---@field exporter chalk.prometheus.Exporter
---@field view chalk.View
---@field format chalk.prometheus.Format
---@field groups chalk.prometheus.Group[]
---@field at integer index of the current or next group
---@field range chalk.Range? the current group's range
---@field names ffi.cdata*? the current group's chalk_family
---@field next_series integer? the next series of the range
---@field rest string? text that did not fit into a buffer and comes next
---@field rest_at integer position in it from which the next chunk is taken
---@field finished boolean whether all text was written, except `rest`
local Walk = {}
Walk.__index = Walk

-- Begins a group. Returns its header, or its whole text if the metric has several versions.
function Walk:enter(group)
  if #group.ranges > 1 then
    self.at = self.at + 1
    return merged(self.exporter, self.view, group, self.format)
  end
  local range = group.ranges[1]
  local own = family_of(self.exporter, range, group.name, self.format)
  self.range, self.names, self.anchor, self.next_series = range, own.names, own, range.first
  return own.header
end

function Walk:set_aside(text)
  self.rest, self.rest_at = text ~= "" and text or nil, 1
end

function Walk:take_rest()
  local chunk = self.rest:sub(self.rest_at, self.rest_at + CHUNK - 1)
  self.rest_at = self.rest_at + CHUNK
  if self.rest_at > #self.rest then self.rest = nil end
  return chunk
end

-- Writes lines into the buffer from `used` on. Returns how many of its bytes are used then, and whether it has space
-- for more.
function Walk:render(used)
  local exporter, range = self.exporter, self.range
  local position = exporter.position
  position[0] = self.next_series
  local n = C.chalk_snapshot_render(
    self.view.snapshot,
    self.names,
    position,
    range.last,
    exporter.buffer + used,
    CHUNK - used
  )
  self.next_series = position[0]
  if self.next_series == range.last then
    self.range, self.at = nil, self.at + 1
  elseif n == 0 and used == 0 then -- the lines of one series are larger than a chunk
    self:set_aside(render_alone(self.view, self.names, self.next_series, self.next_series + 1))
    self.next_series = self.next_series + 1
  end
  return used + tonumber(n), self.range == nil
end

-- Puts text into the buffer, or sets it aside if it does not fit. Returns the same as `render`.
function Walk:put(used, text)
  if #text > CHUNK - used then
    self:set_aside(text)
    return used, false
  end
  ffi.copy(self.exporter.buffer + used, text, #text)
  return used + #text, true
end

-- Writes the next header, lines or end mark. Returns the same as `render`.
function Walk:step(used)
  if self.range then return self:render(used) end
  local group = self.groups[self.at]
  if group then return self:put(used, self:enter(group)) end
  self.finished = true
  return self:put(used, self.format == "openmetrics" and "# EOF\n" or "")
end

-- Returns the next chunk, or nil at the end.
function Walk:next()
  while self.rest or not self.finished do
    if self.rest then return self:take_rest() end
    local used, more = 0, true
    while more and not self.finished do
      used, more = self:step(used)
    end
    if used > 0 then return ffi.string(self.exporter.buffer, used) end
  end
end

--- Writes the exposition in chunks of at most 64 KiB. A chunk is made when the returned function is called.
---@param view chalk.View the caller must not free it before the end
---@param format chalk.prometheus.Format? ("prometheus")
---@return fun(): string? next returns the next chunk, and nil at the end
function Exporter:chunks(view, format)
  local walk = setmetatable({
    exporter = self,
    view = view,
    format = format or "prometheus",
    groups = groups_of(self, view),
    at = 1,
    finished = false,
  }, Walk)
  return function() return walk:next() end
end

--- Returns the whole exposition.
---@param view chalk.View
---@param format chalk.prometheus.Format? ("prometheus")
---@return string
function Exporter:text(view, format)
  local chunks = {}
  for chunk in self:chunks(view, format) do
    chunks[#chunks + 1] = chunk
  end
  return table.concat(chunks)
end

--- Returns the function that answers requests.
---@param take_view fun(): chalk.View?, string? called once per scrape
---@return fun(request: chalk.http.Request): chalk.http.Response
function Exporter:handler(take_view)
  return function(request)
    if request.path ~= self.path then return response.text(404, "not found: metrics are at " .. self.path) end
    local view, message = take_view()
    if not view then return response.text(503, message or "no metrics can be read now") end
    local format, freed = accept.format_of(request.headers.accept), false
    return {
      status = 200,
      headers = { ["Content-Type"] = accept.content_type[format], Vary = "Accept" },
      body = self:chunks(view, format),
      done = function()
        if not freed then
          freed = true
          views.free(view)
        end
      end,
      gzip = true,
    }
  end
end

return M
