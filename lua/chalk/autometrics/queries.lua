-- Writes the PromQL queries of an instrumented function. Each query joins its series with the build_info of the same
-- target, so that every version has its own line and a version that made things worse can be seen.
--
-- All are pure functions of (name, module, options). A nil name or module leaves its matcher out. Values are only
-- quoted, so variables such as Grafana's `$module` can be given as names.

local M = {}

---@class chalk.autometrics.QueryOptions
---@field service_name string? restricts the query to one service
---@field interval string? the range of each rate, default "5m"

local ESCAPES = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }

---@param text string
---@return string
function M.quote(text) return '"' .. text:gsub('[\\"\n]', ESCAPES) .. '"' end

--- Whether a text is a duration as Prometheus writes it, such as 5m or 1h30m.
---@param text any
---@return boolean
function M.is_interval(text)
  if type(text) ~= "string" or not text:find "[1-9]" then return false end
  local rest = text:gsub("%d+ms", ""):gsub("%d+[smhdwy]", "")
  return rest == ""
end

local BUILD = "on (instance, job, service_name) group_left (version, commit) "
  .. "topk by (instance, job, service_name) (1, build_info)"

-- The labels that every query keeps; a query may add others.
local KEPT = "function, module, service_name, version, commit"

local function matchers(list)
  local out = {}
  for _, item in ipairs(list) do
    local label, value = item[1], item[2]
    if value then out[#out + 1] = label .. "=" .. M.quote(value) end
  end
  return table.concat(out, ",")
end

local function selector(metric, name, module, options, extra)
  local list = matchers {
    { (options.of or "") .. "function", name },
    { (options.of or "") .. "module", module },
    { "service_name", options.service_name },
    extra or {},
  }
  return list == "" and metric or ("%s{%s}"):format(metric, list)
end

local function joined(series) return ("%s * %s"):format(series, BUILD) end

local function rate(metric, name, module, options, extra)
  return joined(("rate(%s[%s])"):format(selector(metric, name, module, options, extra), options.interval or "5m"))
end

local function sum(labels, series) return ("sum by (%s) (%s)"):format(labels, series) end

--- Returns the query for the calls per second.
---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return string
function M.request_rate(name, module, options)
  return sum(KEPT, rate("function_calls_total", name, module, options or {}))
end

--- Returns the query for the share of calls that failed, 0 to 1. It has no value while there are no calls.
---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return string
function M.error_ratio(name, module, options)
  options = options or {}
  local errors = rate("function_calls_total", name, module, options, { "result", "error" })
  return ("%s / (%s > 0)"):format(sum(KEPT, errors), M.request_rate(name, module, options))
end

--- Returns the query for a quantile of the durations, in seconds.
---@param quantile number 0 to 1
---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return string
function M.latency(quantile, name, module, options)
  local buckets = rate("function_calls_duration_seconds_bucket", name, module, options or {})
  return ("histogram_quantile(%.14g, %s)"):format(quantile, sum("le, " .. KEPT, buckets))
end

---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return string
function M.latency_p95(name, module, options) return M.latency(0.95, name, module, options) end

---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return string
function M.latency_p99(name, module, options) return M.latency(0.99, name, module, options) end

--- Returns the query for the number of calls in progress.
---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return string
function M.concurrency(name, module, options)
  return sum(KEPT, joined(selector("function_calls_concurrent", name, module, options or {})))
end

local function by_caller(options) return setmetatable({ of = "caller_" }, { __index = options }) end

--- Returns the query for the calls per second that the function makes, by the called function.
---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return string
function M.calls(name, module, options)
  return sum(KEPT, rate("function_calls_total", name, module, by_caller(options)))
end

--- Returns the query for the share of failures among the calls that the function makes, 0 to 1, by the called function.
--- It has no value while there are no calls.
---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return string
function M.calls_error_ratio(name, module, options)
  local errors = rate("function_calls_total", name, module, by_caller(options), { "result", "error" })
  return ("%s / (%s > 0)"):format(sum(KEPT, errors), M.calls(name, module, options))
end

local NAMES = {
  "request_rate",
  "error_ratio",
  "latency_p95",
  "latency_p99",
  "concurrency",
  "calls",
  "calls_error_ratio",
}

--- Returns all queries, by their name in M.NAMES.
---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return table<string, string>
function M.all(name, module, options)
  local out = {}
  for _, which in ipairs(NAMES) do
    out[which] = M[which](name, module, options)
  end
  return out
end

return M
