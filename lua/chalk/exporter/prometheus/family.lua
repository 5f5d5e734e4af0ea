--- One metric as a family of the exposition: its header, and the names with which the C core writes its sample lines.
--
--     # HELP http_requests_total Requests answered.          text 0.0.4
--     # TYPE http_requests_total counter
--     http_requests_total{env="prod",status="200"} 7
--
--     # TYPE http_requests counter                           OpenMetrics 1.0
--     # HELP http_requests Requests answered.
--     http_requests_total{env="prod",status="200"} 7
--
-- Sample lines are the same in both formats, so that a series keeps its identity whichever format a scraper asks for.
-- The one exception is a rule of OpenMetrics: there a histogram with negative bounds has no sum and no count.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local naming = require "chalk.define.naming"
local numbers = require "chalk.base.numbers"

local ffi = core.ffi

local M = {}

local LABEL_ESCAPES = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }

---@class chalk.prometheus.Constant a label of every line
---@field label string
---@field text string e.g. `env="prod"`

---@class chalk.prometheus.Bound a bound that is shown
---@field value number
---@field index integer its index among the bounds that the metric counts, from 0

---@class chalk.prometheus.Family
---@field header string
---@field names ffi.cdata* the chalk_family
---@field anchors table keeps the memory alive to which its pointers point

--- Returns the family name of a metric. Metrics of chalk itself do not get the exporter's namespace.
---@param def chalk.Definition
---@param namespace string?
---@return string
function M.name(def, namespace)
  return naming.family(def.namespace, def.name, def.type, def.unit, not def.own and namespace or nil)
end

local function constant_value(value) return type(value) == "number" and numbers.text(value) or tostring(value) end

--- Returns global tags as constant labels, sorted by label.
---@param tags table<string, string|number|boolean>?
---@return chalk.prometheus.Constant[]
function M.constants(tags)
  local constants = {}
  for name, value in pairs(tags or {}) do
    local label, text = naming.label(name), constant_value(value)
    if text ~= "" then
      text = ('%s="%s"'):format(label, (text:gsub('[\\"\n]', LABEL_ESCAPES)))
      constants[#constants + 1] = { label = label, text = text }
    end
  end
  table.sort(constants, function(a, b) return a.label < b.label end)
  return constants
end

local function help_text(text, format)
  return (text:gsub(format == "openmetrics" and '[\\"\n]' or "[\\\n]", LABEL_ESCAPES))
end

local function header_of(def, name, format)
  local open, shown = format == "openmetrics", kinds.of[def.type].prometheus
  if not open then name = name .. shown.suffix end
  local help = def.description ~= "" and ("# HELP %s %s\n"):format(name, help_text(def.description, format)) or ""
  local kind = ("# TYPE %s %s\n"):format(name, shown.type)
  if not open then return help .. kind end
  local unit = def.unit and def.unit ~= "" and ("# UNIT %s %s\n"):format(name, def.unit) or ""
  return kind .. unit .. help
end

-- A metric's own tag wins over a constant label of the same name.
local function constant_text(constants, labels)
  local own, texts = {}, {}
  for _, label in ipairs(labels) do
    own[label] = true
  end
  for _, constant in ipairs(constants) do
    if not own[constant.label] then texts[#texts + 1] = constant.text end
  end
  return table.concat(texts, ",")
end

local function labels_of(def)
  local labels = {}
  for i, tag in ipairs(def.tags) do
    labels[i] = naming.label(tag.key)
  end
  return labels
end

local function set_samples(names, def, samples, sums)
  if kinds.of[def.type].holds ~= "sketch" then
    names.sample = samples[1]
    return
  end
  names.bucket = samples[1]
  if sums then
    names.sum, names.count = samples[2], samples[3]
  end
end

local function set_bounds(names, bounds, anchors)
  local texts, indexes = {}, ffi.new("uint32_t[?]", math.max(#bounds, 1))
  for i, bound in ipairs(bounds) do
    texts[i], indexes[i - 1] = numbers.bound(bound.value), bound.index
  end
  anchors.le_texts, anchors.le, anchors.indexes = texts, core.strings(texts), indexes
  names.le, names.le_index, names.n_le = anchors.le, indexes, #bounds
end

--- Makes the family of a metric in one format.
---@param def chalk.Definition
---@param name string as name() returns it
---@param bounds chalk.prometheus.Bound[] the bounds of a histogram that are shown
---@param constants chalk.prometheus.Constant[]
---@param format chalk.prometheus.Format
---@return chalk.prometheus.Family
function M.new(def, name, bounds, constants, format)
  local names = ffi.new "chalk_family"
  local labels, samples = labels_of(def), naming.samples(name, def.type)
  local anchors = { labels = labels, samples = samples, pointers = core.strings(labels) }
  anchors.constant = constant_text(constants, labels)
  names.constant, names.labels, names.n_labels = anchors.constant, anchors.pointers, #labels
  local negative = bounds[1] and bounds[1].value < 0
  set_samples(names, def, samples, not (negative and format == "openmetrics"))
  set_bounds(names, bounds, anchors)
  return { header = header_of(def, name, format), names = names, anchors = anchors }
end

return M
