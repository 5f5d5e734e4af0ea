-- The description of a metric that clients receive, as the core takes it: unit, description, labels, constant labels,
-- and the name, which is that of the metric's family in Prometheus output.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local lists = require "chalk.base.lists"
local naming = require "chalk.define.naming"
local view = require "chalk.read.view"

local ffi, C = core.ffi, core.C

local M = {}

-- Returns alternating names and values of the constant labels, without those that are labels of the metric itself.
local function constants_of(global_tags, own)
  local constants = {}
  for _, key in ipairs(lists.names(global_tags or {})) do
    local label = naming.label(key)
    if not own[label] then
      constants[#constants + 1] = label
      constants[#constants + 1] = tostring(global_tags[key])
    end
  end
  return constants
end

---@class chalk.stream.Metric
---@field c ffi.cdata* chalk_stream_metric
---@field texts table keeps the memory alive to which `c` points

--- Describes the metric with this number. Returns nil if there is no such metric, or if it is one of chalk itself.
---@param segment ffi.cdata*
---@param number integer
---@param options chalk.stream.Options
---@return chalk.stream.Metric?
function M.new(segment, number, options)
  local d = view.definition(segment, number)
  if not d or d.own then return nil end
  local labels, own = {}, {}
  for i, tag in ipairs(d.tags) do
    labels[i] = naming.label(tag.key)
    own[labels[i]] = true
  end
  local constants = constants_of(options.global_tags, own)
  local texts = {
    name = naming.family(d.namespace, d.name, d.type, d.unit, options.namespace),
    unit = d.unit or "",
    description = d.description or "",
    labels = core.strings(labels),
    labels_of = labels,
    constants = core.strings(constants),
    constants_of = constants,
  }
  local c = ffi.new "chalk_stream_metric"
  c.name, c.unit, c.description = texts.name, texts.unit, texts.description
  c.labels, c.n_labels = texts.labels, #labels
  c.constants, c.n_constants = texts.constants, #constants / 2
  c.kind = C[kinds.of[d.type].constant]
  return { c = c, texts = texts }
end

return M
