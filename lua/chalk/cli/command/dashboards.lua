-- chalk dashboards writes dashboards for Grafana.

local failure = require "chalk.cli.failure"
local files = require "chalk.cli.files"
local pretty = require "chalk.cli.pretty"
local schema = require "chalk.define.schema"

local M = {
  name = "dashboards",
  summary = "write dashboards for Grafana",
  operands = "-o DIR [OPTION]... [FILE...]",
  text = "Writes dashboards into DIR, which is created if it is missing. Without FILEs: an overview and an explorer\n"
    .. "of wrapped functions, and their objectives. With metrics.json FILEs: one dashboard for each FILE instead.",
  options = {
    { "output", short = "o", value = "DIR", text = "the directory to write to" },
    { "namespace", value = "NAME", text = "the Prometheus exporter's namespace, for FILEs only" },
    { "title", value = "TITLE", text = "the title of the dashboard, for one FILE only" },
  },
}

local function check(values, paths)
  if not values.output then failure.usage "dashboards: -o DIR is needed" end
  if values.title and #paths ~= 1 then failure.usage "dashboards: --title needs exactly one FILE" end
  local namespace = values.namespace
  if namespace and #paths == 0 then
    failure.usage "dashboards: --namespace needs a FILE: the metrics of functions have no namespace"
  end
  if namespace and not namespace:find "^[%a_:][%w_:]*$" then
    failure.usage(
      'dashboards: --namespace: "%s" must have only letters, digits, _ and :, and begin with no digit',
      namespace
    )
  end
end

local function stem(path) return ((path:match "([^/]+)$" or path):gsub("%.json$", "")) end

-- Returns the title of a file's dashboard. It has the namespace, because the files of two services may have the same
-- name.
local function title(path, values)
  return values.title or (values.namespace and values.namespace .. " " or "") .. stem(path)
end

local function of_definitions(paths, values)
  local found = {}
  for _, path in ipairs(paths) do
    local definitions, errors = schema.new():add(path)
    if not definitions then failure.fail(table.concat(errors, "\nchalk: ")) end
    if #definitions == 0 then failure.fail("%s: the file defines no metrics", path) end
    local name = stem(path) .. ".json"
    if found[name] then failure.usage("dashboards: two FILEs would be written to %s", name) end
    found[name] = require("chalk.cli.metrics_dashboard").generate(definitions, {
      title = title(path, values),
      namespace = values.namespace,
    })
  end
  return found
end

---@param values table
---@param paths string[]
---@param out chalk.cli.Out
function M.run(values, paths, out)
  check(values, paths)
  local found = #paths > 0 and of_definitions(paths, values) or require("chalk.cli.dashboards").generate()
  local written, folder = {}, values.output:gsub("(.)/+$", "%1")
  for name, dashboard in pairs(found) do
    written[#written + 1] = { path = folder .. "/" .. name, text = pretty.json(dashboard) }
  end
  table.sort(written, function(a, b) return a.path < b.path end)
  files.make_folder(folder)
  files.write(written)
  for _, file in ipairs(written) do
    out.write(file.path .. "\n")
  end
end

return M
