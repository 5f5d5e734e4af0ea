--- The kinds of metrics: all that the Lua side knows of the difference between them, in one place.
--
-- A kind has verbs, holds something, and has names in Prometheus. What a metric holds decides which fields an exporter
-- reads and how a format shows it:
--
--     total     a number that grows: `total`, and `delta` since the exporter's last success
--     value     a number that is set: `value`
--     sketch    a distribution: `sketch`, `delta_sketch`, and `les`, the counts up to each bound
--
-- What a verb does is code, in chalk.record.series: handles are one metatype, whose functions LuaJIT compiles.

local M = {}

---@class chalk.Kind
---@field name string as definitions have it
---@field constant string its number in chalk.h
---@field verbs string[] of its series
---@field holds "total"|"value"|"sketch"
---@field combines boolean whether `across` says how values of several processes become one; without it they add up
---@field has_bounds boolean whether its values are counted up to bounds, which `buckets` names
---@field prometheus chalk.PrometheusKind

---@class chalk.PrometheusKind
---@field type string of the TYPE line
---@field suffix string what the name of a family has in the text format 0.0.4, and not in OpenMetrics
---@field samples string[] what the names of its samples have behind the family's, in the order of an exposition
---@field held string[] the same of all names that a family keeps others from using: OpenMetrics reserves `_created` of
--- some types, and a parser refuses another family of that name

---@type table<string, chalk.Kind>
M.of = {
  count = {
    name = "count",
    constant = "CHALK_COUNT",
    verbs = { "inc", "record" },
    holds = "total",
    combines = false,
    has_bounds = false,
    prometheus = {
      type = "counter",
      suffix = "_total",
      samples = { "_total" },
      held = { "", "_total", "_created" },
    },
  },
  gauge = {
    name = "gauge",
    constant = "CHALK_GAUGE",
    verbs = { "set", "inc", "dec", "record" },
    holds = "value",
    combines = true,
    has_bounds = false,
    prometheus = { type = "gauge", suffix = "", samples = { "" }, held = { "" } },
  },
  histogram = {
    name = "histogram",
    constant = "CHALK_HISTOGRAM",
    verbs = { "record", "time", "start" },
    holds = "sketch",
    combines = false,
    has_bounds = true,
    prometheus = {
      type = "histogram",
      suffix = "",
      samples = { "_bucket", "_sum", "_count" },
      held = { "", "_bucket", "_sum", "_count", "_created" },
    },
  },
}

--- The names of all kinds, in the order of messages.
---@type string[]
M.names = { "count", "gauge", "histogram" }

local function all_verbs()
  local verbs, seen = {}, {}
  for _, name in ipairs(M.names) do
    for _, verb in ipairs(M.of[name].verbs) do
      if not seen[verb] then verbs[#verbs + 1] = verb end
      seen[verb] = true
    end
  end
  return verbs
end

--- Every verb that a kind has.
---@type string[]
M.verbs = all_verbs()

return M
