-- A client: definitions, accessors and a segment, and what flushes it. `require "chalk"` is the methods of a client
-- that the whole VM shares; all VMs of a process that use it share one segment.

local accessor = require "chalk.record.accessor"
local core = require "chalk.core"
local exporters = require "chalk.flush.exporters"
local kinds = require "chalk.define.kinds"
local log = require "chalk.base.log"
local op = require "chalk.record.op"
local option = require "chalk.define.options"
local own = require "chalk.client.own"
local schema = require "chalk.define.schema"
local series = require "chalk.record.series"
local setup = require "chalk.client.setup"
local accessor_source = require "chalk.record.source"
local text = require "chalk.client.text"
local tree = require "chalk.define.tree"
local view = require "chalk.read.view"

local ffi, C = core.ffi, core.C

local M = {}

local LOOSE = 256 -- series dropped between two sweeps of a client without a flush loop

---@class chalk.Client
---@field count fun(self: chalk.Client, name: string, spec: table?): chalk.Metric
---@field gauge fun(self: chalk.Client, name: string, spec: table?): chalk.Metric
---@field histogram fun(self: chalk.Client, name: string, spec: table?): chalk.Metric
---@field on_forked fun()? called in a forked process that has not started a driver
---@field flush_unstarted (fun(timeout: number?): boolean?, string?)? what flush does in one
---@field pause (fun(): boolean)? lets others go on while a flush is waited for; false: it cannot here
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
    writers = {}, -- of text, by module
    ops = {}, -- by the definition of their count
    metrics = tree.new "",
    tags = {},
    buckets = options.buckets or setup.BUCKETS,
    strict = options.strict or false,
    enabled = options.enabled ~= false and not disabled_by_environment(),
    on_error = options.on_error,
  }, Client)
  client.number = series.register(client)
  return client
end

-- The segment

-- Closing is the finalizer's: it runs when the client is collected or the VM ends. A flush thread that could not be
-- ended keeps its segment. A server's first process prepares what its children start: sockets that no child has when
-- the VM ends are of a configuration that the server refused.
local function keep_open(client)
  local segment, writer, state, shared = client.segment, client.writer, client.live, client.name ~= nil
  function state.close()
    local ended = not state.stuck
    if state.driver then
      pcall(state.driver.close, state.driver)
      ended = ended and not state.driver.stuck
    elseif state.prepared then
      exporters.discard_sockets(state.listener, state.prepared)
    end
    C.chalk_writer_close(writer)
    state.close = nil
    if state.abandoned and ended then
      C.chalk_segment_abandon(segment)
    elseif state.owns_segment and ended then
      state.closed = not shared -- the process keeps those that VMs share
      C.chalk_segment_close(segment)
    end
  end
  client.guard = core.finalizer(function()
    if state.close then state.close() end
  end)
end

-- `level` as error's, seen from the caller of this function.
local function fail(message, level) error("chalk: " .. message, level == 0 and 0 or level + 1) end

-- In nginx's master: what it opens is handed on to workers and to the program of an upgrade, and may have come so. It
-- has to be said before anything is opened, be that by resty.chalk or by a module that only records.
local function inherit()
  local ngx = rawget(_G, "ngx")
  if ngx and ngx.get_phase and ngx.get_phase() == "init" then C.chalk_inherit(1) end
end

-- What `open` sets.
local OPENED = { "segment", "writer", "scratch", "live", "opened_at", "guard", "own", "watch", "epoch", "place" }

-- Closes a segment in which nothing was defined but chalk's own metrics: the client is as new.
function Client:close_again()
  self.live.abandoned = self.live.owns_segment
  self.live.close()
  for _, name in ipairs(OPENED) do
    self[name] = nil
  end
  self.states, self.by_definition, self.by_number = {}, {}, {}
end

--- Opens the segment and takes a writer, on first use. `segment`: one that this process has open already.
---@param segment ffi.cdata*?
function Client:open(segment)
  if self.live and self.live.closed then fail("the VM is closing", 0) end
  if self.segment then return end
  if self.name and not segment then inherit() end
  local opened = segment or C.chalk_segment_open(self.name, setup.core_options(self.options), core.message)
  if opened == nil then fail(core.said(), 0) end
  if not segment and core.said() ~= "" then log.write("warning", core.said()) end
  local writer = C.chalk_writer_open(opened, core.message)
  if writer == nil then
    local message = core.said()
    if not segment then C.chalk_segment_close(opened) end
    fail(message, 0)
  end
  self.segment, self.writer, self.scratch = opened, writer, C.chalk_scratch(writer)
  self.live = { owns_segment = segment == nil }
  self.opened_at = self.options.segment_path
  keep_open(self)
  self.pid = C.chalk_process()
  local ok, own_metrics = pcall(self.add_own, self)
  if not ok then
    self:close_again()
    error(own_metrics, 0)
  end
  self.own = own_metrics
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
      if self.live.driver then
        self.live.driver:forked()
      elseif self.on_forked then
        self.on_forked()
      end
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
  local les = kinds.of[definition.type].has_bounds and (definition.buckets or self.buckets) or {}
  local le = ffi.new("double[?]", math.max(#les, 1), les)
  local d = ffi.new "chalk_definition"
  d.name, d.name_size = definition.id_name, #definition.id_name
  d.shape, d.shape_size = shape, #shape
  d.blob, d.blob_size = blob, #blob
  d.le, d.les = le, #les
  d.kind = C[kinds.of[definition.type].constant]
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

-- All are defined before a series of one is bound, or none: so what there was no room for takes no room.
local function define_all(client, states)
  for i, state in ipairs(states) do
    local ok, message = pcall(client.define, client, state)
    if not ok then
      for k = 1, i - 1 do
        C.chalk_take_back(client.writer, states[k].number)
        client.by_number[states[k].number] = nil
      end
      error(message, 0)
    end
  end
end

--- Makes the accessors of definitions that have none yet.
---@param definitions table[]
function Client:add(definitions)
  local fresh, states = {}, {}
  for _, definition in ipairs(definitions) do
    if not self.by_definition[definition] then
      local metric = accessor.new(self, definition)
      fresh[#fresh + 1], states[#states + 1] = metric, accessor.state_of(metric)
    end
  end
  if self.enabled then define_all(self, states) end
  for i, state in ipairs(states) do
    accessor.fill(state)
    self.by_definition[state.definition] = fresh[i]
    self.states[#self.states + 1] = state
  end
end

--- The accessor of a definition: the same one each time.
function Client:accessor(definition)
  if not self.by_definition[definition] then self:add { definition } end
  return self.by_definition[definition]
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
  self:add(definitions)
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

-- A method for each kind: it defines one metric and returns it.
for _, kind in ipairs(kinds.names) do
  Client[kind] = definer(kind)
end

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
  self.ops[count] = self.ops[count] or self:new_op(count, pair[1], pair[2])
  return self.ops[count]
end

function Client:new_op(definition, count, histogram)
  local made = op.new(count, histogram, accessor.state_of(count).null, #definition.tags > 0)
  if not self.enabled then op.disable(made) end
  return made
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
  if self.live.driver or self.live.closed or self.hands_on then return end
  self.loose = (self.loose or 0) + dropped
  if self.loose < LOOSE or C.chalk_hold(self.segment, 0) ~= 1 then return end
  self.loose = 0
  C.chalk_writer_tick(self.writer)
  local v = view.take(self.segment)
  if v then
    C.chalk_sweep(v.snapshot, C.chalk_now(), ffi.new("double[?]", #kinds.names))
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

--- Bounds of histograms without their own, where init names other ones than were in force when they were defined.
function Client:change_buckets(buckets)
  if table.concat(buckets, " ") == table.concat(self.buckets, " ") then return end
  self.buckets = buckets
  for _, state in ipairs(self.states) do
    local definition = state.definition
    if kinds.of[definition.type].has_bounds and not definition.buckets and state.number then
      if self:recorded(state.number) then
        log.write("warning", definition.id_name .. " was recorded before init and keeps its buckets")
      else
        redefine(self, state, false)
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

-- Init

--- As start, where another VM of this process has the driver: flushes are asked of that.
function Client:attach()
  if self.config then self.live.driver = require("chalk.flush.driver.thread").attach(self, self.config) end
end

--- What is wrong with options of init; nil when nothing is.
---@param options table
---@return string?
function Client.problem_of(options) return option.check(options) or exporters.check(options) end

--- All of init but the driver's start: for a process that does not export, but forks others that do, with `start`.
---@param options table?
---@return boolean?, string?
function Client:prepare(options)
  if self.initialised then return nil, "init was called twice" end
  self.undo = {}
  local ok, message = setup.attempt(self, setup.prepare, options or {})
  self.initialised = ok
  if not ok then return nil, message end
  return true
end

--- Starts the driver that was prepared, in this process.
function Client:start()
  local config = self.config
  if not config then return end
  C.chalk_generation_reach(self.segment, config.generation)
  self.live.driver = setup.driver_of(self.options).start(self, config)
  exporters.keep_sockets(self.live.listener, config.exporters)
end

--- Starts exporting. Returns nil and a message where init would raise; then nothing is left of the attempt.
---@param options table?
---@return boolean?, string?
function Client:try_init(options)
  local ok, message = self:prepare(options)
  if not ok then return nil, message end
  ok, message = setup.attempt(self, self.start)
  self.initialised, self.undo = ok, nil
  if not ok then return nil, message end
  return true
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
  if driver then return driver:flush(timeout or 10) end
  if self.flush_unstarted then return self.flush_unstarted(timeout) end
  return true
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
---@param format "prometheus"|"openmetrics"|"statsd"|nil "prometheus" when left out
---@param options chalk.TextOptions?
---@return string
function Client:text(format, options)
  format = format == nil and "prometheus" or format
  local problem = text.problem(format, options)
  if problem then fail(problem, 2) end
  if not self.enabled then return text.empty(format) end
  self:open()
  self:note_state()
  return text.render(self, format, options)
end

--- A table of what the segment holds: series, memory, epoch and so on, for diagnosis. All 0 in a client that is
--- disabled.
---@return table
function Client:info()
  self:ready()
  local info = ffi.new "chalk_info"
  if self.segment then C.chalk_segment_info(self.segment, info) end
  local out = {}
  for _, name in ipairs {
    "epoch",
    "heartbeat",
    "flushed",
    "memory",
    "memory_limit",
    "requested",
    "done",
    "folded",
    "series",
    "quarantined",
    "max_series",
    "capacity",
    "metrics",
    "writers",
    "generation",
    "holder",
  } do
    out[name] = tonumber(info[name])
  end
  return out
end

-- What users call. A dot where the colon belongs is said at the caller's line; no record comes through here.
for _, name in ipairs {
  "load",
  "op",
  "source",
  "init",
  "try_init",
  "flush",
  "shutdown",
  "text",
  "info",
  unpack(kinds.names),
} do
  local method = Client[name]
  Client[name] = function(self, ...)
    if getmetatable(self) == Client then return method(self, ...) end
    error(("chalk: %s is a client's, called with a colon: client:%s(...)"):format(name, name), 2)
  end
end

return M
