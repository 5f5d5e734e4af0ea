--- Reads metrics.json, and definitions made at run time, into checked definitions.
--
-- A *registry* holds the tags and metrics of a client, from any number of documents and run-time definitions. It only
-- grows, and only by whole documents: a document with an error adds nothing, and all its errors are reported together.
-- This module walks through a document; the work is done by
--
--     validate    the fields of an object and their types; paths and messages
--     definition  one tag or metric, checked by itself
--     stage       what must hold between definitions; keeps a document until it is committed
--     codec       a definition as bytes, for shared memory
--
-- The paths in messages count indexes from 1: `metrics[2]` is the second metric.

local json = require "chalk.base.json"
local lists = require "chalk.base.lists"
local validate = require "chalk.define.validate"
local suggest = require "chalk.base.suggest"
local definition = require "chalk.define.definition"
local codec = require "chalk.define.codec"
local stage = require "chalk.define.stage"

local M = {}

local MAX_FILE = 16 * 1024 * 1024
-- Tables of a program may share subtables. Without a limit, a few kilobytes of them could stand for 2^32 namespaces.
local MAX_ENTRIES = 20000

local DOCUMENT_FIELDS = { { "tags", "object" }, { "metrics", "list" }, { "namespaces", "object" } }
local BLOCK_FIELDS = { { "metrics", "list" }, { "namespaces", "object" } }

local DEFINE_FIELDS = {
  { "namespace", "any" },
  unpack(definition.FIELDS),
}

local OP_FIELDS = {
  { "namespace", "any" },
  { "tags", "list" },
  { "description", "string" },
  { "buckets", "list" },
  { "max_series", "number" },
}

---@class chalk.Registry
local Registry = {}
Registry.__index = Registry

--- Makes an empty registry.
---@return chalk.Registry
function M.new() return setmetatable(stage.registry(), Registry) end

M.encode = codec.encode
M.decode = codec.decode
M.plain = codec.plain

-- Reads by blocks: a file may be endless, as /dev/zero is.
local function read_limited(file)
  local blocks, size = {}, 0
  while size <= MAX_FILE do
    local block, message = file:read(65536)
    if not block then return not message and table.concat(blocks) or nil, message end
    blocks[#blocks + 1] = block
    size = size + #block
  end
  return nil, ("larger than %d MiB"):format(MAX_FILE / 1024 / 1024)
end

local function read_file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, (message:gsub("^.*: ", "")) end
  local text
  text, message = read_limited(file)
  file:close()
  return text, message
end

-- Returns the document of a source and a report for its errors; no report but a message when the source cannot be read.
local function open_source(source)
  if type(source) ~= "string" then return source, validate.report "definitions" end
  local text, unreadable = read_file(source)
  if not text then return nil, nil, ("%s: cannot be read: %s"):format(source, unreadable) end
  local document, message, line, column = json.decode(text)
  if message then return nil, nil, ("%s:%d:%d: %s"):format(source, line, column, message) end
  return document, validate.report(source)
end

---@class chalk.Walk a walk through one document
---@field stage chalk.Stage
---@field report chalk.Report
---@field resolve function finds the tag of a reference
---@field above table<table, boolean> the current block and the blocks around it
---@field left integer how many more namespaces and metrics the document may have
local Walk = {}
Walk.__index = Walk

local function start_walk(staged)
  local function find(name) return staged.tags[name] end
  local function names() return staged:tag_names() end
  return setmetatable({
    stage = staged,
    report = staged.report,
    resolve = definition.by_reference(find, names),
    above = {},
    left = MAX_ENTRIES,
  }, Walk)
end

-- Takes one more namespace or metric off the limit. False when there are too many.
function Walk:spend(path)
  if self.left == 0 then self.report:add(path, "more than %d namespaces and metrics", MAX_ENTRIES) end
  self.left = self.left - 1
  return self.left >= 0
end

function Walk:metric(path, item, namespace)
  local read = validate.object(self.report, path, item, definition.METRIC_FIELDS)
  if not read then return end
  local def, sound = definition.metric(self.report, path, read, namespace, self.resolve)
  if def then self.stage:add_metric(path, def, sound) end
end

function Walk:metrics(path, list, namespace)
  for i, item in ipairs(list) do
    local at = validate.at(path, i)
    if not self:spend(at) then return end
    self:metric(at, item, namespace)
  end
end

local function deeper(namespace, name)
  local inner = { unpack(namespace) }
  inner[#inner + 1] = name
  return inner
end

function Walk:namespaces(path, blocks, namespace)
  for _, name in ipairs(lists.names(blocks)) do
    local at = validate.at(path, name)
    if not self:spend(at) then return end
    -- The contents of a namespace with an invalid name are checked too, so that all errors are found.
    local inner = deeper(namespace, name)
    if definition.check_name(self.report, at, "namespace name", name) then self.stage:add_namespace(at, inner) end
    local block = rawget(blocks, name)
    if not rawequal(block, json.null) then self:block(at, block, inner, BLOCK_FIELDS) end
  end
end

-- Reads a block: the body of a namespace, or the whole document, which may also define tags.
function Walk:block(path, block, namespace, fields)
  if #namespace > definition.MAX_DEPTH then
    self.report:add(path, "namespaces are nested more than %d levels deep", definition.MAX_DEPTH)
    return
  elseif self.above[block] then
    self.report:add(path, "the table contains itself")
    return
  end
  local read = validate.object(self.report, path, block, fields)
  if not read then return end
  self.above[block] = true
  self:tags(validate.at(path, "tags"), read.tags or {})
  self:metrics(validate.at(path, "metrics"), read.metrics or {}, namespace)
  self:namespaces(validate.at(path, "namespaces"), read.namespaces or {}, namespace)
  self.above[block] = nil
end

function Walk:tags(path, tags)
  for _, name in ipairs(lists.names(tags)) do
    self.stage:add_tag(validate.at(path, name), name, rawget(tags, name))
  end
end

-- A table of constants. Reading one that does not exist raises an error at the reader's line.
local function constants(members, message_of)
  return setmetatable(members, {
    __index = function(_, key) error(message_of(key), 2) end,
  })
end

local function enum_constants(tag)
  local values = {}
  for _, value in ipairs(tag.values) do
    values[value] = value
  end
  return constants(values, function(key)
    local allowed = '"' .. table.concat(tag.values, '", "') .. '"'
    return ("tag %s has no value %s, allowed: %s"):format(
      validate.quote(tag.name),
      validate.quote(tostring(key)),
      allowed
    )
  end)
end

local function tag_constants(staged)
  local enums = {}
  for name, tag in next, staged.tags do
    if tag.kind == "enum" then enums[name] = enum_constants(tag) end
  end
  local names = lists.names(enums)
  return constants(enums, function(key)
    local hint = suggest(key, names)
    return ("no enum tag %s in these definitions%s"):format(
      validate.quote(tostring(key)),
      hint and ", " .. hint or ""
    )
  end)
end

local function add(registry, source, own)
  local document, report, failure = open_source(source)
  if not report then return nil, { failure } end
  local staged = stage.open(registry, report, own)
  start_walk(staged):block("", document, {}, DOCUMENT_FIELDS)
  if report.total > 0 then return nil, report.errors end
  staged:commit()
  return staged.definitions, tag_constants(staged)
end

--- Adds the definitions of a document.
---@param source string|table a path, or the structure of metrics.json as a table
---@return chalk.Definition[]? definitions all metrics of the document, known ones included; nil when it has errors
---@return table tags the constants of its enum tags, {status = {success = "success"}}; or the list of all errors
function Registry:add(source) return add(self, source, false) end

--- Adds chalk's own metrics, as add() does. They may use the reserved names, and their tags are kept apart.
---@param source string|table
---@return chalk.Definition[]? definitions
---@return table tags_or_errors
function Registry:own(source) return add(self, source, true) end

local function split(text)
  local names = {}
  for name in (text == "" and "" or text .. "."):gmatch "([^.]*)%." do
    names[#names + 1] = name
  end
  return names
end

local function read_namespace(report, value)
  local path = "namespace"
  local names = type(value) == "string" and split(value) or value or {}
  if not validate.check(report, path, names, "list") then
    return {}
  elseif #names > definition.MAX_DEPTH then
    report:add(path, "namespaces are nested more than %d levels deep", definition.MAX_DEPTH)
    return {}
  end
  local namespace = {}
  for i = 1, #names do
    local name = rawget(names, i)
    if validate.check(report, validate.at(path, i), name, "string") then
      definition.check_name(report, path, "namespace name", name)
      namespace[#namespace + 1] = name
    end
  end
  return namespace
end

local function declare_namespaces(staged, namespace)
  local outer = {}
  for _, name in ipairs(namespace) do
    outer = deeper(outer, name)
    staged:add_namespace("namespace", outer)
  end
end

-- Adds definitions made at run time. Each item of `metrics` has the fields in which the metric differs from the spec:
-- name, type and perhaps others.
local function define(registry, source, spec, fields, metrics)
  local report = validate.report(source)
  local read = validate.object(report, "", spec == nil and {} or spec, fields)
  if not read then return nil, report.errors end
  local staged = stage.open(registry, report, false)
  local namespace = read_namespace(report, read.namespace)
  declare_namespaces(staged, namespace)
  local resolve = definition.inline(function(name) return staged.tags[name] end)
  for _, metric in ipairs(metrics) do
    setmetatable(metric, { __index = read })
    local def, sound = definition.metric(report, "", metric, namespace, resolve)
    if def then staged:add_metric("", def, sound) end
  end
  if report.total > 0 then return nil, report.errors end
  staged:commit()
  return staged.definitions
end

local function bad_name(what, name)
  return nil, { ("%s: expected a name, got %s"):format(what, validate.describe(name)) }
end

--- Defines one metric at run time.
--
-- An item of `spec.tags` is the name of a tag of the registry; a new name, for a tag that takes any string; or
-- {tag=, values=, optional=, export_name=}, whose values are for this metric only.
---@param kind "count"|"gauge"|"histogram"
---@param name string
---@param spec table? namespace ("http.auth" or a list), tags, description, unit, buckets, max_series, across
---@return chalk.Definition? definition the known one if it is equal; nil when there are errors
---@return string[]? errors
function Registry:define(kind, name, spec)
  if type(name) ~= "string" then return bad_name(kind, name) end
  local source = ("%s %s"):format(kind, validate.quote(name))
  local definitions, errors = define(self, source, spec, DEFINE_FIELDS, { { name = name, type = kind } })
  if not definitions then return nil, errors end
  return definitions[1]
end

--- Defines the two metrics of an operation: the count `<name>` and the histogram `<name>_duration_seconds`.
---@param name string
---@param spec table? namespace, tags, description, buckets, max_series; `buckets` is for the histogram only
---@return chalk.Definition? count nil when there are errors
---@return chalk.Definition|string[] histogram the histogram, or the errors
function Registry:op(name, spec)
  if type(name) ~= "string" then return bad_name("op", name) end
  local definitions, errors = define(self, "op " .. validate.quote(name), spec, OP_FIELDS, {
    { name = name, type = "count", buckets = false },
    { name = name .. "_duration_seconds", type = "histogram", unit = "seconds" },
  })
  if not definitions then return nil, errors end
  return definitions[1], definitions[2]
end

return M
