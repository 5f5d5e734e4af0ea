-- chalk.text(): all metrics as an exporter would write them, without one that serves or sends.

local contract = require "chalk.exporter"
local exporters = require "chalk.flush.exporters"
local option = require "chalk.define.options"
local view = require "chalk.read.view"

local M = {}

-- A format has the name of the exporter that writes it, except for these.
local WRITERS = { openmetrics = "prometheus" }

---@class chalk.TextOptions
---@field unset boolean? also gauges that have a series and were never set, as 0
---@field exporter table? options of that format's exporter, instead of those of the first one that init was given

local CHECKS = {
  unset = option.of_type("boolean", "true or false"),
  exporter = option.of_type("table", "options of an exporter"),
}

local function module_of(format) return "chalk.exporter." .. (WRITERS[format] or format) end

local function is_format(format)
  local module = type(format) == "string" and format:find "^[%w_]+$" and contract.module(module_of(format))
  return module and module.formats and module.formats[format] or false
end

local WRONG = 'text takes "prometheus", "openmetrics" or "statsd"'

--- What is wrong with the arguments of text; nil when nothing is.
---@param format any
---@param options any
---@return string?
function M.problem(format, options)
  if not is_format(format) then return WRONG end
  if options == nil then return nil end
  if type(options) ~= "table" then return "text: options are a table" end
  local problems = option.problems(options, CHECKS)
  if problems[1] then return "text: " .. table.concat(problems, "; ") end
  if not options.exporter then return nil end
  local resolved, problem = contract.resolve(require(module_of(format)), options.exporter)
  return not resolved and "text: exporter: " .. problem or nil
end

--- What there is where nothing is recorded.
---@param format "prometheus"|"openmetrics"|"statsd"
---@return string
function M.empty(format) return format == "openmetrics" and "# EOF\n" or "" end

-- The exporter that writes: one that is kept, unless it is for this text only.
local function writer_of(client, module, given)
  local kept = not given and client.writers[module]
  if kept then return kept end
  local made = require(module).new(exporters.options_of(client.options, module, given))
  if not given then client.writers[module] = made end
  return made
end

--- All metrics of a client that has its segment.
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
