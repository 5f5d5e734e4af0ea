-- The steps of init up to the start of the driver. Each step appends to `client.undo` a function that undoes it, so an
-- init that fails at a later step leaves nothing behind.

local accessor = require "chalk.record.accessor"
local bounds = require "chalk.client.bounds"
local core = require "chalk.core"
local exporters = require "chalk.flush.exporters"
local log = require "chalk.base.log"
local luv = require "chalk.flush.driver.luv"
local op = require "chalk.record.op"
local paths = require "chalk.base.paths"

local ffi, C = core.ffi, core.C

local M = {}

local DEFAULTS = { driver = "thread", flush_interval = 10 }

--- The bounds of histograms if neither the definition nor an option names others.
M.BUCKETS = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10 }

--- Returns the options in the form that the core takes. A 0 stands for the core's default.
---@param options table
---@return ffi.cdata*
function M.core_options(options)
  return ffi.new("chalk_options", {
    path = options.segment_path,
    segment_group = options.segment_group and 1 or 0,
    memory_limit = options.memory_limit or 0,
    max_series = options.max_series or 0,
    max_buckets = options.max_buckets or 0,
    initial_error = options.initial_error or 0,
  })
end

local function undo_by(client, f) client.undo[#client.undo + 1] = f end

-- Makes the functions of all metrics and operations again, for the options that are in force now.
local function fill_all(client)
  for _, state in ipairs(client.states) do
    accessor.fill(state)
  end
  for _, one in pairs(client.ops) do
    if not client.enabled then op.disable(one) end
  end
end

local SETTINGS = { "options", "enabled", "strict", "on_error" }

-- Returns whether the functions of accessors have to be made again.
local function take_settings(client, options)
  local before = {}
  for _, name in ipairs(SETTINGS) do
    before[name] = client[name]
  end
  client.options, client.on_error, client.writers = options, options.on_error, {}
  client.enabled, client.strict = client.enabled and options.enabled ~= false, options.strict or false
  local changes = client.enabled ~= before.enabled or client.strict ~= before.strict
  undo_by(client, function()
    for _, name in ipairs(SETTINGS) do
      client[name] = before[name]
    end
    if changes then fill_all(client) end
  end)
  return changes
end

local function take_segment(client, options)
  if client.segment and options.segment_path and options.segment_path ~= client.opened_at then
    error("segment_path must be given before anything is loaded: call init before load", 0)
  end
  local was_open = client.segment ~= nil
  client:open()
  if not was_open then undo_by(client, function() client:close_again() end) end
end

local function change_limits(client, options)
  local before = ffi.new "chalk_info"
  C.chalk_segment_info(client.segment, before)
  local wanted = M.core_options(options)
  if C.chalk_segment_configure(client.segment, wanted, core.message) ~= 0 then error(core.said(), 0) end
  local old = ffi.new("chalk_options", { max_series = before.max_series, memory_limit = before.memory_limit })
  undo_by(client, function() C.chalk_segment_configure(client.segment, old, core.message) end)
end

local function take_buckets(client, options)
  local before = client.buckets
  local buckets, message = exporters.buckets(options, M.BUCKETS)
  if not buckets then error(message, 0) end
  undo_by(client, function() bounds.change_defaults(client, before) end)
  bounds.change_defaults(client, buckets)
end

--- The module of the driver that these options name.
---@param options table
function M.driver_of(options) return require("chalk.flush.driver." .. (options.driver or DEFAULTS.driver)) end

-- Opens the sockets on which exporters listen.
local function listen(client, specs)
  local listener = exporters.listener(client)
  undo_by(client, function()
    client.live.prepared = nil
    exporters.discard_sockets(listener, specs)
  end)
  exporters.listen(client, specs)
  client.live.listener, client.live.prepared = listener, specs
end

-- Switches the event tap on for the kinds of metrics of which exporters want events from the start.
local function switch_tap(client, list)
  local kinds, events = exporters.events(list)
  if kinds == 0 then return end
  if C.chalk_tap_kinds(client.segment) == 0 then
    undo_by(client, function() C.chalk_tap_switch(client.segment, 0, 0, 0) end)
  end
  C.chalk_tap_switch(client.segment, kinds, events, 1)
end

local function is_flushed(options) return #(options.exporters or {}) > 0 or options.idle_timeout ~= nil end

-- Loads the modules that the driver will load, to find errors early. There must be descriptors for that: a module that
-- could be read in part only cannot be loaded again.
local function try_modules(options)
  luv.need_descriptors()
  local driver = M.driver_of(options)
  if driver.try then driver.try(exporters.untried(options.exporters or {})) end
end

-- The configuration of the driver; nil when there is nothing to export and no idle timeout.
local function driver_config(client, options)
  if not is_flushed(options) then return nil end
  local list = options.exporters or {}
  local specs = exporters.specs(list)
  listen(client, specs)
  switch_tap(client, list)
  return {
    exporters = specs,
    interval = options.flush_interval or DEFAULTS.flush_interval,
    idle = exporters.idle(options.idle_timeout),
    global_tags = options.global_tags or {},
    generation = C.chalk_generation(client.segment, 0) + 1,
    clock = options.clock,
    paths = paths.absolute(), -- made now, because nginx changes the directory of a worker
  }
end

--- Runs all steps. Raises an error if one fails.
---@param client chalk.Client
---@param options table
function M.prepare(client, options)
  local problem = client.problem_of(options)
  if problem then error(problem, 0) end
  client:on_stale() -- notices a fork before now, which does not concern the driver
  local changes = take_settings(client, options)
  if client.enabled then
    if is_flushed(options) then try_modules(options) end
    take_segment(client, options)
    change_limits(client, options)
    take_buckets(client, options)
  end
  if changes then fill_all(client) end
  client.config = client.enabled and driver_config(client, options) or nil
end

local function without_prefix(message) return (log.text(message):gsub("^chalk: ", "")) end

--- Runs some steps of init. If one fails, all steps so far are undone, the last first.
---@param client chalk.Client
---@param steps fun(client: chalk.Client, ...)
---@return boolean ok, string? message
function M.attempt(client, steps, ...)
  local ok, message = pcall(steps, client, ...)
  if ok then return true end
  for i = #client.undo, 1, -1 do
    pcall(client.undo[i])
  end
  client.undo, client.config = nil, nil
  return false, without_prefix(message)
end

return M
