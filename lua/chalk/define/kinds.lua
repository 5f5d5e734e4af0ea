--- The table of metric kinds: everything that the Lua side knows about the difference between counts, gauges and
--- histograms, except what their verbs do.
--
-- `holds` says what a series of the kind is, and so which fields an exporter reads and how a format shows it:
--
--     total     a number that grows: `total`, and `delta` since the exporter's last success
--     value     a number that is set: `value`
--     sketch    a distribution: `sketch`, `delta_sketch`, and `les`, the counts up to each bound
--
-- The verbs themselves are in chalk.record.series: all handles share one metatype, whose functions LuaJIT compiles.

local M = {}

---@class chalk.Kind
---@field name string the `type` of a definition
---@field constant string the name of its number in chalk.h
---@field verbs string[] the verbs of its series
---@field holds "total"|"value"|"sketch"
---@field combines boolean whether `across` says how values of VMs are combined; otherwise they add up
---@field has_bounds boolean whether its values are counted up to each of the bounds in `buckets`
---@field prometheus chalk.PrometheusKind

---@class chalk.PrometheusKind
---@field type string the type in a TYPE line
---@field suffix string a suffix of the family's name that the text format 0.0.4 has and OpenMetrics does not
---@field samples string[] the suffixes of the family's samples, in the order of an exposition
---@field held string[] the suffixes of all names that no other family may have. OpenMetrics reserves `_created` for
--- some types: a parser refuses another family of that name

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

--- The names of all kinds, in the order of their numbers in chalk.h, in which messages list them too.
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

--- All verbs of all kinds, each once.
---@type string[]
M.verbs = all_verbs()

return M
