--- Checks the options of the Prometheus exporter and adds defaults.

local json = require "chalk.base.json"
local lists = require "chalk.base.lists"
local listen_address = require "chalk.net.listen_address"
local naming = require "chalk.define.naming"
local validate = require "chalk.define.validate"
local definition = require "chalk.define.definition"

local M = {}

local FIELDS = {
  { "namespace", "string" },
  { "listen", "string" },
  { "path", "string" },
  { "buckets", "list" },
  { "name", "string" },
  { "global_tags", "object" },
}

local SCALARS = { string = true, number = true, boolean = true }

local function check_namespace(report, path, namespace)
  if not namespace:find "^[a-zA-Z_:][a-zA-Z0-9_:]*$" then
    report:add(
      path,
      "bad namespace %s: expected letters, digits, _ and :, not starting with a digit",
      validate.quote(namespace)
    )
  end
end

local function check_listen(report, path, address)
  local problem = listen_address.problem(address, true)
  if problem then report:add(path, "%s", problem) end
end

local function check_path(report, path, value)
  if not value:find "^/[!-~]*$" or value:find "[?#]" then
    report:add(
      path,
      'bad path %s: expected one that starts with "/", without blanks, "?" or "#"',
      validate.quote(value)
    )
  end
end

local function check_bound(report, path, bound, before)
  if not validate.check(report, path, bound, "number") then
    return
  elseif bound ~= bound or math.abs(bound) == math.huge then
    report:add(path, "expected a finite number, got %.14g", bound)
  elseif type(before) == "number" and bound <= before then
    report:add(path, "expected bounds that increase: %.14g is not greater than %.14g", bound, before)
  end
end

local function check_buckets(report, path, buckets)
  if #buckets == 0 or #buckets > definition.MAX_BUCKETS then
    report:add(path, "expected 1 to %d bounds, got %d", definition.MAX_BUCKETS, #buckets)
    return
  end
  for i, bound in ipairs(buckets) do
    check_bound(report, validate.at(path, i), bound, buckets[i - 1])
  end
end

local function check_tag(report, path, name, value)
  local label = naming.label(name)
  if definition.is_reserved(label) then
    report:add(path, "label name %s is reserved by Prometheus", validate.quote(label))
  elseif not SCALARS[type(value)] then
    report:add(path, "expected a string, a number or a boolean, got %s", validate.describe(value))
  elseif type(value) == "string" and (json.invalid_utf8(value) or value:find("\0", 1, true)) then
    report:add(path, "expected valid UTF-8 without NUL")
  end
end

local function check_global_tags(report, path, tags)
  local names = {}
  for _, name in ipairs(lists.names(tags)) do
    local label = naming.label(name)
    if names[label] then
      report:add(
        validate.at(path, name),
        "exported as %s, like %s",
        validate.quote(label),
        validate.quote(names[label])
      )
    end
    names[label] = name
    check_tag(report, validate.at(path, name), name, tags[name])
  end
end

local CHECKS = {
  { "namespace", check_namespace },
  { "listen", check_listen },
  { "path", check_path },
  { "buckets", check_buckets },
  { "global_tags", check_global_tags },
}

--- Returns the options with defaults; or nil and a message that lists all problems.
---@param options any
---@return chalk.prometheus.Options? resolved, string? message
function M.resolve(options)
  local report = validate.report "prometheus"
  local read = validate.object(report, "", options, FIELDS)
  for _, check in ipairs(read and CHECKS or {}) do
    local name, run = check[1], check[2]
    if read[name] then run(report, name, read[name]) end
  end
  if report.errors[1] then return nil, table.concat(report.errors, "; ") end
  local resolved = {}
  for name, value in pairs(options) do
    resolved[name] = value
  end
  resolved.path = resolved.path or "/metrics"
  return resolved
end

return M
