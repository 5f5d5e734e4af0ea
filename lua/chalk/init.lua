-- chalk: metrics for LuaJIT programs with a C hot path.
--
--     local chalk = require "chalk"
--     local metrics, tags = chalk.load "metrics.json"
--     metrics.http.request_count{ endpoint = "/api", status = "success" }:inc()
--     chalk.init { exporters = { chalk.exporter.prometheus { listen = "127.0.0.1:9464" } } }
--
-- The functions of this module are the methods of one client that the whole process shares.

local client = require "chalk.client"
local exporters = require "chalk.flush.exporters"
local shown = require "chalk.base.shown"
local sketch = require "chalk.record.sketch"

local global = require "chalk.global"

---@class chalk
local M = { exporter = exporters.constructors, sketch = sketch.new, _VERSION = "chalk " .. require "chalk.version" }

--- Loads definitions: a path, or the structure of metrics.json as a table.
---@param source string|table
---@return table metrics, table tags
function M.load(source) return global:load(source) end

---@param name string
---@param spec table?
---@return chalk.Metric
function M.count(name, spec) return global:count(name, spec) end

---@param name string
---@param spec table?
---@return chalk.Metric
function M.gauge(name, spec) return global:gauge(name, spec) end

---@param name string
---@param spec table?
---@return chalk.Metric
function M.histogram(name, spec) return global:histogram(name, spec) end

---@param name string
---@param spec table?
---@return chalk.Op
function M.op(name, spec) return global:op(name, spec) end

---@param metric chalk.Metric
---@return string
function M.source(metric) return global:source(metric) end

---@param options table?
function M.init(options) return global:init(options) end

---@param options table?
---@return boolean?, string?
function M.try_init(options) return global:try_init(options) end

---@param timeout number?
---@return boolean?, string?
function M.flush(timeout) return global:flush(timeout) end

---@param timeout number?
---@return boolean?, string?
function M.shutdown(timeout) return global:shutdown(timeout) end

--- All metrics as text.
---@param format ("prometheus"|"openmetrics"|"statsd")? "prometheus" when left out
---@param options chalk.TextOptions?
---@return string
function M.text(format, options) return global:text(format, options) end

---@return table
function M.info() return global:info() end

--- A client of its own, with the same methods: for tests, and for libraries that must not share the global one.
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
