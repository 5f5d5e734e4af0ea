--- Makes a client with instrumented functions, and reads back what they recorded.

local chalk = require "chalk"
local autometrics = require "chalk.autometrics"
local exposition = require "support.exposition"

local M = {}

--- Returns the functions of chalk.autometrics for a new client, and the client.
---@param options table|false|nil options of init; false: init is not called
---@param client_options table? options of chalk.new
---@return table auto, chalk.Client client
function M.new(options, client_options)
  local client = chalk.new(client_options)
  local auto = autometrics.new(client)
  if options ~= false then auto.init(options or { service_name = "spec" }) end
  return auto, client
end

--- Returns the samples of a metric by the values of some labels, joined by spaces. A missing label counts as "".
---@param client chalk.Client
---@param name string
---@return table<string, number>
function M.by(client, name, ...)
  local found = {}
  for key, value in pairs((exposition.parse(client:text()))) do
    if key:match "^[%w_]+" == name then
      local labels = {}
      for i, label in ipairs { ... } do
        labels[i] = key:match("[{,]" .. label .. '="([^"]*)"') or ""
      end
      local id = table.concat(labels, " ")
      found[id] = (found[id] or 0) + value
    end
  end
  return found
end

--- Returns the counts of calls by function and result.
---@param client chalk.Client
function M.results(client) return M.by(client, "function_calls_total", "function", "result") end

return M
