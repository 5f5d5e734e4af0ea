--- Checks one tag or one metric as it is written in a document, and makes its definition.
--
-- A definition is checked by itself here; chalk.define.stage checks it against other definitions. An invalid part is
-- reported and left out, and reading goes on, so one reading finds all errors.

local json = require "chalk.base.json"
local kinds = require "chalk.define.kinds"
local validate = require "chalk.define.validate"
local naming = require "chalk.define.naming"
local shown = require "chalk.base.shown"

local M = {}

---@class chalk.Tag a tag of one metric
---@field name string the name of the tag definition
---@field key string the name in `metric{...}` and in what is exported
---@field kind "enum"|"string"
---@field values string[]? the allowed values of an enum
---@field optional boolean

---@class chalk.Definition
---@field id_name string e.g. "http.auth.login_latency"
---@field namespace string[]
---@field name string
---@field flat string e.g. "HttpAuthLoginLatency"
---@field type string a kind of metric, see chalk.define.kinds
---@field description string
---@field unit string?
---@field buckets number[]?
---@field max_series integer?
---@field across "last"|"sum"|"min"|"max"
---@field tags chalk.Tag[]
---@field own boolean? true for chalk's own metrics and those of instrumented functions

M.MAX_NAME = 128
M.MAX_DEPTH = 32
M.MAX_TAGS = 32
M.MAX_BUCKETS = 64
M.MAX_DESCRIPTION = 65536
M.MAX_SERIES = 2147483647

M.ACROSS = { "last", "sum", "min", "max" }
local TAG_KINDS = { "enum", "string" }
local RESERVED = { le = true, quantile = true }

local TAG_FIELDS = {
  { "value_type", "string", true },
  { "values", "list" },
  { "export_name", "string" },
}

--- The fields of a metric without its name and type, as {name, kind, required}.
M.FIELDS = {
  { "tags", "list" },
  { "description", "string" },
  { "unit", "string" },
  { "buckets", "list" },
  { "max_series", "number" },
  { "across", "string" },
}

--- All fields of a metric in a document.
M.METRIC_FIELDS = {
  { "name", "string", true },
  { "type", "string", true },
  unpack(M.FIELDS),
}

local function contains(list, value)
  for _, item in ipairs(list) do
    if item == value then return true end
  end
  return false
end

local function check_choice(report, path, what, value, list)
  if contains(list, value) then return true end
  report:add(path, "unknown %s %s%s", what, validate.quote(value), report:choices(value, list))
  return false
end

--- Whether a string may be the name of a metric, a tag or a namespace.
---@param name string
---@return boolean
function M.is_name(name) return #name <= M.MAX_NAME and name:find "^[a-zA-Z_][a-zA-Z0-9_]*$" ~= nil end

--- Whether a string may be an export name. It may contain - . and / too, which StatsD's tag keys have; the other
--- formats write them as _.
---@param key string
---@return boolean
function M.is_key(key) return #key <= M.MAX_NAME and key:find "^[a-zA-Z_][a-zA-Z0-9_./-]*$" ~= nil end

-- Reports why a name is not valid.
local function refuse_name(report, path, what, name, characters)
  if #name > M.MAX_NAME then
    report:add(path, "%s %s is longer than %d bytes", what, validate.quote(name), M.MAX_NAME)
  else
    report:add(path, "bad %s %s: expected %s, not starting with a digit", what, validate.quote(name), characters)
  end
  return false
end

--- Whether a string is a valid name. Reports an error when it is not.
---@param report chalk.Report
---@param path string
---@param what string the kind of name in the message, such as `metric name`
---@param name string
---@return boolean
function M.check_name(report, path, what, name)
  return M.is_name(name) or refuse_name(report, path, what, name, "letters, digits and _")
end

--- Whether Prometheus reserves a label name.
---@param label string
---@return boolean
function M.is_reserved(label) return RESERVED[label] or label:sub(1, 2) == "__" end

local function check_key(report, path, key)
  local label = naming.label(key)
  if M.is_reserved(label) then
    local words = "label name %s is reserved by Prometheus: choose another export_name"
    report:add(path, words, validate.quote(label))
    return false
  end
  return true
end

local function check_export_name(report, path, name)
  if not M.is_key(name) then
    return refuse_name(report, path, "export name", name, "letters, digits, _ - . and /")
  end
  return check_key(report, path, name)
end

local function check_text(report, path, text)
  local bad = json.invalid_utf8(text)
  if bad then
    report:add(path, "not valid UTF-8 at byte %d", bad)
  elseif text:find("\0", 1, true) then
    report:add(path, "a NUL byte cannot be exported: leave it out")
  end
end

local function check_value(report, path, value, first)
  if not validate.check(report, path, value, "string") then
    return
  elseif value == "" then
    report:add(path, 'the empty value is the same as an absent tag: leave it out and make the tag "optional"')
  elseif first[value] then
    report:add(path, "value %s is listed twice", validate.quote(value))
  else
    check_text(report, path, value)
    first[value] = true
  end
end

local function check_values(report, path, values)
  if #values == 0 then report:add(path, "an enum needs at least one value") end
  local first = {}
  for i, value in ipairs(values) do
    check_value(report, validate.at(path, i), value, first)
  end
end

local function check_tag_values(report, path, read, given)
  if read.value_type == "enum" and not given then
    report:add(path, 'missing field "values", expected an array of the strings that the enum allows')
  elseif read.value_type == "enum" and read.values then
    check_values(report, validate.at(path, "values"), read.values)
  elseif read.value_type == "string" and given then
    report:add(
      validate.at(path, "values"),
      'only an enum has values: leave the field out, or set value_type to "enum"'
    )
  end
end

--- Reads a tag definition of a document.
---@param report chalk.Report
---@param path string
---@param name string
---@param value any as written
---@return table? tag {name, kind, values, key}; nil when it has an error
function M.tag(report, path, name, value)
  local errors_before = report.total
  M.check_name(report, path, "tag name", name)
  local read = validate.object(report, path, value, TAG_FIELDS)
  if not read then return nil end
  local kind = read.value_type
  if kind and check_choice(report, validate.at(path, "value_type"), "value_type", kind, TAG_KINDS) then
    check_tag_values(report, path, read, validate.has(value, "values"))
  end
  if read.export_name then
    check_export_name(report, validate.at(path, "export_name"), read.export_name)
  else
    check_key(report, path, name)
  end
  if report.total == errors_before then
    return { name = name, kind = kind, values = read.values, key = read.export_name or name }
  end
end

local REFERENCE_FIELDS = {
  { "tag", "string", true },
  { "export_name", "string" },
  { "optional", "boolean" },
}

local INLINE_FIELDS = {
  { "tag", "string", true },
  { "export_name", "string" },
  { "optional", "boolean" },
  { "values", "list" },
}

--- Makes the function that reads an item of a metric's `tags` in a document: a reference to a tag that is defined.
---@param find fun(name: string): table|false|nil returns the tag, or false for a tag whose definition has an error
---@param names fun(): string[] the names of all tags, for hints
---@return fun(report: chalk.Report, path: string, item: any): table?, table? resolve returns the tag and the reference
function M.by_reference(find, names)
  return function(report, path, item)
    local read = validate.object(report, path, item, REFERENCE_FIELDS)
    if not (read and read.tag) then return nil end
    local tag = find(read.tag)
    if tag == nil then
      local hint = report:hint(read.tag, names)
      if hint == "" then hint = ', expected one that is defined in "tags"' end
      report:add(path, "unknown tag %s%s", validate.quote(read.tag), hint)
    end
    return tag or nil, read
  end
end

--- Makes the function that reads an item of a metric's `tags` in a program: the name of a tag, or a table with the name
--- and perhaps `values` for this metric only. An unknown name is a new tag that takes any string.
---@param find fun(name: string): table?
---@return fun(report: chalk.Report, path: string, item: any): table?, table? resolve returns the tag and the reference
function M.inline(find)
  return function(report, path, item)
    local read = type(item) == "string" and { tag = item } or validate.object(report, path, item, INLINE_FIELDS)
    if not (read and read.tag and M.check_name(report, path, "tag name", read.tag)) then return nil end
    if read.values then
      check_values(report, validate.at(path, "values"), read.values)
      return { name = read.tag, kind = "enum", values = read.values, key = read.tag }, read
    end
    return find(read.tag) or { name = read.tag, kind = "string", key = read.tag }, read
  end
end

local function read_tag(report, path, item, resolve)
  local tag, read = resolve(report, path, item)
  if not tag then return nil end
  local key = tag.key
  if read.export_name then
    key = read.export_name
    check_export_name(report, validate.at(path, "export_name"), key)
  else
    check_key(report, path, key)
  end
  return { name = tag.name, key = key, kind = tag.kind, values = tag.values, optional = read.optional or false }
end

-- The message about a tag that has the same label as an earlier tag of the metric.
local function label_clash(tag, other)
  local name, key, before = validate.quote(tag.name), validate.quote(tag.key), validate.quote(other.name)
  local advice = ": give one of them another export_name"
  if tag.key ~= other.key then
    local label = validate.quote(naming.label(tag.key))
    return ("tag %s is exported to Prometheus as %s, like tag %s%s"):format(name, label, before, advice)
  elseif tag.name == other.name then
    return ("tag %s is listed twice under the name %s%s"):format(name, key, advice)
  end
  return ("tag %s is exported as %s, like tag %s%s"):format(name, key, before, advice)
end

-- A metric may refer to a tag several times, under different labels: every format tells a metric's tags apart by label.
local function read_tags(report, path, list, resolve)
  if #list > M.MAX_TAGS then
    report:add(path, "%d tags, at most %d are allowed", #list, M.MAX_TAGS)
    return {}
  end
  local tags, held = {}, {}
  for i, item in ipairs(list) do
    local at = validate.at(path, i)
    local tag = read_tag(report, at, item, resolve)
    local other = tag and held[naming.label(tag.key)]
    if other then
      report:add(at, "%s", label_clash(tag, other))
    elseif tag then
      tags[#tags + 1] = tag
      held[naming.label(tag.key)] = tag
    end
  end
  return tags
end

local function check_bucket(report, path, bound, before)
  if not validate.check(report, path, bound, "number") then
    return
  elseif bound ~= bound or math.abs(bound) == math.huge then
    report:add(path, "expected a finite number, got %s", shown(bound))
  elseif type(before) == "number" and bound <= before then
    report:add(path, "%.14g is not greater than the bound before it, %.14g", bound, before)
  end
end

local function read_buckets(report, path, list, metric_type)
  if metric_type and not kinds.of[metric_type].has_bounds then
    report:add(path, "only a histogram has buckets, not a %s", metric_type)
  end
  if #list == 0 then
    report:add(path, "no bounds: leave the field out to use the default bounds")
  elseif #list > M.MAX_BUCKETS then
    report:add(path, "%d bounds, at most %d are allowed", #list, M.MAX_BUCKETS)
    return nil
  end
  local buckets = {}
  for i, bound in ipairs(list) do
    check_bucket(report, validate.at(path, i), bound, list[i - 1])
    -- Adding zero turns -0 into 0, so that a bound has only one text.
    buckets[i] = type(bound) == "number" and bound + 0
  end
  return buckets
end

local function check_description(report, path, text)
  if #text > M.MAX_DESCRIPTION then
    report:add(path, "%d bytes, at most %d are allowed", #text, M.MAX_DESCRIPTION)
  else
    check_text(report, path, text)
  end
end

local function check_unit(report, path, unit)
  if #unit > M.MAX_NAME then
    report:add(path, "unit %s is longer than %d bytes", validate.quote(unit), M.MAX_NAME)
  elseif not unit:find "^[a-zA-Z0-9_]+$" then
    report:add(path, "bad unit %s: expected letters, digits and _", validate.quote(unit))
  end
end

local function check_max_series(report, path, limit)
  if not (limit >= 1 and limit <= M.MAX_SERIES and limit % 1 == 0) then
    report:add(path, "expected a whole number from 1 to %d, got %s", M.MAX_SERIES, shown(limit))
  end
end

local function check_across(report, path, across, metric_type)
  if metric_type and not kinds.of[metric_type].combines then
    report:add(path, "only a gauge has across, not a %s", metric_type)
  end
  check_choice(report, path, "across", across, M.ACROSS)
end

-- Without a known type (nil), checks that depend on the type are left out, so that one mistake is one error.
local function check_fields(report, path, read, metric_type)
  local checks = {
    { "description", check_description },
    { "unit", check_unit },
    { "max_series", check_max_series },
    { "across", check_across },
  }
  for _, check in ipairs(checks) do
    local name, run = check[1], check[2]
    if read[name] then run(report, validate.at(path, name), read[name], metric_type) end
  end
end

--- Reads a metric.
---@param report chalk.Report
---@param path string
---@param read table its fields as `validate.object` returned them for `METRIC_FIELDS`
---@param namespace string[]
---@param resolve function made by `by_reference` or `inline`
---@return chalk.Definition? definition nil when the name or the type is not valid
---@return boolean sound whether the metric has no error
function M.metric(report, path, read, namespace, resolve)
  local errors_before = report.total
  local named = read.name and M.check_name(report, validate.at(path, "name"), "metric name", read.name)
  local typed = read.type and check_choice(report, validate.at(path, "type"), "type", read.type, kinds.names)
  local metric_type = typed and read.type or nil
  check_fields(report, path, read, metric_type)
  local buckets = read.buckets and read_buckets(report, validate.at(path, "buckets"), read.buckets, metric_type)
  local tags = read_tags(report, validate.at(path, "tags"), read.tags or {}, resolve)
  if not (named and metric_type) then return nil, false end
  return M.complete {
    namespace = namespace,
    name = read.name,
    type = read.type,
    description = read.description or "",
    unit = read.unit,
    buckets = buckets or nil,
    max_series = read.max_series,
    across = read.across or "last",
    tags = tags,
  },
    report.total == errors_before
end

--- Adds to a definition the fields that follow from its namespace and name.
---@param def table
---@return chalk.Definition
function M.complete(def)
  def.id_name = table.concat(def.namespace, ".") .. (#def.namespace > 0 and "." or "") .. def.name
  def.flat = naming.flat(def.namespace, def.name)
  return def
end

return M
