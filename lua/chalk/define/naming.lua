--- The names that a metric has in Prometheus, and its flat name.
--
-- In Prometheus a metric is one *family*, which has one or several *samples*, depending on the metric's type:
--
--     count      http.request_count        family http_request_count    http_request_count_total
--     gauge      uptime                    family uptime                uptime
--     histogram  http.request_latency      family http_request_latency  ..._bucket, ..._sum, ..._count
--
-- The family name of a count has no `_total`, as in OpenMetrics; the text format 0.0.4 writes the sample's name in its
-- HELP and TYPE lines instead. All functions here depend on a definition only, so the schema can refuse two metrics
-- that would be exported under one name.

local kinds = require "chalk.define.kinds"

local M = {}

local function with_suffixes(family, suffixes)
  local names = {}
  for i, suffix in ipairs(suffixes) do
    names[i] = family .. suffix
  end
  return names
end

local function sanitised(name, outside)
  name = name:gsub(outside, "_")
  if name == "" or name:find "^%d" then name = "_" .. name end
  return name
end

local function ends_with(name, suffix) return #name > #suffix and name:sub(-#suffix) == suffix end

--- The family name of a metric, e.g. `myapp_http_request_latency_seconds`.
--
-- Whether the unit is appended depends on the name without the prefix, so it is the same for all exporters.
---@param namespace string[] the outermost first
---@param name string
---@param type string a kind of metric
---@param unit string? appended as `_<unit>` unless the name ends in it
---@param prefix string? the exporter's `namespace`
---@return string
function M.family(namespace, name, type, unit, prefix)
  local family = table.concat(namespace, "_")
  family = family == "" and name or family .. "_" .. name
  local suffix = kinds.of[type].prometheus.suffix
  if suffix ~= "" and ends_with(family, suffix) then family = family:sub(1, -#suffix - 1) end
  if unit and unit ~= "" and not ends_with(family, "_" .. unit) then family = family .. "_" .. unit end
  if prefix and prefix ~= "" then family = prefix .. "_" .. family end
  return sanitised(family, "[^a-zA-Z0-9_:]")
end

--- The names of a family's samples, in the order of an exposition.
---@param family string
---@param type string a kind of metric
---@return string[]
function M.samples(family, type) return with_suffixes(family, kinds.of[type].prometheus.samples) end

--- All names that no other family may have: the family's own, those of its samples, and those that its type reserves.
---@param family string
---@param type string a kind of metric
---@return string[]
function M.held(family, type) return with_suffixes(family, kinds.of[type].prometheus.held) end

--- The Prometheus label name of a tag's key.
---@param name string
---@return string
function M.label(name) return sanitised(name, "[^a-zA-Z0-9_]") end

--- The flat CamelCase name, e.g. `HttpAuthLoginLatency` for http.auth.login_latency.
---@param namespace string[]
---@param name string
---@return string
function M.flat(namespace, name)
  local words = {}
  local joined = table.concat(namespace, "_") .. (#namespace > 0 and "_" or "") .. name
  for word in joined:gmatch "[^_]+" do
    words[#words + 1] = word:sub(1, 1):upper() .. word:sub(2)
  end
  return #words > 0 and table.concat(words) or joined
end

return M
