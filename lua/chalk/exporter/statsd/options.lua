--- Checks the options of the StatsD exporter, and adds defaults and values from the environment.
--
-- As in Datadog's clients, explicit options win over the environment:
--
--     DD_DOGSTATSD_URL                     the address; if it is not set:
--     DD_AGENT_HOST, DD_DOGSTATSD_PORT     the address's host (or a unix:// address) and port
--     DD_ENTITY_ID                         the tag dd.internal.entity_id
--     DD_ENV, DD_SERVICE, DD_VERSION       the tags env, service, version
--     DD_EXTERNAL_ENV                      the field e:
--     DD_CARDINALITY, DATADOG_CARDINALITY  the field card:
--     DD_ORIGIN_DETECTION_ENABLED          "false": no container_id
--
-- The environment is read in the VM that calls init, because the flush thread may be in another process, which has
-- another environment. `resolve` returns plain values, which are copied to that thread's VM.

local addresses = require "chalk.net.address"
local lists = require "chalk.base.lists"
local names = require "chalk.exporter.statsd.names"
local option = require "chalk.define.options"
local packets = require "chalk.net.packet_socket"
local rules = require "chalk.exporter.statsd.rules"

local M = {}

---@class chalk.statsd.Options
---@field address string? see chalk.net.address (the address in the environment, or else "127.0.0.1:8125")
---@field dialect ("dogstatsd"|"statsd")? ("dogstatsd")
---@field namespace string? a prefix of every name, followed by "."
---@field global_tags table<string, string|number|boolean>? constant tags; a metric's own tag of the same name wins
---@field histograms chalk.statsd.Mode? ("distribution"; "percentiles" for the dialect statsd)
---@field quantiles number[]? for the mode percentiles ({ 0.5, 0.9, 0.95, 0.99 })
---@field aggregates chalk.statsd.Aggregate[]? for the mode percentiles: gauges in addition to the quantiles
--- ({ "count", "avg", "min", "max" })
---@field buckets number[]? for the mode buckets: the bounds to send; only counted bounds are sent (all)
---@field per_metric chalk.statsd.Rule[]?
---@field max_packet integer? bytes, 64 to 65507 (1432 for UDP, 8192 for unix sockets)
---@field max_weight integer? how many recorded values one sent value of a distribution may represent (10000)
---@field timestamps boolean? whether counts and gauges are sent with the time (false)
---@field container_id ("auto"|string|false)? the field c: ("auto"; false for the dialect statsd)
---@field cardinality ("none"|"low"|"orchestrator"|"high")? the field card:
---@field telemetry boolean? whether the exporter's own counters are sent too (false)
---@field write_timeout number? seconds to wait for a full socket (1)
---@field gauges ("always"|"changed")? whether a gauge is sent at every flush, or only when it has changed ("always")
---@field relative_gauges boolean? whether the server takes a signed gauge as a change (true for the dialect statsd)
---@field sample_rate number? for the mode raw: the share of the values that is sent, 0 to 1 (1)
---@field raw_type ("distribution"|"histogram"|"timing")? for the mode raw ("distribution"; "timing" for statsd)
---@field raw_queue integer? for the mode raw: how many values may wait to be sent (65536)
---@field name string? the exporter's name, needed if two exporters have one address

---@alias chalk.statsd.Mode "percentiles"|"distribution"|"histogram"|"timing"|"buckets"|"raw"

---@alias chalk.statsd.Aggregate "count"|"sum"|"avg"|"min"|"max"

---@class chalk.statsd.Resolved: chalk.statsd.Options every field with a default is set
---@field target chalk.net.Address the parsed address
---@field environment_tags table<string, string> global tags win over these
---@field external_env string? the field e:
---@field counted number[]? the bounds that rules name, which are counted in addition

local MODES = { "percentiles", "distribution", "histogram", "timing", "buckets", "raw" }
local TAGGED_MODES = { distribution = true, histogram = true } -- their types are unknown to plain StatsD servers
local QUANTILES = { 0.5, 0.9, 0.95, 0.99 }
local AGGREGATES = { "count", "avg", "min", "max" }
local MOST_QUANTILES = 32
local LONGEST_ID = 128
local PORT = 8125
local QUEUE, MOST_QUEUE = 65536, 2 ^ 24
local LEAST_RATE = 1e-6
local MOST_WEIGHT = 1000000 -- above it a sample rate has more digits than a double
local LEAST_PACKET, MOST_PACKET = 64, 65507
local LINE = 48 -- bytes of a line for value, type, rate and time, beside its name, tags and constant fields

local function is_address(v)
  if type(v) ~= "string" then return false, "a string" end
  local address, message = addresses.parse(v, PORT)
  if address then message = addresses.problem(address) end
  return message == nil, "the address of a server: " .. (message or "")
end

-- Whether v is a list of items that are valid and differ from one another.
local function is_list_of(v, is_valid)
  if type(v) ~= "table" then return false end
  local seen, n = {}, 0
  for i, item in pairs(v) do
    if type(i) ~= "number" or not is_valid(item) or seen[item] then return false end
    seen[item], n = true, n + 1
  end
  return n == #v
end

local function is_quantile(q) return type(q) == "number" and q >= 0 and q <= 1 end

local function is_quantiles(v)
  local words = ("a list of 1 to %d different numbers from 0 to 1"):format(MOST_QUANTILES)
  return is_list_of(v, is_quantile) and #v > 0 and #v <= MOST_QUANTILES, words
end

local is_aggregate = option.one_of("count", "sum", "avg", "min", "max")

local function is_aggregates(v)
  return is_list_of(v, is_aggregate), "a list of count, sum, avg, min, max, each at most once"
end

local function is_container_id(v)
  local words = ('"auto", an id of up to %d letters, digits and _ . : / -, or false'):format(LONGEST_ID)
  return v == false or type(v) == "string" and #v <= LONGEST_ID and v:find "^[%w_.:/-]+$" ~= nil, words
end

local function is_namespace(v)
  return type(v) == "string" and v:find "^%a[%w_./-]*$" ~= nil and not v:find("..", 1, true),
    "a string of letters, digits, _ - / and . between them, with a letter first"
end

local function is_name(v) return type(v) == "string" and v ~= "", "a string that is not empty" end

local is_boolean = option.of_type("boolean", "true or false")
local is_mode = option.one_of(unpack(MODES))
local is_raw_type = option.one_of("distribution", "histogram", "timing")
local is_cardinality = option.one_of("none", "low", "orchestrator", "high")

local function is_sample_rate(v)
  local words = ("a number from 0 to 1; above 0 at least %g"):format(LEAST_RATE)
  return type(v) == "number" and (v == 0 or v >= LEAST_RATE and v <= 1), words
end

local RULE = {
  histograms = is_mode,
  quantiles = is_quantiles,
  aggregates = is_aggregates,
  buckets = option.is_buckets,
  sample_rate = is_sample_rate,
}

local CHECKS = {
  address = is_address,
  dialect = option.one_of("dogstatsd", "statsd"),
  namespace = is_namespace,
  global_tags = option.is_tags,
  histograms = is_mode,
  quantiles = is_quantiles,
  aggregates = is_aggregates,
  buckets = option.is_buckets,
  per_metric = function() return true end, -- see rules.problem
  sample_rate = is_sample_rate,
  raw_type = is_raw_type,
  raw_queue = option.whole_between(1, MOST_QUEUE),
  max_packet = option.whole_between(LEAST_PACKET, MOST_PACKET),
  max_weight = option.whole_between(1, MOST_WEIGHT),
  timestamps = is_boolean,
  container_id = is_container_id,
  cardinality = is_cardinality,
  telemetry = is_boolean,
  write_timeout = option.number_between(0.001, 60),
  gauges = option.one_of("always", "changed"),
  relative_gauges = is_boolean,
  name = is_name,
}

-- Refuses options that the dialect "statsd" cannot express.
local function check_dialect(options, problems)
  local function refuse(what) problems[#problems + 1] = what .. ' needs the dialect "dogstatsd"' end
  local function refuse_mode(where, mode)
    if TAGGED_MODES[mode] then refuse(("%s = %q"):format(where, mode)) end
  end
  if options.container_id then refuse "container_id" end
  if options.cardinality then refuse "cardinality" end
  if options.timestamps == true then refuse "timestamps" end
  refuse_mode("histograms", options.histograms)
  refuse_mode("raw_type", options.raw_type)
  for i, rule in ipairs(type(options.per_metric) == "table" and options.per_metric or {}) do
    if type(rule) == "table" then refuse_mode(("per_metric[%d].histograms"):format(i), rule.histograms) end
  end
end

-- Refuses options of the mode raw if no histogram uses it. Only single values can be sampled; differences are always
-- sent as a whole.
local function check_sampling(options, problems)
  local any = options.histograms == "raw"
  for i, rule in ipairs(type(options.per_metric) == "table" and options.per_metric or {}) do
    local mode = type(rule) == "table" and (rule.histograms or options.histograms)
    any = any or mode == "raw"
    if type(rule) == "table" and rule.sample_rate and mode ~= "raw" then
      problems[#problems + 1] = ('per_metric[%d].sample_rate needs histograms = "raw"'):format(i)
    end
  end
  if any then return end
  for _, name in ipairs { "sample_rate", "raw_type", "raw_queue" } do
    if options[name] ~= nil then problems[#problems + 1] = name .. ' needs histograms = "raw"' end
  end
end

--- Checks the options.
---@param options any
---@return string? message what is wrong with them; nil if they are right
function M.check(options)
  if type(options) ~= "table" then return "options must be a table" end
  local problems = option.problems(options, CHECKS)
  if options.per_metric ~= nil then problems[#problems + 1] = rules.problem(options.per_metric, RULE) end
  if options.dialect == "statsd" then check_dialect(options, problems) end
  check_sampling(options, problems)
  return problems[1] and table.concat(problems, "; ") or nil
end

-- The environment

local function variable(getenv, name)
  local value = getenv(name)
  return value ~= "" and value or nil
end

-- Makes an address of the value of DD_AGENT_HOST, which may be a host, an IPv6 address without brackets, host:port or
-- unix:///path.
local function with_port(host, port)
  if host:find("://", 1, true) then return host end
  if addresses.is_ipv6(host) then host = "[" .. host .. "]" end
  local complete = host:find "^%[.*%]:" or host:find "^[^%[]*:"
  return complete and host or host .. ":" .. port
end

-- Returns the address to send to.
---@return string address, string? source the environment variables that it comes from
local function address_text(options, getenv)
  if options.address then return options.address end
  local url = variable(getenv, "DD_DOGSTATSD_URL")
  if url then return url, "DD_DOGSTATSD_URL" end
  local host, port = variable(getenv, "DD_AGENT_HOST"), variable(getenv, "DD_DOGSTATSD_PORT")
  local source = host and "DD_AGENT_HOST" or port and "DD_DOGSTATSD_PORT"
  if host and port then source = source .. " and DD_DOGSTATSD_PORT" end
  return with_port(host or "127.0.0.1", port or PORT), source
end

local TAGS = {
  ["dd.internal.entity_id"] = "DD_ENTITY_ID",
  env = "DD_ENV",
  service = "DD_SERVICE",
  version = "DD_VERSION",
}

-- Returns tags from the environment. In the dialect statsd there are none, because tags are a part of names there, and
-- an environment variable would change the names.
local function environment_tags(dialect, getenv)
  local tags = {}
  for key, name in pairs(dialect == "dogstatsd" and TAGS or {}) do
    tags[key] = variable(getenv, name)
  end
  return tags
end

local function external_env(getenv)
  local text = names.field(variable(getenv, "DD_EXTERNAL_ENV") or "")
  return text ~= "" and text or nil
end

-- Returns the cardinality in the environment. Unknown values are ignored, because the agent has a default.
local function cardinality(getenv)
  for _, name in ipairs { "DD_CARDINALITY", "DATADOG_CARDINALITY" } do
    local value = (variable(getenv, name) or ""):lower()
    if is_cardinality(value) then return value end
  end
end

local OFF = { ["0"] = true, f = true, ["false"] = true, no = true, off = true }

local function container_id(getenv)
  return not OFF[(variable(getenv, "DD_ORIGIN_DETECTION_ENABLED") or ""):lower()] and "auto"
end

-- Resolving

local function copy(value)
  if type(value) ~= "table" then return value end
  local copied = {}
  for k, v in pairs(value) do
    copied[k] = copy(v)
  end
  return copied
end

local function default(options, name, value)
  if options[name] == nil then options[name] = value end
end

-- Returns the bounds of all rules, so that they are counted.
local function counted(per_metric)
  local bounds = {}
  for i, rule in ipairs(per_metric) do
    bounds[i] = rule.buckets or {}
  end
  bounds = lists.union(bounds)
  return bounds[1] and bounds or nil
end

local function fill_of_dialect(options, getenv)
  local tagged = options.dialect == "dogstatsd"
  options.environment_tags = environment_tags(options.dialect, getenv)
  default(options, "histograms", tagged and "distribution" or "percentiles")
  default(options, "container_id", tagged and container_id(getenv))
  default(options, "relative_gauges", not tagged)
  default(options, "raw_type", tagged and "distribution" or "timing")
  if tagged then
    options.external_env = external_env(getenv)
    default(options, "cardinality", cardinality(getenv))
  end
end

-- Returns the subscription to the event tap, if any histogram is sent in the mode raw.
local function tap(options)
  local is_raw = options.histograms == "raw"
  for _, rule in ipairs(options.per_metric) do
    is_raw = is_raw or rule.histograms == "raw"
  end
  return is_raw and { kinds = { "histogram" }, events = options.raw_queue, keep = true } or nil
end

local function fill(options)
  default(options, "quantiles", copy(QUANTILES))
  default(options, "aggregates", copy(AGGREGATES))
  default(options, "per_metric", {})
  default(options, "max_packet", packets.PACKETS[options.target.kind])
  default(options, "max_weight", 10000)
  default(options, "timestamps", false)
  default(options, "telemetry", false)
  default(options, "write_timeout", 1)
  default(options, "gauges", "always")
  default(options, "sample_rate", 1)
  default(options, "raw_queue", QUEUE)
  options.counted = counted(options.per_metric)
  options.tap = tap(options)
end

-- Returns how many bytes of every line come from the options.
local function constant(options)
  local n = #(options.namespace or "") + #(options.external_env or "") + #(options.cardinality or "")
  if options.container_id and options.container_id ~= "auto" then n = n + #options.container_id end
  if options.dialect == "statsd" then return n end
  for _, tag in ipairs(names.tags(M.tags(options))) do
    n = n + #tag + 1
  end
  return n
end

--- Returns the options with defaults and values from the environment; or nil and a message.
---@param options chalk.statsd.Options
---@param getenv (fun(name: string): string?)? replaces os.getenv
---@return chalk.statsd.Resolved? resolved, string? message
function M.resolve(options, getenv)
  local message = M.check(options)
  if message then return nil, message end
  getenv = getenv or os.getenv
  local resolved = copy(options)
  local text, source = address_text(options, getenv)
  resolved.address = text
  resolved.target, message = addresses.parse(text, PORT)
  if not resolved.target then return nil, ("%s: %s"):format(source, message) end
  default(resolved, "dialect", "dogstatsd")
  fill_of_dialect(resolved, getenv)
  fill(resolved)
  local least = constant(resolved) + LINE
  if resolved.max_packet < least then
    return nil, ("max_packet must be at least %d: namespace, tags and fields are on every line"):format(least)
  end
  return resolved
end

--- Returns the constant tags: those of the environment and the global tags, which win.
---@param resolved chalk.statsd.Resolved
---@return table<string, string|number|boolean>
function M.tags(resolved)
  local tags = copy(resolved.environment_tags)
  for key, value in pairs(resolved.global_tags or {}) do
    tags[key] = value
  end
  return tags
end

return M
