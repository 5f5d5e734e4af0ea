--- The dashboards of instrumented functions: an overview of all, one function in detail, and the objectives.
--
-- The first two read the metrics of chalk.autometrics. The dashboard of objectives reads the series that the rules of
-- `chalk rules` record. Metric names are those of the Autometrics specification; no exporter puts a namespace before
-- them.

local grafana = require "chalk.cli.grafana"
local queries = require "chalk.autometrics.queries"

local M = {}

local TAGS = { "chalk", "autometrics" }

local RATIO_STEPS = { { 0, "green" }, { 0.01, "yellow" }, { 0.05, "red" } }

-- Overview

local SERVICE, ERROR = 'service_name=~"$service"', ',result="error"'
local BY_FUNCTION = "by (service_name, module, function)"
local FUNCTION_LEGEND = "{{module}}.{{function}}"

local function rate(metric, matchers) return ("rate(%s{%s}[$__rate_interval])"):format(metric, matchers) end

local function overview_now()
  local calls, failed = rate("function_calls_total", SERVICE), rate("function_calls_total", SERVICE .. ERROR)
  local functions = ("count (count %s (function_calls_total{%s}))"):format(BY_FUNCTION, SERVICE)
  calls, failed = "sum (" .. calls .. ")", "sum (" .. failed .. ")"
  return {
    title = "Now",
    grafana.number { title = "Calls per second", unit = "cps", { calls } },
    grafana.number {
      title = "Calls that fail",
      unit = "percentunit",
      steps = RATIO_STEPS,
      { ("(%s or vector(0)) / (%s > 0)"):format(failed, calls) },
    },
    grafana.number { title = "Functions", { functions } },
    grafana.number {
      title = "Processes by version",
      text_mode = "value_and_name",
      { "sum by (version) (build_info{" .. SERVICE .. "})", legend = "{{version}}" },
    },
  }
end

local function overview_functions()
  local calls = ("sum %s (%s)"):format(BY_FUNCTION, rate("function_calls_total", SERVICE))
  local failed = ("sum %s (%s)"):format(BY_FUNCTION, rate("function_calls_total", SERVICE .. ERROR))
  local slow = ("histogram_quantile(0.95, sum by (service_name, module, function, le) (%s))"):format(
    rate("function_calls_duration_seconds_bucket", SERVICE)
  )
  local function top(title, unit, expression)
    return grafana.lines {
      title = title,
      unit = unit,
      min = 0,
      w = 24,
      { ("topk($top, %s)"):format(expression), legend = FUNCTION_LEGEND },
    }
  end
  return {
    title = "Functions",
    top("Most called, calls per second", "cps", calls),
    top("Most failing, share of calls", "percentunit", ("%s / (%s > 0)"):format(failed, calls)),
    top("Slowest, 95th percentile", "s", slow),
  }
end

local function top_variable()
  return {
    type = "custom",
    name = "top",
    label = "show",
    query = "10,20,50",
    current = { selected = true, text = "10", value = "10" },
  }
end

local function service_variable(several)
  return grafana.label_values("service", "service_name", "function_calls_total", several)
end

local function overview()
  return grafana.dashboard {
    uid = "chalk-overview",
    title = "Functions: overview",
    tags = TAGS,
    variables = { service_variable(true), top_variable() },
    rows = { overview_now(), overview_functions() },
  }
end

-- One function

local EXPLORED = { service_name = "$service", interval = "$__rate_interval" }
local OF_SERVICE = 'service_name="$service"'
local OF_MODULE = OF_SERVICE .. ',module="$module"'
local SELECTED = OF_MODULE .. ',function="$function"'

local VERSION_LEGEND = "{{version}} {{commit}}"

local function explorer_function()
  local all = queries.all("$function", "$module", EXPLORED)
  local function lines(title, unit, expression)
    return grafana.lines { title = title, unit = unit, min = 0, { expression, legend = VERSION_LEGEND } }
  end
  local concurrency = lines("Calls at the same time", nil, all.concurrency)
  concurrency.description = "Only of functions that are wrapped with concurrent = true"
  local buckets = rate("function_calls_duration_seconds_bucket", SELECTED):gsub("^rate", "increase")
  return {
    title = "$module.$function, by version",
    lines("Calls per second", "cps", all.request_rate),
    lines("Calls that fail", "percentunit", all.error_ratio),
    lines("Duration, 95th percentile", "s", all.latency_p95),
    lines("Duration, 99th percentile", "s", all.latency_p99),
    grafana.heatmap {
      title = "Duration",
      unit = "s",
      { ("sum by (le) (%s)"):format(buckets), legend = "{{le}}" },
    },
    concurrency,
  }
end

local function explorer_neighbours()
  local made = OF_SERVICE .. ',caller_module="$module",caller_function="$function"'
  local function calls(by, matchers) return ("sum by (%s) (%s)"):format(by, rate("function_calls_total", matchers)) end
  return {
    title = "Callers, and functions called",
    grafana.lines {
      title = "Calls by caller, per second",
      unit = "cps",
      { calls("caller_module, caller_function", SELECTED), legend = "{{caller_module}}.{{caller_function}}" },
    },
    grafana.lines {
      title = "Calls it makes, per second",
      unit = "cps",
      { calls("module, function", made), legend = FUNCTION_LEGEND },
    },
    grafana.lines {
      title = "Calls it makes that fail, per second",
      unit = "cps",
      { calls("module, function", made .. ERROR), legend = FUNCTION_LEGEND },
    },
  }
end

local function explorer()
  return grafana.dashboard {
    uid = "chalk-functions",
    title = "Functions: explorer",
    tags = TAGS,
    variables = {
      service_variable(false),
      grafana.label_values("module", "module", "function_calls_total{" .. OF_SERVICE .. "}", false),
      grafana.label_values("function", "function", "function_calls_total{" .. OF_MODULE .. "}", false),
    },
    rows = { explorer_function(), explorer_neighbours() },
  }
end

-- Objectives

local OBJECTIVE = '{objective_name=~"$objective"}'
local OBJECTIVE_LEGEND = "{{objective_name}} {{category}} {{objective_percentile}} %"

local function objectives_now()
  return {
    title = "Error budgets",
    grafana.number {
      title = "Error budget left of the last 30 days",
      w = 24,
      h = 6,
      unit = "percentunit",
      decimals = 1,
      text_mode = "value_and_name",
      steps = { { 0, "red" }, { 0.1, "yellow" }, { 0.5, "green" } },
      { "slo:period_error_budget_remaining:ratio" .. OBJECTIVE, legend = OBJECTIVE_LEGEND },
    },
    grafana.list {
      title = "Alerts",
      w = 24,
      h = 5,
      { 'ALERTS{alertname=~"HighErrorRateSLO|HighLatencySLO",objective_name=~"$objective"}', instant = true },
    },
  }
end

local function objectives_history()
  local function lines(title, unit, record, more)
    return grafana.lines {
      title = title,
      unit = unit,
      w = more and more.w,
      steps = more and more.steps,
      { record .. OBJECTIVE, legend = OBJECTIVE_LEGEND },
    }
  end
  return {
    title = "Over time",
    lines(
      "Burn rate: how many times faster than allowed the budget is used up",
      "short",
      "slo:current_burn_rate:ratio",
      { w = 24, steps = { { 0, "green" }, { 1, "yellow" }, { 6, "orange" }, { 14.4, "red" } } }
    ),
    lines("Share of calls that miss the objective, over 5 minutes", "percentunit", "slo:sli_error:ratio_rate5m"),
    lines("Over 1 hour", "percentunit", "slo:sli_error:ratio_rate1h"),
    lines("Over 1 day", "percentunit", "slo:sli_error:ratio_rate1d"),
    lines("Error budget left", "percentunit", "slo:period_error_budget_remaining:ratio"),
  }
end

local function objectives()
  return grafana.dashboard {
    uid = "chalk-objectives",
    title = "Functions: objectives",
    tags = TAGS,
    description = "Needs the rules that `chalk rules` writes",
    variables = { grafana.label_values("objective", "objective_name", "slo:objective:ratio", true) },
    rows = { objectives_now(), objectives_history() },
  }
end

--- Returns the dashboards by the names of their files.
---@return table<string, table>
function M.generate()
  return {
    ["overview.json"] = overview(),
    ["function-explorer.json"] = explorer(),
    ["objectives.json"] = objectives(),
  }
end

return M
