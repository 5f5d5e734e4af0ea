--- Builds a rules file for Prometheus from objectives.
--
-- An objective promises a success rate, a latency, or both. Each promise becomes a group of rules, which record the
-- ratio of bad calls to all calls over several windows. The ratio that the promise allows is the error budget. The
-- alerts are those of "The Site Reliability Workbook", chapter 5, table 5-8: an alert fires if the budget of 30 days is
-- used up several times too fast, both over a long window and still over a short one.
--
--     page    14.4 times over 1h and 5m (2 % of the budget in an hour), 6 times over 6h and 30m
--     ticket   3 times over 1d and 2h, 1 time over 3d and 6h
--
-- Label names are those of Autometrics. Record names are those of the rule generator Sloth.

local escape = require "chalk.cli.escape"
local numbers = require "chalk.base.numbers"

local M = {}

local quoted = escape.quoted

local WINDOWS = { "5m", "30m", "1h", "2h", "6h", "1d", "3d" }
local PERIOD, PERIOD_DAYS = "30d", 30

local ALERTS = {
  { severity = "page", { 14.4, "1h", "5m" }, { 6, "6h", "30m" } },
  { severity = "ticket", { 3, "1d", "2h" }, { 1, "3d", "6h" } },
}

local SUCCESS, LATENCY = "success-rate", "latency"
local ALERT_NAMES = { [SUCCESS] = "HighErrorRateSLO", [LATENCY] = "HighLatencySLO" }
local MISSED = { [SUCCESS] = "failed", [LATENCY] = "took longer than %s s" }

---@class chalk.cli.Promise
---@field objective string
---@field category "success-rate"|"latency"
---@field percentile number
---@field threshold number? seconds

local function number(value) return ("%.14g"):format(value) end

-- Returns the texts that a bound may have in a label: "1.0" as chalk writes it, and "1" as others do.
local function bound_texts(value)
  local text = numbers.bound(value)
  return text == number(value) and { text } or { text, number(value) }
end

-- Returns the percentage of calls that may be bad. Digits of the difference past the twelfth are rounding errors.
local function allowed_percent(promise) return tonumber(("%.12f"):format(100 - promise.percentile)) end

local function budget(promise) return number(allowed_percent(promise) / 100) end

local function promises_of(objectives)
  local promises, seen = {}, {}
  local function add(promise)
    local key = ("%s\0%s\0%.17g\0%.17g"):format(
      promise.objective,
      promise.category,
      promise.percentile,
      promise.threshold or 0
    )
    if not seen[key] then promises[#promises + 1] = promise end
    seen[key], promise.key = true, key
  end
  for _, objective in ipairs(objectives) do
    local rate, latency = objective.success_rate, objective.latency
    if rate then add { objective = objective.name, category = SUCCESS, percentile = rate } end
    if latency then
      add {
        objective = objective.name,
        category = LATENCY,
        percentile = latency.percentile,
        threshold = latency.threshold,
      }
    end
  end
  table.sort(promises, function(a, b) return a.key < b.key end)
  return promises
end

-- Returns the labels of every record of a promise, in order.
local function labels_of(promise)
  local labels = {
    { "objective_name", promise.objective },
    { "objective_percentile", number(promise.percentile) },
    { "category", promise.category },
  }
  if promise.threshold then labels[4] = { "objective_latency_threshold", bound_texts(promise.threshold)[1] } end
  return labels
end

-- Returns the labels as lines of YAML. In an alert, label values are templates, so `transform` escapes them.
local function yaml_labels(promise, transform)
  local lines = { "    labels:" }
  for i, label in ipairs(labels_of(promise)) do
    lines[i + 1] = ("      %s: %s"):format(label[1], quoted(transform and transform(label[2]) or label[2]))
  end
  return table.concat(lines, "\n")
end

local function recorded(promise)
  local matchers = {}
  for i, label in ipairs(labels_of(promise)) do
    matchers[i] = label[1] .. "=" .. quoted(label[2])
  end
  return "{" .. table.concat(matchers, ",") .. "}"
end

-- Returns the selector for a promise's series among the metrics of functions.
local function picked(promise, options, more)
  local matchers = {
    "objective_name=" .. quoted(promise.objective),
    "objective_percentile=" .. quoted(number(promise.percentile)),
  }
  if options.service then table.insert(matchers, 1, "service_name=" .. quoted(options.service)) end
  if promise.threshold then
    matchers[#matchers + 1] = escape.matcher("objective_latency_threshold", bound_texts(promise.threshold))
  end
  matchers[#matchers + 1] = more
  return "{" .. table.concat(matchers, ",") .. "}"
end

local function rate(metric, selector, window)
  return ("sum by (service_name) (rate(%s%s[%s]))"):format(metric, selector, window)
end

-- Returns the expressions for the rates of all calls and of bad calls. A function that never failed may have no series
-- of failures, so a missing rate of bad calls counts as zero.
local function calls_and_bad(promise, options, window)
  if promise.category == SUCCESS then
    local metric = "function_calls_total"
    local calls = rate(metric, picked(promise, options), window)
    local bad = rate(metric, picked(promise, options, 'result="error"'), window)
    return calls, ("%s\nor\n0 * %s"):format(bad, calls)
  end
  local metric = "function_calls_duration_seconds"
  local within = escape.matcher("le", bound_texts(promise.threshold))
  local calls = rate(metric .. "_count", picked(promise, options), window)
  local good = rate(metric .. "_bucket", picked(promise, options, within), window)
  return calls, ("clamp_min(\n  %s\n  -\n  %s,\n  0\n)"):format(calls, good)
end

local function indented(text, by) return by .. text:gsub("\n(.)", "\n" .. by .. "%1") end

local function ratio(bad, calls) return ("(\n%s\n)\n/\n(%s > 0)"):format(indented(bad, "  "), calls) end

---@class chalk.cli.Group
---@field out string[]
---@field labels string lines of YAML
---@field promise chalk.cli.Promise

local function record(group, name, expression)
  table.insert(
    group.out,
    ("  - record: %s\n    expr: |\n%s\n%s"):format(name, indented(expression, "      "), group.labels)
  )
end

local function sli_records(group, options)
  local promise, sel = group.promise, recorded(group.promise)
  local calls, bad = calls_and_bad(promise, options, WINDOWS[1])
  record(group, "slo:calls:rate5m", calls)
  record(group, "slo:bad_calls:rate5m", bad)
  for i, window in ipairs(WINDOWS) do
    calls, bad = calls_and_bad(promise, options, window)
    if i == 1 then
      calls, bad = "slo:calls:rate5m" .. sel, "slo:bad_calls:rate5m" .. sel
    end
    record(group, "slo:sli_error:ratio_rate" .. window, ratio(bad, calls))
  end
  -- The ratio over 30 days sums recorded rates, because a rate over 30 days of raw counters reads too many samples.
  local over = "sum_over_time(slo:%s:rate5m%s[" .. PERIOD .. "])"
  record(
    group,
    "slo:sli_error:ratio_rate" .. PERIOD,
    ratio(over:format("bad_calls", sel), over:format("calls", sel))
  )
end

local function budget_records(group)
  local sel, allowed = recorded(group.promise), budget(group.promise)
  record(group, "slo:objective:ratio", ("vector(%s)"):format(number(group.promise.percentile / 100)))
  record(group, "slo:error_budget:ratio", ("vector(%s)"):format(allowed))
  record(group, "slo:time_period:days", ("vector(%d)"):format(PERIOD_DAYS))
  if tonumber(allowed) == 0 then return end
  record(group, "slo:current_burn_rate:ratio", ("slo:sli_error:ratio_rate5m%s / %s"):format(sel, allowed))
  local burnt = ("slo:sli_error:ratio_rate%s%s / %s"):format(PERIOD, sel, allowed)
  record(group, "slo:period_burn_rate:ratio", burnt)
  record(group, "slo:period_error_budget_remaining:ratio", "1 - " .. burnt)
end

local function burns(promise, times, long, short)
  local sel, over = recorded(promise), ("%s * %s"):format(number(times), budget(promise))
  local window = "  slo:sli_error:ratio_rate%s%s > %s"
  return ("(\n%s\n  and\n%s\n)"):format(window:format(long, sel, over), window:format(short, sel, over))
end

local DESCRIPTION = "{{ $value | humanizePercentage }} of the calls under objective {{ $labels.objective_name }}"
  .. "{{ with $labels.service_name }} of {{ . }}{{ end }} %s; the budget is %s %% over %d days."

local function alert(group, kind)
  local promise = group.promise
  local missed = MISSED[promise.category]:format(promise.threshold and number(promise.threshold))
  local description = DESCRIPTION:format(missed, number(allowed_percent(promise)), PERIOD_DAYS)
  local expression = burns(promise, unpack(kind[1])) .. "\nor\n" .. burns(promise, unpack(kind[2]))
  table.insert(
    group.out,
    table.concat({
      "  - alert: " .. ALERT_NAMES[promise.category],
      "    expr: |",
      indented(expression, "      "),
      yaml_labels(promise, escape.template),
      "      severity: " .. kind.severity,
      "    annotations:",
      '      summary: "The error budget of {{ $labels.objective_name }} is used up too fast"',
      "      description: " .. quoted(description),
    }, "\n")
  )
end

local function group_of(promise, options)
  local name = { promise.objective, promise.category, number(promise.percentile) }
  if promise.threshold then name[4] = number(promise.threshold) end
  if options.service then table.insert(name, 1, options.service) end
  local group = { promise = promise, labels = yaml_labels(promise) }
  group.out = { ("- name: %s\n  rules:"):format(quoted("slo " .. table.concat(name, " "))) }
  sli_records(group, options)
  budget_records(group)
  for _, kind in ipairs(ALERTS) do
    alert(group, kind)
  end
  return table.concat(group.out, "\n")
end

-- Returns a warning for a promise whose page alert can never fire, or fires at the first bad call. The slower page
-- alert fires at 6 times the budget, which more than all calls would have to exceed if the budget is a sixth or more.
local function warning(promise)
  local what = ("objective %s, %s %s %%"):format(
    quoted(promise.objective),
    promise.category,
    number(promise.percentile)
  )
  local allowed = allowed_percent(promise)
  if allowed == 0 then return what .. ": there is no error budget, so the alerts fire at the first bad call" end
  if 6 * allowed >= 100 then
    return what .. ": the page alert cannot fire, because the budget lasts for days even if all calls fail"
  end
end

---@class chalk.cli.RulesOptions
---@field service string? counts the functions of this service only

--- Returns the rules file of these objectives.
---@param objectives { name: string, success_rate: number?, latency: { threshold: number, percentile: number }? }[]
---@param options chalk.cli.RulesOptions?
---@return string yaml
---@return string[] warnings
function M.generate(objectives, options)
  local groups, warnings = {}, {}
  for _, promise in ipairs(promises_of(objectives)) do
    groups[#groups + 1] = group_of(promise, options or {})
    warnings[#warnings + 1] = warning(promise)
  end
  local head = "# Written by `chalk rules`: changes are lost when it runs again.\n"
  return head .. (#groups > 0 and "groups:\n" or "groups: []\n") .. table.concat(groups, "\n") .. "\n", warnings
end

return M
