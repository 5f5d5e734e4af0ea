--- Builds a dashboard from definitions. It has a row for each namespace, with these panels for each metric:
--
--     count      the rate per second, by its tags
--     gauge      the value, by its tags
--     histogram  a heatmap of its bounds, and a panel of quantiles

local grafana = require "chalk.cli.grafana"
local kinds = require "chalk.define.kinds"
local naming = require "chalk.define.naming"

local M = {}

local FILTER = '{job=~"$job",instance=~"$instance"}'

local UNITS = {
  seconds = "s",
  milliseconds = "ms",
  bytes = "bytes",
  ratio = "percentunit",
  celsius = "celsius",
  volts = "volt",
  amperes = "amp",
  joules = "joule",
  meters = "lengthm",
  percent = "percent",
}
local RATES = { bytes = "Bps", seconds = "percentunit" }

-- A scrape sets the labels `job` and `instance` itself, and renames exported labels of these names.
local RENAMED = { job = "exported_job", instance = "exported_instance" }

local function labels_of(def, first)
  local labels = { first }
  for _, tag in ipairs(def.tags) do
    local label = naming.label(tag.key)
    labels[#labels + 1] = RENAMED[label] or label
  end
  return labels
end

local function by(labels) return #labels > 0 and (" by (%s)"):format(table.concat(labels, ", ")) or "" end

local function legend(labels, fallback)
  if #labels == 0 then return fallback end
  local parts = {}
  for i, label in ipairs(labels) do
    parts[i] = ("{{%s}}"):format(label)
  end
  return table.concat(parts, " ")
end

local function rate(name) return ("rate(%s%s[$__rate_interval])"):format(name, FILTER) end

local function description(def) return def.description ~= "" and def.description or nil end

-- By what a kind of metric holds.
local PANELS = {}

function PANELS.total(def, family)
  local labels = labels_of(def)
  return grafana.lines {
    title = def.name .. ", per second",
    description = description(def),
    unit = def.unit and (RATES[def.unit] or "short") or "cps",
    min = 0,
    { ("sum%s (%s)"):format(by(labels), rate(family .. "_total")), legend = legend(labels, def.name) },
  }
end

function PANELS.value(def, family)
  local labels = labels_of(def, "instance")
  return grafana.lines {
    title = def.name,
    description = description(def),
    unit = UNITS[def.unit],
    { family .. FILTER, legend = legend(labels) },
  }
end

local QUANTILES = { { 0.5, "p50" }, { 0.9, "p90" }, { 0.99, "p99" } }

function PANELS.sketch(def, family)
  local heatmap = grafana.heatmap {
    title = def.name,
    description = description(def),
    unit = UNITS[def.unit],
    { ("sum by (le) (increase(%s_bucket%s[$__rate_interval]))"):format(family, FILTER), legend = "{{le}}" },
  }
  local quantiles = { title = def.name .. ", quantiles", description = description(def), unit = UNITS[def.unit] }
  for i, quantile in ipairs(QUANTILES) do
    local expression = ("histogram_quantile(%g, sum by (le) (%s))"):format(quantile[1], rate(family .. "_bucket"))
    quantiles[i] = { expression, legend = quantile[2] }
  end
  return heatmap, grafana.lines(quantiles)
end

-- Returns the rows in the order of each namespace's first metric. Metrics without a namespace come first.
local function rows_of(definitions, title)
  local rows, by_name = {}, {}
  for _, def in ipairs(definitions) do
    local name = #def.namespace > 0 and table.concat(def.namespace, ".") or ""
    if not by_name[name] then
      by_name[name] = { title = name ~= "" and name or title }
      table.insert(rows, name == "" and 1 or #rows + 1, by_name[name])
    end
    table.insert(by_name[name], def)
  end
  return rows
end

local function panels_of(row, namespace)
  local panels = { title = row.title }
  for _, def in ipairs(row) do
    local family = naming.family(def.namespace, def.name, def.type, def.unit, namespace)
    for _, panel in ipairs { PANELS[kinds.of[def.type].holds](def, family) } do
      panels[#panels + 1] = panel
    end
  end
  return panels
end

local function uid(title)
  local word = title:lower():gsub("[^%w]+", "-"):gsub("^%-+", ""):gsub("%-+$", "")
  return ("chalk-" .. (word ~= "" and word or "metrics")):sub(1, 40)
end

local function any_sample(definitions, namespace)
  local def = definitions[1]
  local family = naming.family(def.namespace, def.name, def.type, def.unit, namespace)
  local samples = naming.samples(family, def.type)
  return samples[#samples]
end

--- Returns the dashboard of these definitions.
---@param definitions chalk.Definition[] at least one
---@param options { title: string, namespace: string? } the namespace is that of the Prometheus exporter
---@return table dashboard
function M.generate(definitions, options)
  local rows = {}
  for i, row in ipairs(rows_of(definitions, options.title)) do
    rows[i] = panels_of(row, options.namespace)
  end
  local sample = any_sample(definitions, options.namespace)
  return grafana.dashboard {
    uid = uid(options.title),
    title = options.title,
    tags = { "chalk" },
    variables = {
      grafana.label_values("job", "job", sample, true),
      grafana.label_values("instance", "instance", sample .. '{job=~"$job"}', true),
    },
    rows = rows,
  }
end

return M
