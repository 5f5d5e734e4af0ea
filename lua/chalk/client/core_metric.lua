-- Defines metrics in the core: fills the struct that the core takes from a definition.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local schema = require "chalk.define.schema"

local ffi, C = core.ffi, core.C

local M = {}

local function keys_of(tags)
  local keys = {}
  for i, tag in ipairs(tags) do
    keys[i] = tag.key
  end
  return table.concat(keys, "\0")
end

--- Defines a metric, or finds it.
---@param writer ffi.cdata*
---@param definition chalk.Definition
---@param default_bounds number[] for a histogram without bounds of its own
---@return integer? number the metric's number in the segment; nil when it cannot be defined
---@return string? message
function M.define(writer, definition, default_bounds)
  local kind = kinds.of[definition.type]
  local shape, blob = keys_of(definition.tags), schema.encode(definition)
  local bounds = kind.has_bounds and (definition.buckets or default_bounds) or {}
  local le = ffi.new("double[?]", math.max(#bounds, 1), bounds)
  local d = ffi.new "chalk_definition"
  d.name, d.name_size = definition.id_name, #definition.id_name
  d.shape, d.shape_size = shape, #shape
  d.blob, d.blob_size = blob, #blob
  d.le, d.les = le, #bounds
  d.kind = C[kind.constant]
  d.across = C["CHALK_" .. definition.across:upper()]
  d.tags = #definition.tags
  d.max_series = definition.own and ffi.cast("uint32_t", C.CHALK_NONE) or definition.max_series or 0
  local number = C.chalk_define(writer, d, core.message)
  if number < 0 then return nil, core.said() end
  return number
end

return M
