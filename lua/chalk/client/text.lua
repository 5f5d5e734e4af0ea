-- chalk.text(): all metrics as an exporter would write them. It makes exporters that neither serve nor send.

local contract = require "chalk.exporter"
local exporters = require "chalk.flush.exporters"
local option = require "chalk.define.options"
local shown = require "chalk.base.shown"
local view = require "chalk.read.view"

local M = {}

-- A format has the name of the exporter that writes it, except these.
local WRITERS = { openmetrics = "prometheus" }

---@class chalk.TextOptions
---@field unset boolean? also show gauges that have a series and were never set, as 0
---@field exporter table? options of the format's exporter, instead of those of the first such exporter given to init

local CHECKS = {
  unset = option.of_type("boolean", "true or false"),
  exporter = option.of_type("table", "options of an exporter"),
}

local function module_of(format) return "chalk.exporter." .. (WRITERS[format] or format) end

local function is_format(format)
  local module = type(format) == "string" and format:find "^[%w_]+$" and contract.module(module_of(format))
  return module and module.formats and module.formats[format] or false
end

local BAD_FORMAT = 'text takes "prometheus", "openmetrics" or "statsd", not '

--- Checks the arguments of text.
---@param format any
---@param options any
---@return string? problem nil when they are valid
function M.problem(format, options)
  if not is_format(format) then return BAD_FORMAT .. shown(format) end
  if options == nil then return nil end
  if type(options) ~= "table" then return "text: options must be a table, got " .. shown(options) end
  local problems = option.problems(options, CHECKS)
  if problems[1] then return "text: " .. table.concat(problems, "; ") end
  if not options.exporter then return nil end
  local resolved, problem = contract.resolve(require(module_of(format)), options.exporter)
  return not resolved and "text: exporter: " .. problem or nil
end

--- The text of a client that is disabled.
---@param format "prometheus"|"openmetrics"|"statsd"
---@return string
function M.empty(format) return format == "openmetrics" and "# EOF\n" or "" end

-- The exporter that writes. The client keeps it, unless `given` has options for this text only.
local function writer_of(client, module, given)
  local kept = not given and client.writers[module]
  if kept then return kept end
  local made = require(module).new(exporters.options_of(client.options, module, given))
  if not given then client.writers[module] = made end
  return made
end

--- Returns all metrics of a client whose segment is open.
---@param client chalk.Client
---@param format "prometheus"|"openmetrics"|"statsd"
---@param options chalk.TextOptions?
---@return string
function M.render(client, format, options)
  options = options or {}
  local writer = writer_of(client, module_of(format), options.exporter)
  local v = assert(view.take(client.segment, false, options.unset))
  local text = writer:text(v, format)
  view.free(v)
  return text
end

return M
