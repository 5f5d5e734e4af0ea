--- Builds dashboards in Grafana's JSON model (schema 36: Grafana 9 and later).
--
-- A dashboard is a list of rows. A row is a title and panels, which stand side by side on a grid of 24 columns. Every
-- panel queries the data source that the variable `datasource` names, so a file works in any Grafana.

local pretty = require "chalk.cli.pretty"

local M = {}

local WIDTH = 24
local DATASOURCE = { type = "prometheus", uid = "${datasource}" }

---@class chalk.grafana.Query
---@field [1] string expression
---@field legend string?
---@field instant boolean?

local REFS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

local function targets(queries, format)
  local list = pretty.array {}
  for i, query in ipairs(queries) do
    list[i] = {
      datasource = DATASOURCE,
      editorMode = "code",
      expr = query[1],
      format = query.format or format,
      instant = query.instant or false,
      range = not query.instant,
      legendFormat = query.legend or "__auto",
      refId = REFS:sub(i, i),
    }
  end
  return list
end

local function panel(kind, options, defaults, view)
  return {
    type = kind,
    title = options.title,
    description = options.description,
    datasource = DATASOURCE,
    gridPos = { w = options.w or 12, h = options.h or 8 },
    fieldConfig = { defaults = defaults, overrides = pretty.array {} },
    options = view,
    targets = targets(options, options.format or "time_series"),
  }
end

-- Returns thresholds from a list of { value, colour }. The first one's value is left out, because Grafana wants the
-- lowest colour without a value.
local function thresholds(steps)
  local list = {}
  for i, step in ipairs(steps) do
    list[i] = { value = i > 1 and step[1] or nil, color = step[2] }
  end
  return { mode = "absolute", steps = list }
end

--- Returns a panel of lines over time.
---@param options { title: string, description: string?, unit: string?, steps: table?, w: integer?, h: integer? }
---  with the queries as its array part
---@return table
function M.lines(options)
  local defaults = {
    unit = options.unit or "short",
    min = options.min,
    custom = { fillOpacity = 8, showPoints = "never", spanNulls = false },
  }
  if options.steps then
    defaults.thresholds = thresholds(options.steps)
    defaults.custom.thresholdsStyle = { mode = "line" }
  end
  return panel("timeseries", options, defaults, {
    legend = { displayMode = "table", placement = "bottom", showLegend = true, calcs = { "lastNotNull", "max" } },
    tooltip = { mode = "multi", sort = "desc" },
  })
end

--- Returns a panel with the current number.
---@param options table as for lines; without steps the number has no colour
---@return table
function M.number(options)
  options.w, options.h = options.w or 6, options.h or 4
  local defaults = { unit = options.unit or "short", decimals = options.decimals }
  if options.steps then defaults.thresholds = thresholds(options.steps) end
  return panel("stat", options, defaults, {
    colorMode = options.steps and "value" or "none",
    graphMode = "none",
    reduceOptions = { calcs = { "lastNotNull" } },
    textMode = options.text_mode or "auto",
  })
end

--- Returns a heatmap of buckets over time.
---@param options table as for lines
---@return table
function M.heatmap(options)
  options.format = "heatmap"
  return panel("heatmap", options, { custom = { scaleDistribution = { type = "linear" } } }, {
    calculate = false,
    cellGap = 1,
    color = { mode = "scheme", scheme = "Oranges", steps = 64, exponent = 0.5, fill = "dark-orange" },
    filterValues = { le = 1e-9 },
    legend = { show = true },
    rowsFrame = { layout = "auto" },
    tooltip = { show = true, yHistogram = false },
    yAxis = { axisPlacement = "left", unit = options.unit or "short" },
  })
end

--- Returns a table of current labels and values.
---@param options table as for lines
---@return table
function M.list(options)
  options.format = "table"
  local one = panel("table", options, { unit = options.unit }, { showHeader = true })
  one.transformations = { { id = "organize", options = { excludeByName = { Time = true } } } }
  return one
end

--- Returns a variable that offers the values of a label.
---@param name string
---@param label string
---@param metric string a selector of the series that have the label
---@param all boolean? whether several values, or all, may be chosen
---@return table
function M.label_values(name, label, metric, all)
  local query = ("label_values(%s, %s)"):format(metric, label)
  return {
    type = "query",
    name = name,
    label = name:gsub("_", " "),
    datasource = DATASOURCE,
    definition = query,
    query = { query = query, refId = "StandardVariableQuery" },
    refresh = 2,
    sort = 1,
    includeAll = all or false,
    multi = all or false,
    allValue = all and ".*" or nil,
    current = all and { selected = true, text = { "All" }, value = { "$__all" } } or nil,
  }
end

local function datasource_variable()
  return { type = "datasource", name = "datasource", label = "data source", query = "prometheus", refresh = 1 }
end

local function row_panel(title)
  return {
    type = "row",
    title = title,
    collapsed = false,
    panels = pretty.array {},
    gridPos = { x = 0, w = WIDTH, h = 1 },
  }
end

-- Sets the positions of panels: from left to right, with a new line when the next panel does not fit.
local function lay_out(rows)
  local placed, y = pretty.array {}, 0
  local function add(one)
    one.id = #placed + 1
    placed[one.id] = one
  end
  for _, row in ipairs(rows) do
    local title = row_panel(row.title)
    title.gridPos.y = y
    add(title)
    y = y + 1
    local x, tallest = 0, 0
    for _, one in ipairs(row) do
      if x + one.gridPos.w > WIDTH then
        x, y, tallest = 0, y + tallest, 0
      end
      one.gridPos.x, one.gridPos.y = x, y
      x, tallest = x + one.gridPos.w, math.max(tallest, one.gridPos.h)
      add(one)
    end
    y = y + tallest
  end
  return placed
end

--- Returns a dashboard.
---@param options { uid: string, title: string, tags: string[], variables: table[], rows: table[] }
---@return table
function M.dashboard(options)
  local variables = { datasource_variable(), unpack(options.variables) }
  return {
    uid = options.uid,
    title = options.title,
    tags = pretty.array(options.tags),
    description = options.description,
    schemaVersion = 36,
    editable = true,
    graphTooltip = 1,
    refresh = "30s",
    time = { from = "now-1h", to = "now" },
    templating = { list = variables },
    panels = lay_out(options.rows),
  }
end

return M
