-- A client: definitions, accessors and a segment, and what flushes it. `require "chalk"` is the methods of a client
-- that the whole VM shares; all VMs of a process that use it share one segment.

local accessor = require "chalk.accessor"
local core = require "chalk.core"
local exporters = require "chalk.exporters"
local log = require "chalk.log"
local op = require "chalk.op"
local option = require "chalk.options"
local own = require "chalk.own"
local schema = require "chalk.schema"
local series = require "chalk.series"
local accessor_source = require "chalk.accessor.source"
local tree = require "chalk.tree"
local view = require "chalk.view"

local ffi, C = core.ffi, core.C

local M = {}

local DEFAULT_BUCKETS = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10 }
local LOOSE = 256 -- series dropped between two sweeps of a client without a flush loop
local DEFAULTS = { driver = "thread", flush_interval = 10 }

---@class chalk.Client
local Client = {}
Client.__index = Client

local function disabled_by_environment()
  local value = os.getenv "CHALK_DISABLED"
  return value ~= nil and value ~= "" and value ~= "0"
end

---@param name string? nil: a private segment
---@param options table?
---@return chalk.Client
function M.new(name, options)
  options = options or {}
  local client = setmetatable({
    name = name,
    options = options,
    registry = schema.new(),
    states = {},
    by_definition = {},
    by_number = {},
    metrics = tree.new "",
    tags = {},
    buckets = options.buckets or DEFAULT_BUCKETS,
    strict = options.strict or false,
    enabled = options.enabled ~= false and not disabled_by_environment(),
    on_error = options.on_error,
  }, Client)
  client.number = series.register(client)
  return client
end

-- The segment

local function core_options(options)
  return ffi.new("chalk_options", {
    path = options.segment_path,
    memory_limit = options.memory_limit or 0,
    max_series = options.max_series or 0,
    max_buckets = options.max_buckets or 0,
    initial_error = options.initial_error or 0,
  })
end

-- Closing is the finalizer's: it runs when the client is collected or the VM ends. A flush thread that could not be
-- ended keeps its segment.
local function keep_open(client)
  local segment, writer, state = client.segment, client.writer, client.live
  client.guard = core.finalizer(function()
    local ended = true
    if state.driver then
      pcall(state.driver.close, state.driver)
      ended = not state.driver.stuck
    end
    C.chalk_writer_close(writer)
    if state.owns_segment and ended then C.chalk_segment_close(segment) end
  end)
end

-- `level` as error's, seen from the caller of this function.
local function fail(message, level) error("chalk: " .. message, level == 0 and 0 or level + 1) end

--- Opens the segment and takes a writer, on first use. `segment`: one that this process has open already.
---@param segment ffi.cdata*?
function Client:open(segment)
  if self.segment then return end
  self.live = { owns_segment = segment == nil }
  self.segment = segment or C.chalk_segment_open(self.name, core_options(self.options), core.message)
  if self.segment == nil then
    self.segment = nil
    fail(core.said(), 0)
  end
  if not segment and core.said() ~= "" then log.write("warning", core.said()) end
  self.writer = C.chalk_writer_open(self.segment, core.message)
  if self.writer == nil then fail(core.said(), 0) end
  self.scratch = C.chalk_scratch(self.writer)
  keep_open(self)
  self.pid = C.chalk_process()
  self.own = self:add_own()
end

-- chalk's own metrics. `words` watches the epoch through one of their handles.
function Client:add_own()
  local definitions = assert(self.registry:own(own.source))
  local found = {}
  for _, definition in ipairs(definitions) do
    found[definition.name] = self:accessor(definition)
  end
  self.watch = found.overflow:with()
  self.epoch, self.place = self.watch.shared[0], self.watch.own[0]
  return found
end

--- What has to be looked at off the inlined path: series were dropped, or this process was forked.
function Client:on_stale()
  local watch = self.watch
  if not watch then return end
  if watch.own[0] ~= self.place then
    self.place = watch.own[0]
    local pid = C.chalk_process()
    if pid ~= self.pid then
      self.pid = pid
      if self.live.driver then self.live.driver:forked() end
    end
  end
  if watch.shared[0] ~= self.epoch then
    self.epoch = watch.shared[0]
    for _, state in ipairs(self.states) do
      state.forget()
    end
    -- Nothing that runs here runs between a record's comparison and its store, so the VM has seen the drops.
    C.chalk_writer_tick(self.writer)
  end
end

-- Definitions

--- Tells the core of a definition.
function Client:define(state)
  local definition = state.definition
  local keys = {}
  for i, tag in ipairs(definition.tags) do
    keys[i] = tag.key
  end
  local shape, blob = table.concat(keys, "\0"), schema.encode(definition)
  local les = definition.type == "histogram" and (definition.buckets or self.buckets) or {}
  local le = ffi.new("double[?]", math.max(#les, 1), les)
  local d = ffi.new "chalk_definition"
  d.name, d.name_size = definition.id_name, #definition.id_name
  d.shape, d.shape_size = shape, #shape
  d.blob, d.blob_size = blob, #blob
  d.le, d.les = le, #les
  d.kind = C["CHALK_" .. definition.type:upper()]
  d.across = C["CHALK_" .. definition.across:upper()]
  d.tags = #definition.tags
  d.max_series = definition.own and ffi.cast("uint32_t", C.CHALK_NONE) or definition.max_series or 0
  local number = C.chalk_define(self.writer, d, core.message)
  if number < 0 then fail(core.said(), 0) end
  state.number = number
  self.by_number[number] = state
end

--- A handle's metric has left: defines it again and points the handle at it.
---@return boolean
function Client:redefine(handle)
  local state = self.by_number[handle.metric]
  if not state then return false end
  self:define(state)
  handle.metric = state.number
  return C.chalk_rebind(handle) >= 0
end

--- The accessor of a definition: the same one each time.
function Client:accessor(definition)
  local metric = self.by_definition[definition]
  if not metric then
    metric = accessor.new(self, definition)
    self.by_definition[definition] = metric
    self.states[#self.states + 1] = accessor.state_of(metric)
  end
  return metric
end

function Client:ready()
  if self.enabled then self:open() end
end

--- Loads a document: a path, or the structure of metrics.json as a table. Raises with every error in it.
---@param source string|table
---@return table metrics, table tags
function Client:load(source)
  self:ready()
  local definitions, tags = self.registry:add(source)
  if not definitions then fail(table.concat(tags, "\n"), 2) end
  for _, definition in ipairs(definitions) do
    tree.put(self.metrics, definition, self:accessor(definition))
  end
  return self.metrics, tags
end

local function definer(kind)
  return function(self, name, spec)
    self:ready()
    local definition, errors = self.registry:define(kind, name, spec or {})
    if not definition then fail(table.concat(errors, "\n"), 2) end
    local metric = self:accessor(definition)
    tree.put(self.metrics, definition, metric)
    return metric
  end
end

--- Defines one metric and returns it.
---@type fun(self: chalk.Client, name: string, spec: table?): chalk.Metric
Client.count = definer "count"
---@type fun(self: chalk.Client, name: string, spec: table?): chalk.Metric
Client.gauge = definer "gauge"
---@type fun(self: chalk.Client, name: string, spec: table?): chalk.Metric
Client.histogram = definer "histogram"

--- Defines a pair, `name` (count) and `name_duration_seconds` (histogram), recorded as one.
---@param name string
---@param spec table?
function Client:op(name, spec)
  self:ready()
  local count, histogram = self.registry:op(name, spec or {})
  if not count then fail(table.concat(histogram, "\n"), 2) end
  local pair = { self:accessor(count), self:accessor(histogram) }
  tree.put(self.metrics, count, pair[1])
  tree.put(self.metrics, histogram, pair[2])
  local none = { count = accessor.state_of(pair[1]).null, histogram = accessor.state_of(pair[2]).null }
  return op.new(pair[1], pair[2], none, #count.tags > 0)
end

--- The generated Lua source behind a metric.
---@param metric chalk.Metric
---@return string
function Client:source(metric)
  local state = accessor.state_of(metric)
  if not state then fail("source takes a metric", 2) end
  return accessor_source.write(state.definition, self.strict)
end

-- Errors

function Client:metric_name(number)
  local state = self.by_number[number]
  return state and state.definition.id_name or "metric"
end

--- Counts an error; `state`: of the metric where it came up. None of chalk's own, where counting would meet it again.
function Client:count_error(kind, state)
  if self.own and not (state and state.definition.own) then self.own.errors:with(kind):inc() end
end

function Client:count_overflow(state)
  if self.own and state and not state.definition.own then self.own.overflow:inc() end
end

--- Makes dropped series reusable now and then in a client that has no flush loop to do it.
---@param dropped integer
function Client:tidy(dropped)
  if self.live.driver or self.hands_on then return end
  self.loose = (self.loose or 0) + dropped
  if self.loose < LOOSE or C.chalk_hold(self.segment, 0) ~= 1 then return end
  self.loose = 0
  C.chalk_writer_tick(self.writer)
  local v = view.take(self.segment)
  if v then
    C.chalk_sweep(v.snapshot, C.chalk_now(), ffi.new "double[3]")
    view.free(v)
  end
  C.chalk_release(self.segment)
end

--- Counts an error; true if it was handed over and is not to be raised.
---@return boolean
function Client:report(kind, message)
  self:count_error(kind)
  if not self.on_error then return false end
  self.on_error(message)
  return true
end

-- Starting

-- Gives a histogram the bounds that its definition has now. What was recorded with others stays with those.
local function redefine(client, state, recorded)
  local old = state.number
  if not recorded then C.chalk_clear(client.writer, old) end
  client:define(state)
  if state.number ~= old then C.chalk_undefine(client.writer, old) end
  accessor.fill(state)
end

-- Bounds of histograms without their own, where init names other ones than were in force when they were defined.
local function change_buckets(client, buckets)
  if table.concat(buckets, " ") == table.concat(client.buckets, " ") then return end
  client.buckets = buckets
  for _, state in ipairs(client.states) do
    local definition = state.definition
    if definition.type == "histogram" and not definition.buckets and state.number then
      if client:recorded(state.number) then
        log.write("warning", definition.id_name .. " was recorded before init and keeps its buckets")
      else
        redefine(client, state, false)
      end
    end
  end
end

--- Gives a histogram other bounds: it begins anew. Series are to be looked up again.
---@param metric chalk.Metric
---@param bounds number[]
---@return boolean recorded whether it had any value
function Client:change_bounds(metric, bounds)
  local state = accessor.state_of(metric)
  local recorded = self:recorded(state.number)
  state.definition.buckets = bounds
  state.forget()
  redefine(self, state, recorded)
  return recorded
end

--- Whether a metric has any value. No definition is read: the master asks this, which trusts no worker's bytes.
function Client:recorded(number)
  local snapshot = C.chalk_snapshot_take(self.segment, 0, core.message)
  if snapshot == nil then fail(core.said(), 0) end
  local n = ffi.new "uint32_t[1]"
  local entries = C.chalk_snapshot_entries(snapshot, n)
  local found = false
  for i = 0, n[0] - 1 do
    found = found or (entries[i].metric == number and entries[i].total ~= 0)
  end
  C.chalk_snapshot_free(snapshot)
  return found
end

local function apply(client, options)
  local changes = options.enabled == false and client.enabled or (options.strict or false) ~= client.strict
  if options.enabled == false then client.enabled = false end
  client.strict, client.on_error = options.strict or false, options.on_error
  local opened_at = client.options.segment_path
  client.options = options
  if client.enabled then
    if client.segment and options.segment_path and options.segment_path ~= opened_at then
      return "segment_path has to be given before anything is loaded"
    end
    client:open()
    if C.chalk_segment_configure(client.segment, core_options(options), core.message) ~= 0 then return core.said() end
    local buckets, message = exporters.buckets(options, DEFAULT_BUCKETS)
    if not buckets then return message end
    change_buckets(client, buckets)
  end
  for _, state in ipairs(client.states) do
    if changes then accessor.fill(state) end
  end
  return nil
end

-- What the driver is to do; nil when there is nothing. Opens the sockets that exporters listen at.
local function driver_config(client, options)
  local specs = exporters.specs(client, options.exporters or {})
  if #specs == 0 and not options.idle_timeout then return nil end
  local kinds, events = exporters.events(options.exporters or {})
  if kinds ~= 0 then C.chalk_tap_switch(client.segment, kinds, events, 1) end
  return {
    exporters = specs,
    interval = options.flush_interval or DEFAULTS.flush_interval,
    idle = exporters.idle(options.idle_timeout),
    global_tags = options.global_tags or {},
    generation = C.chalk_generation(client.segment, 0) + 1,
    clock = options.clock,
  }
end

--- Starts the driver that was prepared, in this process.
function Client:start()
  local config = self.config
  if not config then return end
  local driver = require("chalk.driver." .. (self.options.driver or DEFAULTS.driver))
  C.chalk_generation_reach(self.segment, config.generation)
  self.live.driver = driver.start(self, config)
end

--- What is wrong with options of init; nil when nothing is.
---@param options table
---@return string?
function Client.problem_of(options) return option.check(options) or exporters.check(options) end

local function prepare(client, options)
  local problem = client.problem_of(options)
  if problem then return nil, problem end
  client:on_stale() -- a fork before now is none of the driver's
  local ok, message = pcall(apply, client, options)
  if not ok or message then return nil, message end
  if client.enabled then
    ok, message = pcall(driver_config, client, options)
    if not ok then return nil, message end
    client.config = message
  end
  client.initialised = true
  return true
end

local function without_prefix(message) return (tostring(message):gsub("^chalk: ", "")) end

--- All of init but the driver's start: for a process that does not export, but forks others that do, with `start`.
---@param options table?
---@return boolean?, string?
function Client:prepare(options)
  if self.initialised then return nil, "init was called twice" end
  local ok, message = prepare(self, options or {})
  if not ok then return nil, without_prefix(message) end
  return true
end

--- Starts exporting. Returns nil and a message where init would raise.
---@param options table?
---@return boolean?, string?
function Client:try_init(options)
  local ok, message = self:prepare(options)
  if not ok then return nil, message end
  ok, message = pcall(self.start, self)
  if ok then return true end
  self.initialised = false
  return nil, without_prefix(message)
end

---@param options table?
function Client:init(options)
  local ok, message = self:try_init(options)
  if not ok then fail(message, 2) end
end

-- Flushing

--- Runs one flush now and returns when its exporters have.
---@param timeout number? seconds, default 10
---@return boolean?, string?
function Client:flush(timeout)
  local driver = self.live and self.live.driver
  if not driver then return true end
  return driver:flush(timeout or 10)
end

--- Flushes a last time and stops. May be repeated.
---@param timeout number? seconds, default 10
function Client:shutdown(timeout)
  local driver = self.live and self.live.driver
  if not driver then return true end
  return driver:close(timeout or 10)
end

--- Sets the gauges that say how chalk stands; before a snapshot is taken.
function Client:note_state()
  local info = ffi.new "chalk_info"
  C.chalk_segment_info(self.segment, info)
  self.own.series:set(info.series)
  if info.heartbeat > 0 then self.own.flush_age:set(math.max(0, C.chalk_now() - info.heartbeat)) end
end

--- All metrics as text.
---@param format "prometheus"|"openmetrics"|nil
---@return string
function Client:text(format)
  if format ~= nil and format ~= "prometheus" and format ~= "openmetrics" then
    fail('text takes "prometheus" or "openmetrics"', 2)
  end
  if not self.enabled then return format == "openmetrics" and "# EOF\n" or "" end
  self:open()
  self.prometheus = self.prometheus or exporters.prometheus(self.options)
  self:note_state()
  local v = assert(view.take(self.segment))
  local text = self.prometheus:text(v, format or "prometheus")
  view.free(v)
  return text
end

--- A table of what the segment holds: series, memory, epoch and so on, for diagnosis.
---@return table
function Client:info()
  self:open()
  local info = ffi.new "chalk_info"
  C.chalk_segment_info(self.segment, info)
  local out = {}
  for _, name in ipairs {
    "epoch", "heartbeat", "flushed", "memory", "memory_limit", "requested", "done", "folded", "series",
    "quarantined", "max_series", "capacity", "metrics", "writers", "generation", "holder",
  } do
    out[name] = tonumber(info[name])
  end
  return out
end

M.Client = Client

return M
