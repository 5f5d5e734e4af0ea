--- A private segment for specs of what reads one: metrics from a document, values by name, and views.

local core = require "chalk.core"
local core_metric = require "chalk.client.core_metric"
local schema = require "chalk.define.schema"
local view = require "chalk.read.view"

local ffi, C = core.ffi, core.C

local M = {}

local DEFAULT_LES = { 0.1, 1, 10 }

local Bed = {}
Bed.__index = Bed

function Bed:define(def)
  local number = assert(core_metric.define(self.writer, def, self.les))
  self.metrics[def.id_name] = number
  self.tags[number] = #def.tags
end

--- Defines the metrics of a document; a later one may hold other versions of them.
function Bed:load(document, own)
  local registry = schema.new()
  local defs, errors
  if own then
    defs, errors = registry:own(document)
  else
    defs, errors = registry:add(document)
  end
  if not defs then error(table.concat(errors, "\n"), 2) end
  for _, def in ipairs(defs) do
    self:define(def)
  end
end

--- Binds the series of a metric with these tag values; "" is an absent one. The handle is good until the next call.
function Bed:bind(name, ...)
  local metric = self.metrics[name]
  local n = self.tags[metric]
  local values, sizes, anchors = ffi.new("const char *[?]", n + 1), ffi.new("size_t[?]", n + 1), { ... }
  for i = 1, n do
    values[i - 1], sizes[i - 1] = anchors[i], #anchors[i]
  end
  assert(C.chalk_bind(self.writer, metric, values, sizes) >= 0)
  return C.chalk_scratch(self.writer)
end

function Bed:inc(n, name, ...) assert(C.chalk_add(self:bind(name, ...), n) == 0) end

function Bed:set(v, name, ...) assert(C.chalk_set(self:bind(name, ...), v) == 0) end

function Bed:record(v, name, ...) assert(C.chalk_record(self:bind(name, ...), v) == 0) end

--- Drops all series of a metric.
function Bed:drop(name) C.chalk_clear(self.writer, self.metrics[name]) end

function Bed:view() return assert(view.take(self.segment)) end

function Bed:close()
  C.chalk_writer_close(self.writer)
  C.chalk_segment_close(self.segment)
end

--- A segment with the metrics of a document, and a writer of its own.
function M.open(document)
  local segment = C.chalk_segment_open(nil, nil, core.message)
  assert(segment ~= nil, core.said())
  local writer = C.chalk_writer_open(segment, core.message)
  assert(writer ~= nil, core.said())
  local bed = setmetatable({ segment = segment, writer = writer, metrics = {}, tags = {}, les = DEFAULT_LES }, Bed)
  bed:load(document)
  return bed
end

return M
