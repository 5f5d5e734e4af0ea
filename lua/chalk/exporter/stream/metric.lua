-- What is told of a metric: the name that the Prometheus exporter gives its family, unit, description, its labels and
-- the constant ones, as the core takes it.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local lists = require "chalk.base.lists"
local naming = require "chalk.define.naming"
local view = require "chalk.read.view"

local ffi, C = core.ffi, core.C

local M = {}

-- Names and values by turns, of those that the metric has no tag for.
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
---@field texts table what it points to

--- A metric by its number; nil when there is none, or one of chalk's own.
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
