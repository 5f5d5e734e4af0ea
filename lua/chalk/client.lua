-- A client: definitions with their accessors, the segment into which they record, and the driver that flushes it.
--
-- A client goes through these states; every step may be the last:
--
--     new        no segment yet; a client that is disabled from the start stays in this state
--     open       the segment and a writer exist: from the first definition, `init`, `text` or `info` on
--     prepared   init has checked and applied its options, and exporters' sockets listen; no driver runs yet
--     started    a driver flushes
--     closed     the finalizer has closed the writer and the segment: the client was collected, or its VM has ended
--
-- In nginx the master prepares the client, and each worker starts it.

local accessor = require "chalk.record.accessor"
local bounds = require "chalk.client.bounds"
local core = require "chalk.core"
local core_metric = require "chalk.client.core_metric"
local exporters = require "chalk.flush.exporters"
local kinds = require "chalk.define.kinds"
local log = require "chalk.base.log"
local op = require "chalk.record.op"
local option = require "chalk.define.options"
local own = require "chalk.client.own"
local schema = require "chalk.define.schema"
local series = require "chalk.record.series"
local shown = require "chalk.base.shown"
local setup = require "chalk.client.setup"
local accessor_source = require "chalk.record.source"
local text = require "chalk.client.text"
local tree = require "chalk.define.tree"
local view = require "chalk.read.view"

local ffi, C = core.ffi, core.C

local M = {}

local SWEEP_AFTER = 256 -- dropped series after which a client without a flush loop sweeps

---@class chalk.Client
---@field count fun(self: chalk.Client, name: string, spec: table?): chalk.Metric defines a count
---@field gauge fun(self: chalk.Client, name: string, spec: table?): chalk.Metric defines a gauge
---@field histogram fun(self: chalk.Client, name: string, spec: table?): chalk.Metric defines a histogram
---@field on_forked fun()? called in a forked process that has not started a driver
---@field flush_unstarted (fun(timeout: number?): boolean?, string?)? flushes in a process that has not started a driver
---@field pause (fun(): boolean)? lets other work run while `flush` waits; returns false where it cannot
---@field hands_on boolean? true in nginx's master, whose workers sweep
local Client = {}
Client.__index = Client

local function disabled_by_environment()
  local value = os.getenv "CHALK_DISABLED"
  return value ~= nil and value ~= "" and value ~= "0"
end

--- Makes a client. The segment is opened later, on first use.
---@param name string? the name by which VMs of a process share the segment; nil for a private one
---@param options table? those of init that matter when the segment is opened
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
    writers = {}, -- exporters that `text` has made, by module
    ops = {}, -- operations by the definition of their count
    metrics = tree.new "",
    buckets = options.buckets or setup.BUCKETS,
    strict = options.strict or false,
    enabled = options.enabled ~= false and not disabled_by_environment(),
    on_error = options.on_error,
  }, Client)
  client.number = series.register(client)
  return client
end

-- The segment

---@class chalk.Live what the finalizer of a client needs to close it
---@field owns_segment boolean the client opened the segment, so it closes it
---@field close fun()? closes everything; nil once that is done
---@field closed boolean? the segment is closed
---@field ended boolean? the finalizer has run, because the VM is being closed or the client was collected
---@field abandoned boolean? nothing was recorded, so the segment may be made again with other options
---@field driver table? the driver that runs
---@field stuck boolean? a flush thread that could not be ended still uses the segment
---@field listener string? the name under which the sockets are known that init has opened
---@field prepared table[]? the exporters for which they are

-- Gives the client a finalizer that closes its segment, when the client is collected or the VM ends. A flush thread
-- that could not be ended keeps the segment open. A server's first process prepares the client that its children start:
-- a socket that no child has when the VM ends belongs to a configuration that the server refused.
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
    state.close, state.ended = nil, true
    if state.abandoned and ended then
      C.chalk_segment_abandon(segment)
    elseif state.owns_segment and ended then
      state.closed = not shared -- the process keeps a shared segment, so its handles stay valid
      C.chalk_segment_close(segment)
    end
  end
  client.guard = core.finalizer(function()
    if state.close then state.close() end
  end)
end

-- Raises a message. `level` is as in error(), counted from the caller of this function.
local function fail(message, level) error("chalk: " .. message, level == 0 and 0 or level + 1) end

-- Tells the core that it runs in nginx's master: workers, and the new program of an upgrade, inherit the segment and
-- the sockets that it opens, and it may have inherited them itself. The core must know before anything is opened, be it
-- by resty.chalk or by a module that only records.
local function inherit()
  local ngx = rawget(_G, "ngx")
  if ngx and ngx.get_phase and ngx.get_phase() == "init" then C.chalk_inherit(1) end
end

-- The fields that `open` sets.
local OPENED =
  { "segment", "writer", "scratch", "live", "opened_at", "guard", "own", "watch", "epoch", "process_epoch" }

--- Closes the segment again, in which nothing but chalk's own metrics may be defined. The client is then as new.
function Client:close_again()
  self.live.abandoned = self.live.owns_segment
  self.live.close()
  for _, name in ipairs(OPENED) do
    self[name] = nil
  end
  self.states, self.by_definition, self.by_number = {}, {}, {}
end

--- Opens the segment and takes a writer, unless the client has them already.
---@param segment ffi.cdata*? one that is open in this process, to use instead
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

-- Adds chalk's own metrics. `on_stale` watches the epoch through the handle of one of them.
function Client:add_own()
  local definitions = assert(self.registry:own(own.source))
  local found = {}
  for _, definition in ipairs(definitions) do
    found[definition.name] = self:accessor(definition)
  end
  self.watch = found.overflow:with()
  self.epoch, self.process_epoch = self.watch.shared[0], self.watch.own[0]
  return found
end

--- Handles a fork, and drops of series, since the last call. Slow paths call this: a lookup that misses, a record for
--- which the core had to bind the handle again, reading a value, and the drivers.
function Client:on_stale()
  local watch = self.watch
  if not watch then return end
  if watch.own[0] ~= self.process_epoch then
    self.process_epoch = watch.own[0]
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
    -- This code never runs between the comparison and the store of a record. So no record into a dropped series is
    -- under way in this VM, and the core may be told that.
    C.chalk_writer_tick(self.writer)
  end
end

-- Definitions

--- Defines a metric in the core, and notes its number in the state of its accessor.
function Client:define(state)
  local number, message = core_metric.define(self.writer, state.definition, self.buckets)
  if not number then fail(message, 0) end
  state.number = number
  self.by_number[number] = state
end

--- Defines the metric of a handle again after the definition has left the segment, and binds the handle.
---@return boolean bound false when the client does not know the metric, or the core cannot bind the handle
function Client:redefine(handle)
  local state = self.by_number[handle.metric]
  if not state then return false end
  self:define(state)
  handle.metric = state.number
  return C.chalk_rebind(handle) >= 0
end

-- Defines all metrics of a document before a series of any is bound. If one cannot be defined, those before it are
-- taken back, so a document that does not fit into the segment takes no space there.
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

--- Makes the accessors of those definitions that have none yet.
---@param definitions chalk.Definition[]
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

--- Returns the accessor of a definition, always the same one.
function Client:accessor(definition)
  if not self.by_definition[definition] then self:add { definition } end
  return self.by_definition[definition]
end

-- Opens the segment for a definition, unless the client is disabled. Once the VM is being closed nothing is defined any
-- more: finalizers may still record, but LuaJIT can loop forever when a finalizer runs much compiled code at that time.
function Client:ready()
  if self.live and self.live.ended then fail("the VM is closing", 0) end
  if self.enabled then self:open() end
end

--- Loads a document of definitions. Raises one message with all errors if it has any.
---@param source string|table a path, or the structure of metrics.json as a table
---@return table metrics, table tags the tree of all metrics of the client; the constants of the document's enum tags
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

-- Each kind has a method of its name, which defines one metric and returns it.
for _, kind in ipairs(kinds.names) do
  Client[kind] = definer(kind)
end

--- Defines an operation: a count `name` and a histogram `name_duration_seconds`, which are recorded together.
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
  if not state then fail("source takes a metric, not " .. shown(metric), 2) end
  return accessor_source.write(state.definition, self.strict)
end

-- Errors

--- The name of the metric with a number, for messages.
---@param number integer
---@return string
function Client:metric_name(number)
  local state = self.by_number[number]
  return state and state.definition.id_name or "metric"
end

--- Counts an error. Errors of chalk's own metrics are not counted, because counting one would cause it again.
---@param kind string the value of the tag `kind`
---@param state chalk.MetricState? of the metric that met it
function Client:count_error(kind, state)
  if self.own and not (state and state.definition.own) then self.own.errors:with(kind):inc() end
end

--- Counts a lookup that was folded into an overflow series.
---@param state chalk.MetricState? of the metric that met it
function Client:count_overflow(state)
  if self.own and state and not state.definition.own then self.own.overflow:inc() end
end

--- Counts an error and passes its message to `on_error`.
---@return boolean passed false when there is no `on_error`, so the caller has to raise the error
function Client:report(kind, message)
  self:count_error(kind)
  if not self.on_error then return false end
  self.on_error(message)
  return true
end

-- Series that were dropped, bounds that change

--- Sweeps now and then, so that dropped series can be reused, in a client that has no flush loop to do so.
---@param dropped integer how many series were just dropped
function Client:tidy(dropped)
  if self.live.driver or self.live.closed or self.hands_on then return end
  self.dropped = (self.dropped or 0) + dropped
  if self.dropped < SWEEP_AFTER or C.chalk_hold(self.segment, 0) ~= 1 then return end
  self.dropped = 0
  C.chalk_writer_tick(self.writer)
  local v = view.take(self.segment)
  if v then
    C.chalk_sweep(v.snapshot, C.chalk_now(), ffi.new("double[?]", #kinds.names))
    view.free(v)
  end
  C.chalk_release(self.segment)
end

--- Gives a histogram other bounds: it starts again without values, and its series have to be looked up again.
---@param metric chalk.Metric
---@param list number[]
---@return boolean recorded whether it had any value
function Client:change_bounds(metric, list) return bounds.change(self, accessor.state_of(metric), list) end

-- Init

--- Attaches to the driver of another VM of this process, instead of `start`: flushes are requested from that driver.
function Client:attach()
  if self.config then self.live.driver = require("chalk.flush.driver.thread").attach(self, self.config) end
end

--- Checks the options of init.
---@param options table
---@return string? problem nil when they are valid
function Client.problem_of(options) return option.check(options) or exporters.check(options) end

--- Does all of init except starting the driver. A process that does not export itself calls this, and the processes
--- that it forks call `start`.
---@param options table?
---@return boolean? ok, string? message
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

--- The same as `init`, except that it returns nil and a message where `init` raises. Nothing is left of an attempt that
--- failed.
---@param options table?
---@return boolean? ok, string? message
function Client:try_init(options)
  local ok, message = self:prepare(options)
  if not ok then return nil, message end
  ok, message = setup.attempt(self, self.start)
  self.initialised, self.undo = ok, nil
  if not ok then return nil, message end
  return true
end

--- Starts exporting. Raises an error for wrong options and if it was called before.
---@param options table?
function Client:init(options)
  local ok, message = self:try_init(options)
  if not ok then fail(message, 2) end
end

-- Flushing

--- Runs one flush now, and returns when all exporters are done.
---@param timeout number? seconds (10)
---@return boolean? ok, string? message
function Client:flush(timeout)
  local driver = self.live and self.live.driver
  if driver then return driver:flush(timeout or 10) end
  if self.flush_unstarted then return self.flush_unstarted(timeout) end
  return true
end

--- Flushes a last time and stops exporting. It may be repeated.
---@param timeout number? seconds (10)
---@return boolean? ok, string? message
function Client:shutdown(timeout)
  local driver = self.live and self.live.driver
  if not driver then return true end
  return driver:close(timeout or 10)
end

--- Sets the gauges among chalk's own metrics. It is called before each snapshot that is exported.
function Client:note_state()
  local info = ffi.new "chalk_info"
  C.chalk_segment_info(self.segment, info)
  self.own.series:set(info.series)
  if info.heartbeat > 0 then self.own.flush_age:set(math.max(0, C.chalk_now() - info.heartbeat)) end
end

--- Returns all metrics as text.
---@param format ("prometheus"|"openmetrics"|"statsd")? "prometheus" when left out
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

local INFO = "epoch heartbeat flushed memory memory_limit requested done folded series quarantined max_series capacity "
  .. "metrics writers generation holder"

--- Returns numbers about the segment, for diagnosis; all are 0 if the client is disabled. chalk_info in chalk.h says
--- what each is.
---@return table<string, number>
function Client:info()
  self:ready()
  local info = ffi.new "chalk_info"
  if self.segment then C.chalk_segment_info(self.segment, info) end
  local out = {}
  for name in INFO:gmatch "%S+" do
    out[name] = tonumber(info[name])
  end
  return out
end

-- Users call these methods. A call with a dot instead of a colon is an error at the caller's line. Records do not pass
-- through these methods, so the check costs them nothing.
local METHODS = "load op source init try_init flush shutdown text info " .. table.concat(kinds.names, " ")

for name in METHODS:gmatch "%S+" do
  local method = Client[name]
  Client[name] = function(self, ...)
    if getmetatable(self) == Client then return method(self, ...) end
    error(("chalk: %s must be called on a client, with a colon: client:%s(...)"):format(name, name), 2)
  end
end

return M
