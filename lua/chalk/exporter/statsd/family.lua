-- The description of a metric from which the core makes the lines of its series: name, keys of tags, constant tags, and
-- how its histograms are sent.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local lists = require "chalk.base.lists"
local names = require "chalk.exporter.statsd.names"
local numbers = require "chalk.base.numbers"
local rules = require "chalk.exporter.statsd.rules"

local ffi, C = core.ffi, core.C

local M = {}

local TYPES = { distribution = "d", histogram = "h", timing = "ms" }
local MODES = {
  percentiles = C.CHALK_STATSD_PERCENTILES,
  buckets = C.CHALK_STATSD_BUCKETS,
  raw = C.CHALK_STATSD_RAW,
}
-- Aggregates in the order of their lines.
local AGGREGATES = {
  { "count", C.CHALK_STATSD_COUNT },
  { "sum", C.CHALK_STATSD_SUM },
  { "avg", C.CHALK_STATSD_AVG },
  { "min", C.CHALK_STATSD_MIN },
  { "max", C.CHALK_STATSD_MAX },
}
local MILLISECONDS = {
  nanoseconds = 1e-6,
  microseconds = 1e-3,
  milliseconds = 1,
  seconds = 1e3,
  minutes = 6e4,
  hours = 3.6e6,
  days = 8.64e7,
}
local INF = "Inf"

-- Returns for each bound that is sent, +Inf last, its tag, its suffix, and its index among the counted bounds.
local function bounds_of(les, wanted)
  local set, texts, tags, suffixes, indexes = wanted and lists.set(wanted), {}, {}, {}, {}
  for i, bound in ipairs(les) do
    if not set or set[bound] then
      texts[#texts + 1] = numbers.text(bound)
      indexes[#indexes + 1] = i - 1
    end
  end
  texts[#texts + 1], indexes[#indexes + 1] = INF, #les
  for i, text in ipairs(texts) do
    tags[i] = "le:" .. text
    suffixes[i] = ".le_" .. text:gsub("+", ""):gsub("%W", "_")
  end
  return tags, suffixes, indexes
end

-- Returns the gauges of a histogram in the mode percentiles, and their suffixes: first aggregates, then quantiles.
local function gauges_of(aggregates, quantiles)
  local suffixes, gauges, wanted = {}, {}, {}
  local function add(suffix, what, quantile)
    suffixes[#suffixes + 1] = suffix
    gauges[#suffixes] = { suffix = suffix, size = #suffix, what = what, quantile = quantile }
  end
  for _, name in ipairs(aggregates) do
    wanted[name] = true
  end
  for _, aggregate in ipairs(AGGREGATES) do
    if wanted[aggregate[1]] then add("." .. aggregate[1], aggregate[2]) end
  end
  for _, q in ipairs(quantiles) do
    add("." .. names.quantile(q), C.CHALK_STATSD_QUANTILE, q)
  end
  return ffi.new("chalk_statsd_gauge[?]", math.max(#gauges, 1), gauges), suffixes
end

-- Returns the name of a metric. A histogram's name is cut so that every suffix fits. The longest aggregate, ".count",
-- always counts as a suffix, so that the name does not depend on which aggregates are wanted.
local function name_of(options, definition, suffixes)
  local longest = ".count"
  for _, suffix in ipairs(suffixes) do
    if #suffix > #longest then longest = suffix end
  end
  local namespace = not definition.own and options.namespace or nil
  local suffix = kinds.of[definition.type].holds == "sketch" and longest or ""
  return names.metric(namespace, definition.namespace, definition.name, suffix):sub(1, -#suffix - 1)
end

---@class chalk.statsd.Family
---@field c ffi.cdata* chalk_statsd_family
---@field texts table keeps the memory alive to which `c` points

-- How a metric's histograms are sent: as the rule that matches the metric says, or else the exporter's options.
local function sending_of(options, definition)
  local rule = rules.of(options.per_metric, definition.id_name) or {}
  local mode = rule.histograms or options.histograms
  return {
    mode = mode,
    type = mode == "raw" and options.raw_type or mode,
    quantiles = rule.quantiles or options.quantiles,
    aggregates = rule.aggregates or options.aggregates,
    -- The option does not apply to histograms of chalk itself, because they define their own bounds.
    bounds = rule.buckets or not definition.own and options.buckets or nil,
  }
end

local function set_labels(c, texts, definition, in_name)
  local labels, most = {}, {}
  for i, tag in ipairs(definition.tags) do
    labels[i] = names.key(tag.key)
    most[i] = in_name and names.LONGEST_VALUE or names.value_length(labels[i])
  end
  texts.labels, texts.labels_of = core.strings(labels), labels
  texts.value_most = ffi.new("uint32_t[?]", math.max(#most, 1), most)
  c.labels, c.value_most, c.n_labels, c.absent = texts.labels, texts.value_most, #labels, names.ABSENT
end

-- Sets gauges and bounds of a histogram. Returns the suffixes of its names in its mode.
local function set_histogram(c, texts, sending, les)
  local tags, suffixes, indexes = bounds_of(les, sending.bounds)
  local gauges, gauge_suffixes = gauges_of(sending.aggregates, sending.quantiles)
  texts.gauges, texts.gauge_suffixes = gauges, gauge_suffixes
  texts.le_tags, texts.le_tags_of = core.strings(tags), tags
  texts.le_suffixes, texts.le_suffixes_of = core.strings(suffixes), suffixes
  texts.le_index = ffi.new("uint32_t[?]", #indexes, indexes)
  c.gauges, c.n_gauges = gauges, #gauge_suffixes
  c.le_tags, c.le_suffixes, c.le_index, c.n_le = texts.le_tags, texts.le_suffixes, texts.le_index, #tags
  return sending.mode == "buckets" and suffixes or gauge_suffixes
end

-- Returns the constant tags of a metric as text, without those that the metric has itself.
local function constants_of(tags, definition)
  local own = {}
  for _, tag in ipairs(definition.tags) do
    own[tag.key] = true
  end
  return table.concat(names.tags(tags, own), ",")
end

--- Describes a metric.
---@param options chalk.statsd.Resolved
---@param tags table<string, any> the constant tags
---@param tail string the fields at the end of every line
---@param range chalk.Range
---@return chalk.statsd.Family
function M.new(options, tags, tail, range)
  local definition, c, texts = range.definition, ffi.new "chalk_statsd_family", {}
  local sending, has_tags = sending_of(options, definition), options.dialect == "dogstatsd"
  local suffixes = set_histogram(c, texts, sending, range.les or {})
  set_labels(c, texts, definition, not has_tags)
  texts.name, texts.tags = name_of(options, definition, suffixes), constants_of(tags, definition)
  texts.tail, texts.type = tail, TYPES[sending.type] or "g"
  c.name, c.tags, c.tail, c.type, c.timestamp = texts.name, texts.tags, texts.tail, texts.type, ""
  c.factor = sending.type == "timing" and MILLISECONDS[definition.unit] or 1
  c.max_weight = has_tags and options.max_weight or 1
  c.mode = MODES[sending.mode] or C.CHALK_STATSD_VALUES
  c.pack, c.tags_in_name = has_tags, not has_tags
  c.relative = options.relative_gauges
  c.changed_only = options.gauges == "changed"
  return { c = c, texts = texts }
end

return M
