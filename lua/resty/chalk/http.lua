-- The standard metrics of an HTTP server, recorded in the log phase:
--
--     init_by_lua_block { http = require("resty.chalk").http { route = "$route" } } -- after init
--     log_by_lua_block  { http:log() }
--
-- No text of a client becomes a tag value. A host comes from the configuration, a method from a list, and a status is a
-- class. So the configuration limits the number of series. The texts of a request are only looked up in tables of the
-- allowed values, with which `with` finds the series, so recording allocates nothing.

local instance = require "resty.chalk.instance"
local kinds = require "chalk.define.kinds"
local option = require "chalk.define.options"

local var, req = ngx.var, ngx.req
local floor, max, tonumber, find = math.floor, math.max, tonumber, string.find

local M = {}

local MAX_SERIES = 10000 -- of each metric; far more than a configuration needs, unless its route is a URI
local METHODS = { "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE" }

---@class resty.chalk.Http
local Http = {}
Http.__index = Http

-- Options

local function is_list(v)
  if type(v) ~= "table" then return false end
  for _, item in ipairs(v) do
    if type(item) ~= "string" or item == "" then return false end
  end
  return next(v) == nil or #v > 0
end

local function is_text(v) return type(v) == "string" end

local function is_route(v) return type(v) == "function" or (is_text(v) and find(v, "^%$[%w_]+$") ~= nil) end

local is_switch = option.of_type("boolean", "true or false")

local CHECKS = {
  hosts = function(v) return is_list(v), "a list of host names" end,
  methods = function(v) return is_list(v), "a list of methods" end,
  status = function(v) return v == "class" or v == "code", '"class" or "code"' end,
  route = function(v) return is_route(v), 'a variable such as "$route", or a function' end,
  buckets = option.is_buckets,
  bytes = is_switch,
  upstream = is_switch,
  cache = is_switch,
  namespace = option.of_type("string", "a name"),
  max_series = option.of_type("number", "a number"),
}

local function fail(message) error("resty.chalk: http: " .. message, 0) end

local function check(options)
  if type(options) ~= "table" then fail "options must be a table" end
  local problems = option.problems(options, CHECKS)
  if problems[1] then fail(table.concat(problems, "; ")) end
end

-- Tag values

local function set_of(list, change)
  local set = {}
  for _, item in ipairs(list) do
    item = change(item)
    set[item] = item
  end
  return set
end

-- Returns the tag value of each status: "2xx", or "200" with `how` = "code".
local function statuses(how)
  local texts = {}
  for status = 100, how == "code" and 999 or 599 do
    texts[status] = how == "code" and tostring(status) or floor(status / 100) .. "xx"
  end
  return texts
end

-- Returns the function that reads the tag host: the server's name in the configuration, or the Host header if it is one
-- of `hosts`.
local function host_reader(hosts)
  if not hosts then
    return function()
      local name = var.server_name
      return name ~= "" and name or "_"
    end
  end
  local known = set_of(hosts, string.lower)
  return function() return known[var.host] or "other" end
end

local function call_route(route)
  local ok, value = pcall(route)
  if not ok then
    ngx.log(ngx.ERR, "chalk: the route function failed: ", value)
    return nil
  end
  return value ~= nil and tostring(value) or nil
end

local function route_reader(route)
  if not route then
    return function() return nil end
  end
  if type(route) == "function" then
    return function() return call_route(route) end
  end
  local name = route:sub(2)
  return function() return var[name] end
end

-- Definitions

-- Tags of this module's own, whatever tags of these names the application has.
local function tags(...)
  local list = {}
  for i, name in ipairs { ... } do
    list[i] = { tag = "resty_chalk_http_" .. name, export_name = name, optional = name == "route" }
  end
  return list
end

local function definer(client, options)
  return function(kind, name, unit, description, ...)
    local ok, metric = pcall(client[kind], client, name, {
      namespace = options.namespace or "http",
      unit = unit,
      description = description,
      tags = tags(...),
      buckets = kinds.of[kind].has_bounds and options.buckets or nil,
      max_series = options.max_series or MAX_SERIES,
    })
    return ok and metric or fail((metric:gsub("^.-chalk: ", "")))
  end
end

local function define_requests(self, define, options)
  local route = options.route and "route" or nil
  self.requests = define("count", "requests", nil, "Requests answered", "host", "method", "status", route)
  self.duration = define(
    "histogram",
    "request_duration",
    "seconds",
    "From the first byte of a request to the last of its answer",
    "host",
    route
  )
  if options.bytes ~= false then
    self.received = define("count", "received", "bytes", "Received with requests, heads included", "host", route)
    self.sent = define("count", "sent", "bytes", "Sent with answers, heads included", "host", route)
  end
  if options.cache ~= false then
    self.cache = define("count", "cache_requests", nil, "Requests of cached locations", "host", "cache_status")
  end
end

local function define_upstreams(self, define)
  self.attempts = define("count", "upstream_requests", nil, "Requests made to upstreams", "upstream", "status")
  self.connect =
    define("histogram", "upstream_connect_duration", "seconds", "Until an upstream was connected to", "upstream")
  self.header =
    define("histogram", "upstream_header_duration", "seconds", "Until the head of an upstream's answer", "upstream")
  self.response = define(
    "histogram",
    "upstream_response_duration",
    "seconds",
    "Until the end of an upstream's answer",
    "upstream"
  )
end

-- Recording

local function record_time(metric, upstream, text)
  local seconds = tonumber(text) -- "-" if the attempt ended before this phase
  if seconds then metric:with(upstream):record(seconds) end
end

local function record_attempt(self, upstream, status, connect, header, response)
  self.attempts:with(upstream, self.statuses[tonumber(status)] or "other"):inc()
  record_time(self.connect, upstream, connect)
  record_time(self.header, upstream, header)
  record_time(self.response, upstream, response)
end

-- Splits a list of attempts, such as "a, b : c". Those after " : " belong to an internal redirect.
local function split(list)
  local items, from = {}, 1
  list = list:gsub(" : ", ", ")
  while true do
    local at, last = find(list, ", ", from, true)
    items[#items + 1] = list:sub(from, at and at - 1)
    if not at then return items end
    from = last + 1
  end
end

local function record_attempts(self, addresses)
  local statuses_of, connects = split(var.upstream_status), split(var.upstream_connect_time)
  local headers, responses = split(var.upstream_header_time), split(var.upstream_response_time)
  for i, upstream in ipairs(split(addresses)) do
    record_attempt(self, upstream, statuses_of[i], connects[i], headers[i], responses[i])
  end
end

local function record_upstream(self, upstream)
  if find(upstream, " ", 1, true) then return record_attempts(self, upstream) end
  return record_attempt(
    self,
    upstream,
    var.upstream_status,
    var.upstream_connect_time,
    var.upstream_header_time,
    var.upstream_response_time
  )
end

-- The duration of the request in whole milliseconds, which is nginx's precision. Rounding removes the error of the
-- difference of two times since 1970, which is smaller.
local function duration() return max(0, floor((ngx.now() - req.start_time()) * 1000 + 0.5) / 1000) end

--- Records the current request. Must be called in log_by_lua*.
function Http:log()
  local host, route = self.host(), self.route()
  local method, status = self.methods[req.get_method()] or "OTHER", self.statuses[ngx.status] or "other"
  self.requests:with(host, method, status, route):inc()
  self.duration:with(host, route):record(duration())
  if self.sent then
    self.received:with(host, route):inc(tonumber(var.request_length) or 0)
    self.sent:with(host, route):inc(tonumber(var.bytes_sent) or 0)
  end
  if self.attempts then
    local upstream = var.upstream_addr
    if upstream and upstream ~= "" then record_upstream(self, upstream) end
  end
  if self.cache then
    local cache_status = var.upstream_cache_status
    if cache_status then self.cache:with(host, cache_status):inc() end
  end
end

---@class resty.chalk.HttpOptions
---@field hosts string[]? Host headers that are values of the tag host; all others are "other" (the server's name)
---@field methods string[]? values of the tag method in addition to the usual methods; all others are "OTHER"
---@field status ("class"|"code")? whether the tag status is "2xx" or "200" ("class")
---@field route (string|fun(): string?)? a variable such as "$route", or a function; without it there is no tag route
---@field bytes boolean? whether to count bytes (true)
---@field upstream boolean? whether to record requests to upstreams (true)
---@field cache boolean? whether to count requests of cached locations (true)
---@field buckets number[]? bounds of the histograms
---@field namespace string? ("http")
---@field max_series integer? of each metric (10000)

--- Defines the metrics. Raises a message if an option is wrong.
---@param client chalk.Client
---@param options resty.chalk.HttpOptions?
---@return resty.chalk.Http
function M.new(client, options)
  options = options or {}
  check(options)
  local self, define = setmetatable({}, Http), definer(client, options)
  define_requests(self, define, options)
  if options.upstream ~= false then define_upstreams(self, define) end
  self.host, self.route = host_reader(options.hosts), route_reader(options.route)
  self.methods = set_of(METHODS, tostring)
  for _, method in ipairs(options.methods or {}) do
    self.methods[method] = method
  end
  self.statuses = statuses(options.status or "class")
  instance.define(client)
  if not client.enabled then self.log = function() end end
  return self
end

return M
