--- The dashboards of instrumented functions: an overview, one function in detail, and the objectives.
--
-- The first two need the metrics of chalk.autometrics only; the objectives are drawn from what the rules of
-- `chalk rules` record.

local grafana = require "chalk.cli.grafana"

local M = {}

local TAGS = { "chalk", "autometrics" }

-- In the queries below, @calls stands for the name as it is exported, with the exporter's namespace.
local NAMES = {
  calls = "function_calls_total",
  duration = "function_calls_duration_seconds",
  concurrent = "function_calls_concurrent",
  build = "build_info",
}

-- Returns a function that fills these names in.
local function namer(namespace)
  local prefix = namespace and namespace .. "_" or ""
  return function(text)
    return (text:gsub("@(%a+)", function(name) return prefix .. NAMES[name] end))
  end
end

local RATIO_STEPS = { { 0, "green" }, { 0.01, "yellow" }, { 0.05, "red" } }

-- Overview

local SERVICE = 'service_name=~"$service"'

local function overview_now(name)
  local calls = "sum (rate(@calls{" .. SERVICE .. "}[$__rate_interval]))"
  local failed = "sum (rate(@calls{" .. SERVICE .. ',result="error"}[$__rate_interval]))'
  local functions = "count (count by (service_name, module, function) (@calls{" .. SERVICE .. "}))"
  return {
    title = "Now",
    grafana.number { title = "Calls per second", unit = "cps", { name(calls) } },
    grafana.number {
      title = "Calls that fail",
      unit = "percentunit",
      steps = RATIO_STEPS,
      { name(("(%s or vector(0)) / (%s > 0)"):format(failed, calls)) },
    },
    grafana.number { title = "Functions", { name(functions) } },
    grafana.number {
      title = "Processes by version",
      text_mode = "value_and_name",
      { name("sum by (version) (@build{" .. SERVICE .. "})"), legend = "{{version}}" },
    },
  }
end

local BY_FUNCTION = "by (service_name, module, function)"
local FUNCTION_LEGEND = "{{module}}.{{function}}"

local function overview_functions(name)
  local calls = ("sum %s (rate(@calls{%s}[$__rate_interval]))"):format(BY_FUNCTION, SERVICE)
  local failed = ('sum %s (rate(@calls{%s,result="error"}[$__rate_interval]))'):format(BY_FUNCTION, SERVICE)
  local slow = "histogram_quantile(0.95, sum by (service_name, module, function, le)"
    .. " (rate(@duration_bucket{" .. SERVICE .. "}[$__rate_interval])))"
  local function top(title, unit, expression)
    return grafana.lines {
      title = title,
      unit = unit,
      min = 0,
      w = 24,
      { name(("topk($top, %s)"):format(expression)), legend = FUNCTION_LEGEND },
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
  return { type = "custom", name = "top", label = "show", query = "10,20,50",
    current = { selected = true, text = "10", value = "10" } }
end

local function service_variable(name)
  return grafana.label_values("service", "service_name", name "@calls", true)
end

local function overview(name)
  return grafana.dashboard {
    uid = "chalk-overview",
    title = "Functions: overview",
    tags = TAGS,
    variables = { service_variable(name), top_variable() },
    rows = { overview_now(name), overview_functions(name) },
  }
end

-- One function

local FUNCTION = SERVICE .. ',module=~"$module",function=~"$function"'

-- By the version of the process that was called: one build_info a process, or nothing could be joined.
local function by_version(metric, matchers, more)
  return ("sum by (version, commit%s) (rate(%s{%s}[$__rate_interval]) * on (job, instance) group_left (version, commit)"
    .. " topk by (job, instance) (1, @build))"):format(more or "", metric, matchers)
end

local VERSION_LEGEND = "{{version}} {{commit}}"

local function explorer_function(name)
  local calls = by_version("@calls", FUNCTION)
  local failed = by_version("@calls", FUNCTION .. ',result="error"')
  local quantile = "histogram_quantile(%g, " .. by_version("@duration_bucket", FUNCTION, ", le") .. ")"
  local function lines(title, unit, expression)
    return grafana.lines { title = title, unit = unit, min = 0, { name(expression), legend = VERSION_LEGEND } }
  end
  return {
    title = "$module.$function, by version",
    lines("Calls per second", "cps", calls),
    lines("Calls that fail", "percentunit", ("(%s or 0 * %s) / (%s > 0)"):format(failed, calls, calls)),
    lines("Duration, 95th percentile", "s", quantile:format(0.95)),
    lines("Duration, 99th percentile", "s", quantile:format(0.99)),
    grafana.heatmap {
      title = "Duration",
      unit = "s",
      { name("sum by (le) (increase(@duration_bucket{" .. FUNCTION .. "}[$__rate_interval]))"), legend = "{{le}}" },
    },
    grafana.lines {
      title = "Calls at the same time",
      description = "Of functions that are wrapped with concurrency only",
      min = 0,
      { name("sum by (instance) (@concurrent{" .. FUNCTION .. "})"), legend = "{{instance}}" },
    },
  }
end

local function explorer_neighbours(name)
  local rate = "sum by (%s) (rate(@calls{%s}[$__rate_interval]))"
  local made = SERVICE .. ',caller_module=~"$module",caller_function=~"$function"'
  return {
    title = "Its callers, and what it calls",
    grafana.lines {
      title = "Calls by caller, per second",
      unit = "cps",
      { name(rate:format("caller_module, caller_function", FUNCTION)),
        legend = "{{caller_module}}.{{caller_function}}" },
    },
    grafana.lines {
      title = "Calls it makes, per second",
      unit = "cps",
      { name(rate:format("module, function", made)), legend = FUNCTION_LEGEND },
    },
    grafana.lines {
      title = "Calls it makes that fail, per second",
      unit = "cps",
      { name(rate:format("module, function", made .. ',result="error"')), legend = FUNCTION_LEGEND },
    },
  }
end

local function explorer(name)
  return grafana.dashboard {
    uid = "chalk-functions",
    title = "Functions: explorer",
    tags = TAGS,
    variables = {
      service_variable(name),
      grafana.label_values("module", "module", name("@calls{" .. SERVICE .. "}"), false),
      grafana.label_values("function", "function", name("@calls{" .. SERVICE .. ',module=~"$module"}'), false),
    },
    rows = { explorer_function(name), explorer_neighbours(name) },
  }
end

-- Objectives

local OBJECTIVE = '{objective_name=~"$objective"}'
local OBJECTIVE_LEGEND = "{{objective_name}} {{category}} {{objective_percentile}} %"

local function objectives_now()
  return {
    title = "Error budgets",
    grafana.number {
      title = "Left of the last 30 days' error budget",
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
    lines("How many times too fast the budget is used up", "short", "slo:current_burn_rate:ratio",
      { w = 24, steps = { { 0, "green" }, { 1, "yellow" }, { 6, "orange" }, { 14.4, "red" } } }),
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

--- The dashboards by the names of their files.
---@param namespace string? what the Prometheus exporter puts before the names
---@return table<string, table>
function M.generate(namespace)
  local name = namer(namespace)
  return {
    ["overview.json"] = overview(name),
    ["function-explorer.json"] = explorer(name),
    ["objectives.json"] = objectives(),
  }
end

return M
