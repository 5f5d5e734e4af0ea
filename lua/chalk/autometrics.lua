-- Instrumented functions. For each wrapped function chalk counts the calls by caller and result, and records how long
-- they take, under the metric names of the Autometrics specification 1.0.0.
--
--     local auto = require "chalk.autometrics"
--     auto.init { service_name = "shop", version = "1.4.0" }
--     local users = auto.module("users", { create = function(...) ... end })
--
-- The functions of this module record through the client that `require "chalk"` returns. `new` returns the same
-- functions for another client.

local links = require "chalk.autometrics.links"
local metrics = require "chalk.autometrics.metrics"
local names = require "chalk.autometrics.names"
local objective = require "chalk.autometrics.objective"
local option = require "chalk.define.options"
local queries = require "chalk.autometrics.queries"
local series = require "chalk.autometrics.series"
local settings = require "chalk.autometrics.settings"
local suggest = require "chalk.base.suggest"
local wrapper = require "chalk.autometrics.wrapper"

---@class chalk.Autometrics
---@field client chalk.Client
---@field metrics chalk.autometrics.Metrics
---@field settings chalk.autometrics.Options? nil until init, or until something needs the settings
---@field records chalk.autometrics.Record[] in order of wrapping
local Auto = {}

local function fail(message, level) error("chalk.autometrics: " .. message, level + 1) end

-- Settings

-- Sets the bounds of the duration histogram: those of the settings, and the latency of each objective.
local function set_bounds(auto, bounds)
  local list = { unpack(bounds) }
  for _, one in ipairs(auto.objectives_made) do
    if one.values.latency then list[#list + 1] = one.values.latency.threshold end
  end
  return auto.metrics:set_bounds(list)
end

local function bind_all(auto)
  for _, record in ipairs(auto.records) do
    if record.service_name then
      series.unbind(auto.metrics, record)
      record.service_name = auto.settings.service_name
      series.bind(auto.metrics, record)
    end
  end
end

local function configure(auto, options)
  local resolved, problem = settings.resolve(options)
  if not resolved then return problem end
  problem = set_bounds(auto, resolved.buckets)
  if problem then return problem end
  if auto.client.enabled then
    auto.client:ready()
    problem = auto.metrics:define()
    if problem then return problem end
    auto.metrics:set_build(resolved)
  end
  auto.settings = resolved
  bind_all(auto)
end

-- Returns the settings. When init has not been called, they are those of an init without options.
local function ensure_settings(auto, level)
  local problem = not auto.settings and configure(auto, {})
  if problem then fail(problem, level + 1) end
  return auto.settings
end

--- Sets the service's name and version, and the address of its Prometheus. Call init before functions are wrapped:
--- series that were created under a guessed service name are dropped when init gives another one.
---@param options chalk.autometrics.Options?
function Auto:init(options)
  if self.initialised then fail("init was called twice", 2) end
  local problem = configure(self, options or {})
  if problem then fail(problem, 2) end
  self.initialised = true
end

-- Objectives

--- Returns the objective with this name, and creates it on the first call.
---@param name string
---@return chalk.autometrics.Objective
function Auto:objective(name)
  local fits, words = settings.is_label(name)
  if not fits or name == "" then fail("the name of an objective must be " .. words, 2) end
  local known = self.objectives_made[name]
  if known then return known end
  local made = objective.new(name, function(threshold)
    local problem = self.metrics:add_bound(threshold)
    if problem then fail(problem, 3) end
  end)
  self.objectives_made[name] = made
  table.insert(self.objectives_made, made)
  return made
end

--- Returns all objectives as plain tables.
---@return { name: string, success_rate: number?, latency: { threshold: number, percentile: number }? }[]
function Auto:objectives()
  local list = {}
  for i, one in ipairs(self.objectives_made) do
    list[i] = one:describe()
  end
  return list
end

-- Wrapping

local SHARED = {
  objective = function(v) return objective.is(v), "what auto.objective returns" end,
  ok_if = option.of_type("function", "a function"),
  error_if = option.of_type("function", "a function"),
  concurrent = option.of_type("boolean", "true or false"),
}

local function and_shared(checks)
  for name, check in pairs(SHARED) do
    checks[name] = check
  end
  return checks
end

local function is_type(v) return v == false or v ~= "" and settings.is_label(v), "the name of a type, or false" end

local OF_WRAP = and_shared { name = settings.is_label, module = settings.is_label, type = is_type }
local OF_MODULE = and_shared { skip = option.of_type("table", "a list of names"), type = is_type }

local function check_options(options, checks)
  if type(options) ~= "table" then return "options must be a table" end
  local problems = option.problems(options, checks)
  local values = objective.is(options.objective) and options.objective.values
  if values and not (values.success_rate or values.latency) then
    problems[#problems + 1] = ("objective %q has neither a success rate nor a latency"):format(
      options.objective.name
    )
  end
  return problems[1] and table.concat(problems, "; ")
end

-- Returns the file and the first line of a function; nil for what a C function or bytecode does not have.
local function source_of(f)
  local info = debug.getinfo(f, "S")
  local path = info.source:match "^@(.+)$"
  return path, info.linedefined > 0 and info.linedefined or nil
end

-- Returns the function's name for the label, with its type before it. The type comes from the options. If neither name
-- nor type is given there, both come from the source.
local function name_of(options, written)
  if options.name then return names.qualified(options.type, options.name) end
  if not written then return nil end
  return names.qualified(options.type == nil and written.type or options.type, written.name)
end

-- Returns the function's name and module, from the options or else from its source; or nil and a message.
local function identify(options, path, line)
  local where = path and ("the function at %s:%s"):format(path, line) or "a function without a source file"
  local written = not options.name and path and line and names.of_line(path, line)
  local name = options.name ~= "" and name_of(options, written)
  local module = options.module or path and names.module_of(path)
  local lacking = not name and "name" or (not module or module == "") and "module"
  if lacking then
    return nil, ("%s has no %s in its source: give it one with { %s = ... }"):format(where, lacking, lacking)
  end
  local fits, words = settings.is_label(name)
  if not fits then return nil, "the name of a function must be " .. words end
  return name, module
end

local function key_of(name, module) return #module .. ":" .. module .. name end

-- Returns a message if the module already has a wrapped function with this name.
local function taken(auto, name, module)
  local other = auto.by_name[key_of(name, module)]
  if not other then return nil end
  local where = other.source and (", first at %s:%s"):format(other.source, other.line) or ""
  return ("%q of module %q is wrapped twice%s"):format(name, module, where)
end

local function add(auto, record)
  if auto.client.enabled then
    record.service_name = auto.settings.service_name
    series.bind(auto.metrics, record)
    record.wrapped = wrapper.wrap(record, auto.client, auto.new_call)
  else
    record.wrapped = record.bare
  end
  if record.objective then record.objective.used = true end
  auto.records[#auto.records + 1] = record
  auto.by_name[key_of(record.name, record.module)] = record
  auto.by_function[record.wrapped] = record
  return record.wrapped
end

local function new_record(f, name, module, options)
  local path, line = source_of(f)
  return wrapper.record {
    bare = f,
    name = name,
    module = module,
    source = path,
    line = line,
    objective = options.objective,
    ok_if = options.ok_if,
    error_if = options.error_if,
    counts_concurrent = options.concurrent or false,
    by_caller = {},
  }
end

---@class chalk.autometrics.WrapOptions
---@field name string? default: the name in its source
---@field module string? default: the module name of its file
---@field type string|false? the type that it belongs to, before its name; default: as in its source; false: none
---@field objective chalk.autometrics.Objective?
---@field ok_if fun(...): any? gets the results, or nil and the error; true makes a failed call successful
---@field error_if fun(...): any? gets the same; true makes a successful call a failed one
---@field concurrent boolean? whether a gauge counts the calls that are in progress

--- Instruments a function and returns the wrapped one. With a disabled client it returns the function itself.
---@param f function
---@param options chalk.autometrics.WrapOptions?
---@return function
function Auto:wrap(f, options)
  if type(f) ~= "function" then fail("wrap takes a function, not " .. type(f), 2) end
  options = options or {}
  local problem = check_options(options, OF_WRAP)
  if problem then fail(problem, 2) end
  local name, module = identify(options, source_of(f))
  problem = not name and module or taken(self, name, module)
  if problem then fail(problem, 2) end
  ensure_settings(self, 2)
  return add(self, new_record(f, name, module, options))
end

-- Returns the sorted names of the functions to wrap. Metamethods are left out because nobody calls them by name, and
-- functions that are already wrapped keep their own options.
local function functions_of(auto, functions)
  local list = {}
  for name, f in pairs(functions) do
    local named = type(name) == "string" and name:sub(1, 2) ~= "__"
    if named and type(f) == "function" and not auto.by_function[f] then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

-- Returns the names that are not in `skip`; or nil and a message.
local function without(list, functions, skip)
  local skipped, left = {}, {}
  for _, name in ipairs(skip) do
    if type(functions[name]) ~= "function" then
      local hint = type(name) == "string" and suggest(name, list)
      return nil, ("skip: the table has no function %s%s"):format(tostring(name), hint and ", " .. hint or "")
    end
    skipped[name] = true
  end
  for _, name in ipairs(list) do
    if not skipped[name] then left[#left + 1] = name end
  end
  return left
end

-- Returns each function's name for the label, by its key in the table; or nil and a message.
local function labels_of(auto, list, module, of_type)
  local labels = {}
  for _, key in ipairs(list) do
    local label = names.qualified(of_type, key)
    local fits, words = settings.is_label(label)
    local problem = not fits and "the name of a function must be " .. words or taken(auto, label, module)
    if problem then return nil, problem end
    labels[key] = label
  end
  return labels
end

-- Returns the keys of the functions to wrap, and their names for the label by key; or nil and a message.
local function chosen(auto, module, functions, options)
  local all = functions_of(auto, functions)
  local list, problem = without(all, functions, options.skip or {})
  if not list then return nil, problem end
  local of_type = options.type
  if of_type == nil then of_type = names.of_class(functions, list) end
  local labels
  labels, problem = labels_of(auto, list, module, of_type)
  return labels and list, labels or problem
end

---@class chalk.autometrics.ModuleOptions: chalk.autometrics.WrapOptions
---@field skip string[]? names of functions that are not wrapped
---@field type string|false? the name of a class, written before those of its functions; default: its `__name`, or the
--- name in the source of its methods; false: none

--- Instruments the functions and methods of a table in place.
---@param module string
---@param functions table
---@param options chalk.autometrics.ModuleOptions?
---@return table functions the same table
function Auto:module(module, functions, options)
  options = options or {}
  local fits, words = settings.is_label(module)
  local problem = (not fits or module == "") and "the name of a module must be " .. words
    or type(functions) ~= "table" and "module takes a table of functions, not " .. type(functions)
    or check_options(options, OF_MODULE)
  if problem then fail(problem, 2) end
  local list, labels = chosen(self, module, functions, options)
  if not list then fail(labels, 2) end
  ensure_settings(self, 2)
  for _, key in ipairs(list) do
    functions[key] = add(self, new_record(functions[key], labels[key], module, options))
  end
  return functions
end

---@class chalk.autometrics.Function
---@field name string
---@field module string
---@field source string? the file
---@field line integer? the function's first line in the file
---@field concurrent boolean whether a gauge counts the calls that are in progress
---@field objective { name: string, success_rate: number?, latency: table? }?
---@field f function the wrapped one

--- Returns all instrumented functions in the order they were wrapped.
---@return chalk.autometrics.Function[]
function Auto:functions()
  local list = {}
  for i, record in ipairs(self.records) do
    list[i] = {
      name = record.name,
      module = record.module,
      source = record.source,
      line = record.line,
      concurrent = record.counts_concurrent,
      objective = record.objective and record.objective:describe(),
      f = record.wrapped,
    }
  end
  return list
end

-- Queries

local function named(auto, f)
  local known = type(f) == "function" and auto.by_function[f] or type(f) == "table" and f
  if known and type(known.name) == "string" and type(known.module) == "string" then return known end
end

--- Returns the PromQL queries of a function. The keys are request_rate, error_ratio, latency_p95, latency_p99,
--- concurrency, calls and calls_error_ratio.
---@param f function|{ name: string, module: string } a wrapped function, or its name and module
---@param options { interval: string? }? interval: the range of each rate, default "5m"
---@return table<string, string>
function Auto:queries(f, options)
  local known = named(self, f)
  if not known then fail("queries takes a wrapped function, or { name = ..., module = ... }", 2) end
  local interval = options and options.interval
  if interval ~= nil and not queries.is_interval(interval) then
    fail(("interval must be a Prometheus duration such as 5m, not %s"):format(tostring(interval)), 2)
  end
  -- A service name that is only the program's name is left out: it differs in another program that loads the same
  -- modules, such as `chalk annotate`.
  local set = ensure_settings(self, 2)
  return queries.all(known.name, known.module, {
    service_name = set.is_named and set.service_name or nil,
    interval = interval,
  })
end

--- Returns the same queries as addresses of charts in Prometheus.
---@param f function|{ name: string, module: string }
---@param options { interval: string? }?
---@return table<string, string>
function Auto:links(f, options)
  local known = named(self, f)
  if not known then fail("links takes a wrapped function, or { name = ..., module = ... }", 2) end
  local base, list = ensure_settings(self, 2).prometheus_url, self:queries(known, options)
  for name, query in pairs(list) do
    list[name] = links.graph(base, query)
  end
  return list
end

-- Instances

local PUBLIC = { "init", "objective", "objectives", "wrap", "module", "functions", "queries", "links" }

-- By client, because a client's metrics can be defined only once.
local instances = setmetatable({}, { __mode = "k" })

--- Returns the functions of this module for a client that chalk.new returned.
---@param client chalk.Client
---@return chalk.autometrics
local function new(client)
  if type(client) ~= "table" or type(client.registry) ~= "table" then
    fail("new takes what chalk.new returns", 2)
  end
  if instances[client] then return instances[client] end
  local auto = setmetatable({
    client = client,
    records = {},
    by_name = {},
    by_function = setmetatable({}, { __mode = "k" }),
    objectives_made = {},
  }, { __index = Auto })
  auto.metrics = metrics.new(client, function()
    for _, record in ipairs(auto.records) do
      if record.service_name then series.bind_duration(auto.metrics, record) end
    end
  end)
  function auto.new_call(record, caller) return series.call(auto.metrics, record, caller) end
  local public = { new = new }
  for _, name in ipairs(PUBLIC) do
    public[name] = function(...) return Auto[name](auto, ...) end
  end
  instances[client] = public
  return public
end

return new(require "chalk.global")
