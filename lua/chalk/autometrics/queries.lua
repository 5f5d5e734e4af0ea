-- The PromQL of an instrumented function, as text. Every series is joined with the build_info of its target, so that a
-- version that made things worse is a line of its own.
--
-- Pure functions of (name, module, options). A name or module that is nil leaves its matcher out, and the text has what
-- is given as it is but for quoting: variables such as Grafana's `$module` pass.

local M = {}

---@class chalk.autometrics.QueryOptions
---@field service_name string? only of this service
---@field interval string? what rates are over, default "5m"

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

-- What stays apart, besides what a query adds.
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

--- Calls a second.
---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return string
function M.request_rate(name, module, options)
  return sum(KEPT, rate("function_calls_total", name, module, options or {}))
end

--- The part of the calls that failed, 0 to 1; nothing where there were no calls.
---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return string
function M.error_ratio(name, module, options)
  options = options or {}
  local errors = rate("function_calls_total", name, module, options, { "result", "error" })
  return ("%s / (%s > 0)"):format(sum(KEPT, errors), M.request_rate(name, module, options))
end

--- A quantile of the seconds that calls take.
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

--- Calls under way.
---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return string
function M.concurrency(name, module, options)
  return sum(KEPT, joined(selector("function_calls_concurrent", name, module, options or {})))
end

local function by_caller(options) return setmetatable({ of = "caller_" }, { __index = options }) end

--- Calls a second that it makes, by the function that is called.
---@param name string?
---@param module string?
---@param options chalk.autometrics.QueryOptions?
---@return string
function M.calls(name, module, options)
  return sum(KEPT, rate("function_calls_total", name, module, by_caller(options)))
end

--- The part of the calls that it makes that failed, by the function that is called; nothing where there were no calls.
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

--- All of them by name.
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
