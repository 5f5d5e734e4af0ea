-- chalk: metrics for LuaJIT programs with a C hot path.
--
--     local chalk = require "chalk"
--     local metrics, tags = chalk.load "metrics.json"
--     metrics.http.request_count{ endpoint = "/api", status = "success" }:inc()
--     chalk.init { exporters = { chalk.exporter.prometheus { listen = "127.0.0.1:9464" } } }
--
-- The functions of this module are methods of one client, chalk.global, which all code of the VM shares.

local client = require "chalk.client"
local exporters = require "chalk.flush.exporters"
local shown = require "chalk.base.shown"
local sketch = require "chalk.record.sketch"

local global = require "chalk.global"

---@class chalk
local M = { exporter = exporters.constructors, sketch = sketch.new, _VERSION = "chalk " .. require "chalk.version" }

--- Loads a document of definitions. Raises one message with all errors if it has any.
---@param source string|table a path, or the structure of metrics.json as a table
---@return table metrics, table tags the tree of all metrics of the client; the constants of the document's enum tags
function M.load(source) return global:load(source) end

--- Defines a count and returns it.
---@param name string
---@param spec table? namespace, tags, description, unit, max_series
---@return chalk.Metric
function M.count(name, spec) return global:count(name, spec) end

--- Defines a gauge and returns it.
---@param name string
---@param spec table? namespace, tags, description, unit, max_series, across
---@return chalk.Metric
function M.gauge(name, spec) return global:gauge(name, spec) end

--- Defines a histogram and returns it.
---@param name string
---@param spec table? namespace, tags, description, unit, max_series, buckets
---@return chalk.Metric
function M.histogram(name, spec) return global:histogram(name, spec) end

--- Defines an operation, which records the count `name` and the histogram `name_duration_seconds` together.
---@param name string
---@param spec table? namespace, tags, description, max_series, buckets
---@return chalk.Op
function M.op(name, spec) return global:op(name, spec) end

--- The generated Lua source behind a metric.
---@param metric chalk.Metric
---@return string
function M.source(metric) return global:source(metric) end

--- Starts exporting. Raises an error for wrong options and if it was called before.
---@param options table?
function M.init(options) return global:init(options) end

--- The same as `init`, except that it returns nil and a message where `init` raises.
---@param options table?
---@return boolean? ok, string? message
function M.try_init(options) return global:try_init(options) end

--- Runs one flush now, and returns when all exporters are done.
---@param timeout number? seconds (10)
---@return boolean? ok, string? message
function M.flush(timeout) return global:flush(timeout) end

--- Flushes a last time and stops exporting. This also happens automatically at exit. It may be repeated.
---@param timeout number? seconds (10)
---@return boolean? ok, string? message
function M.shutdown(timeout) return global:shutdown(timeout) end

--- Returns all metrics as text.
---@param format ("prometheus"|"openmetrics"|"statsd")? "prometheus" when left out
---@param options chalk.TextOptions?
---@return string
function M.text(format, options) return global:text(format, options) end

--- Returns numbers about the segment, for diagnosis.
---@return table<string, number>
function M.info() return global:info() end

--- Makes a separate client with the same methods, for tests and for libraries that must not share the global client.
---@param options table?
---@return chalk.Client
function M.new(options)
  if options ~= nil and type(options) ~= "table" then
    error("chalk: options must be a table, got " .. shown(options), 2)
  end
  local one = client.new(nil, options)
  if options then
    local ok, message = one:try_init(options)
    if not ok then error("chalk: " .. message, 2) end
  end
  return one
end

return M
