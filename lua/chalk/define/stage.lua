--- Holds what one document adds to a registry, until the whole document is known to be valid.
--
-- Each table of the stage falls back on the registry's table of the same name: a lookup sees both, a write changes the
-- stage only, and commit() copies the stage into the registry. A document with an error is dropped together with its
-- stage, so a document is never loaded in part.
--
-- The stage checks what must hold *between* definitions: a name has one meaning, and an exported name one metric.

local lists = require "chalk.base.lists"
local validate = require "chalk.define.validate"
local codec = require "chalk.define.codec"
local definition = require "chalk.define.definition"
local naming = require "chalk.define.naming"

local M = {}

---@class chalk.Stage
---@field registry table the registry's tables by name
---@field tags_below table the table of tags in the registry that the stage adds to
---@field report chalk.Report
---@field own boolean whether the document defines chalk's own metrics
---@field tags table<string, table|false> by name; false for a tag whose definition has an error
---@field metrics table<string, chalk.Definition> by id_name
---@field namespaces table<string, boolean> by path, e.g. "http.auth"
---@field held table<string, chalk.Definition> by each name that `naming.held` gives the metric
---@field flats table<string, chalk.Definition> by flat name
---@field definitions chalk.Definition[] the metrics of the document in its order
---@field paths table<string, string> where in the document a metric is, by id_name
local Stage = {}
Stage.__index = Stage

local OVERLAID = { "metrics", "namespaces", "held", "flats" }

--- The tables of an empty registry.
---@return table
function M.registry()
  local registry = { tags = {}, own_tags = {} }
  for _, name in ipairs(OVERLAID) do
    registry[name] = {}
  end
  return registry
end

local function overlay(below) return setmetatable({}, { __index = below }) end

--- Opens a stage on a registry.
---@param registry table
---@param report chalk.Report
---@param own boolean
---@return chalk.Stage
function M.open(registry, report, own)
  local stage = { registry = registry, report = report, own = own, definitions = {}, paths = {} }
  -- Tags of chalk's own metrics are kept apart, so an application may use their names for its own tags.
  stage.tags_below = own and registry.own_tags or registry.tags
  stage.tags = overlay(stage.tags_below)
  for _, name in ipairs(OVERLAID) do
    stage[name] = overlay(registry[name])
  end
  return setmetatable(stage, Stage)
end

local function copy_over(from, to)
  for key, value in next, from do
    to[key] = value
  end
end

--- Copies everything in the stage into the registry.
function Stage:commit()
  copy_over(self.tags, self.tags_below)
  for _, name in ipairs(OVERLAID) do
    copy_over(self[name], self.registry[name])
  end
end

--- Adds a tag definition of the document.
---@param path string
---@param name string
---@param value any as written
function Stage:add_tag(path, name, value)
  local tag = definition.tag(self.report, path, name, value)
  local known = self.tags[name]
  local difference = tag and known and codec.tag_difference(known, tag)
  if difference then
    self.report:add(path, "tag %s is already defined differently: %s", validate.quote(name), difference)
  end
  self.tags[name] = tag or false
end

--- The names of the tags that a metric may refer to.
---@return string[]
function Stage:tag_names()
  local names = lists.names(self.tags_below)
  for name in next, self.tags do
    names[#names + 1] = name
  end
  return names
end

--- Adds a namespace.
---@param path string
---@param namespace string[]
function Stage:add_namespace(path, namespace)
  local id = table.concat(namespace, ".")
  if self.metrics[id] then
    self.report:add(path, "namespace %s has the name of a metric: rename one of them", validate.quote(id))
  end
  local flat = #namespace == 1 and self.flats[id]
  if flat and flat.id_name ~= id then
    local other = validate.quote(flat.id_name)
    local words = "namespace %s has the flat name of metric %s: rename one of them"
    self.report:add(path, words, validate.quote(id), other)
  end
  self.namespaces[id] = true
end

function Stage:check_own(path, def)
  local family = naming.family(def.namespace, def.name, def.type, def.unit)
  local root = def.namespace[1] or def.name
  if root == "chalk" or family:sub(1, 6) == "chalk_" then
    local words =
      'metric %s: names that start with "chalk" are reserved for chalk\'s own metrics: choose another name'
    self.report:add(path, words, validate.quote(def.id_name))
  end
end

function Stage:check_tree(path, def)
  local id, flat, other = validate.quote(def.id_name), validate.quote(def.flat), self.flats[def.flat]
  if self.namespaces[def.id_name] then
    self.report:add(path, "metric %s has the name of a namespace: rename one of them", id)
  elseif self.namespaces[def.flat] then
    self.report:add(path, "metric %s has the flat name %s, like a namespace: rename one of them", id, flat)
  end
  if other then
    local words = "metric %s has the flat name %s, like metric %s: rename one of them"
    self.report:add(path, words, id, flat, validate.quote(other.id_name))
  end
end

function Stage:hold(path, def)
  local held = naming.held(naming.family(def.namespace, def.name, def.type, def.unit), def.type)
  for _, name in ipairs(held) do
    local other = self.held[name]
    if other then
      local ids = { validate.quote(def.id_name), validate.quote(name), validate.quote(other.id_name) }
      local words = "metric %s would be exported to Prometheus as %s, like metric %s: rename one of them"
      self.report:add(path, words, unpack(ids))
      return
    end
  end
  for _, name in ipairs(held) do
    self.held[name] = def
  end
end

-- Adds a metric that an earlier document defined. The same definition again is the same metric.
function Stage:add_known(path, known, def, sound)
  local difference = sound and codec.difference(known, def)
  if difference then
    self.report:add(path, "metric %s is already defined differently: %s", validate.quote(def.id_name), difference)
  end
  self.definitions[#self.definitions + 1] = known
end

--- Adds a metric.
---@param path string
---@param def chalk.Definition
---@param sound boolean whether the definition by itself has no error
function Stage:add_metric(path, def, sound)
  local id = def.id_name
  if self.paths[id] then
    self.report:add(path, "metric %s is defined twice, first at %s", validate.quote(id), self.paths[id])
    return
  end
  self.paths[id] = path == "" and "the top" or path
  def.own = self.own or nil
  local known = self.metrics[id]
  if known and (known.own or false) == self.own then return self:add_known(path, known, def, sound) end
  if not self.own then self:check_own(path, def) end
  self:check_tree(path, def)
  self:hold(path, def)
  self.metrics[id], self.flats[def.flat] = def, def
  self.definitions[#self.definitions + 1] = def
end

return M
