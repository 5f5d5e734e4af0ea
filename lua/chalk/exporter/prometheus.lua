--- The Prometheus exporter: a view as exposition text, whole or piece by piece.
--
-- For each scrape a *plan* is made: the metrics that have entries, as blocks, one a family, in the order of their
-- definition. A piece is what fits into one buffer: headers and sample lines, which the C core writes into it. So a
-- server holds one piece of a scrape at a time, however long it is, and other requests go on between two.
--
-- What a block needs apart from its entries does not change between scrapes and is kept, by definition.

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

local PIECE = 65536

M.resolve = options_of.resolve
M.formats = { prometheus = true, openmetrics = true }

---@class chalk.prometheus.Options
---@field namespace string? put before every name
---@field listen string? where to serve: "127.0.0.1:9464", "unix:///run/metrics.sock"
---@field path string? what to serve at, "/metrics"
---@field buckets number[]? the bounds to show of histograms that have none of their own; of those that are counted
---@field name string?
---@field global_tags table<string, string|number|boolean>? constant labels; a metric's own tag of that name wins

---@class chalk.prometheus.Exporter
---@field deltas boolean
---@field path string
local Exporter = {}
Exporter.__index = Exporter

local function by_definition() return setmetatable({}, { __mode = "k" }) end

--- A new exporter. Raises when the options are wrong.
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
    kept = {}, -- the last plan: with its definitions it keeps what is known of them from being collected
    families = { prometheus = by_definition(), openmetrics = by_definition() },
    buffer = ffi.new("char[?]", PIECE),
    position = ffi.new "uint32_t[1]",
  }, Exporter)
end

--- Nothing is sent on a flush: a scrape asks for totals.
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

-- Metrics with one definition may still count different bounds: the default ones are not part of it.
local function family_of(self, range, name, format)
  local kept, def, les = self.families[format], range.definition, range.les or NO_LES
  local known = kept[def]
  if not known or not lists.is_same(known.les, les) then
    known = { les = les, family = family.new(def, name, bounds_of(self, range), self.constants, format) }
    kept[def] = known
  end
  return known.family
end

---@class chalk.prometheus.Block
---@field name string
---@field definition chalk.Definition of the newest version
---@field ranges chalk.Range[] several when versions of the metric are in use at once

-- The block that holds a name of this family already.
local function holder_of(held, names)
  for _, name in ipairs(names) do
    if held[name] then return held[name] end
  end
end

-- Different metrics may meet under one name only where VMs with different definitions share a segment. The first
-- keeps it: two under one TYPE line would be worse than one.
local function place(blocks, held, range, name)
  local def = range.definition
  local names = naming.held(name, def.type)
  local block = holder_of(held, names)
  if not block then
    block = { name = name, definition = def, ranges = {} }
    blocks[#blocks + 1] = block
    for _, taken in ipairs(names) do
      held[taken] = block
    end
  elseif block.name ~= name or block.definition.type ~= def.type or block.definition.id_name ~= def.id_name then
    return
  end
  block.definition = def
  block.ranges[#block.ranges + 1] = range
end

local function plan_of(self, view)
  local blocks, held = {}, {}
  self.kept = blocks
  for _, range in ipairs(view.ranges) do
    if range.first < range.last then place(blocks, held, range, family.name(range.definition, self.namespace)) end
  end
  return blocks
end

-- Lines of entries first to last - 1, as a string, in a buffer as large as it takes.
local function render_alone(view, names, first, last)
  local size, position = PIECE, ffi.new("uint32_t[1]", first)
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

-- Bounds that all versions count, with their places in each.
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

local function merged(self, view, block, format)
  local texts, header = {}, nil
  local bounds = common_bounds(self, block.ranges)
  for i, range in ipairs(block.ranges) do
    local shape = family.new(range.definition, block.name, bounds[i], self.constants, format)
    texts[i], header = render_alone(view, shape.names, range.first, range.last), shape.header
  end
  return header .. merge.lines(texts, block.definition, numbers.text)
end

---@class chalk.prometheus.Walk the way through one exposition
---@field exporter chalk.prometheus.Exporter
---@field view chalk.View
---@field format chalk.prometheus.Format
---@field blocks chalk.prometheus.Block[]
---@field at integer the block that is next or under way
---@field range chalk.Range? the one that is under way
---@field names ffi.cdata*? and its names
---@field entry integer? and the entry that is next
---@field rest string? text that is ready, to be given out before all else
---@field rest_at integer what of it comes next
---@field finished boolean
local Walk = {}
Walk.__index = Walk

function Walk:enter(block)
  if #block.ranges > 1 then
    self.at = self.at + 1
    return merged(self.exporter, self.view, block, self.format)
  end
  local range = block.ranges[1]
  local shape = family_of(self.exporter, range, block.name, self.format)
  self.range, self.names, self.anchor, self.entry = range, shape.names, shape, range.first
  return shape.header
end

function Walk:set_aside(text)
  self.rest, self.rest_at = text ~= "" and text or nil, 1
end

function Walk:take_rest()
  local piece = self.rest:sub(self.rest_at, self.rest_at + PIECE - 1)
  self.rest_at = self.rest_at + PIECE
  if self.rest_at > #self.rest then self.rest = nil end
  return piece
end

-- Renders into the buffer from `used` on. Returns how much of it is used then, and whether there is room for more.
function Walk:render(used)
  local exporter, range = self.exporter, self.range
  local position = exporter.position
  position[0] = self.entry
  local n = C.chalk_snapshot_render(
    self.view.snapshot,
    self.names,
    position,
    range.last,
    exporter.buffer + used,
    PIECE - used
  )
  self.entry = position[0]
  if self.entry == range.last then
    self.range, self.at = nil, self.at + 1
  elseif n == 0 and used == 0 then -- one entry is larger than a piece
    self:set_aside(render_alone(self.view, self.names, self.entry, self.entry + 1))
    self.entry = self.entry + 1
  end
  return used + tonumber(n), self.range == nil
end

-- Puts text into the buffer, or aside when it does not fit.
function Walk:put(used, text)
  if #text > PIECE - used then
    self:set_aside(text)
    return used, false
  end
  ffi.copy(self.exporter.buffer + used, text, #text)
  return used + #text, true
end

function Walk:step(used)
  if self.range then return self:render(used) end
  local block = self.blocks[self.at]
  if block then return self:put(used, self:enter(block)) end
  self.finished = true
  return self:put(used, self.format == "openmetrics" and "# EOF\n" or "")
end

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

--- The exposition in pieces of at most 64 KiB, each made when it is asked for.
---@param view chalk.View kept alive until the end
---@param format chalk.prometheus.Format? "prometheus" when left out
---@return fun(): string? next nil at the end
function Exporter:pieces(view, format)
  local walk = setmetatable({
    exporter = self,
    view = view,
    format = format or "prometheus",
    blocks = plan_of(self, view),
    at = 1,
    finished = false,
  }, Walk)
  return function() return walk:next() end
end

--- The whole exposition.
---@param view chalk.View
---@param format chalk.prometheus.Format? "prometheus" when left out
---@return string
function Exporter:text(view, format)
  local pieces = {}
  for piece in self:pieces(view, format) do
    pieces[#pieces + 1] = piece
  end
  return table.concat(pieces)
end

--- What answers requests for the HTTP server.
---@param take_view fun(): chalk.View?, string? called once a scrape
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
      body = self:pieces(view, format),
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
