-- Changes the bounds of histograms that are defined already. To the core, a histogram with other bounds is another
-- metric, so it is defined again. Values that were recorded before stay with the old bounds.

local accessor = require "chalk.record.accessor"
local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local lists = require "chalk.base.lists"
local log = require "chalk.base.log"

local ffi, C = core.ffi, core.C

local M = {}

-- Whether a metric has any value. This reads no definition: in nginx it runs in the master, which trusts no bytes that
-- a worker may have written.
local function is_recorded(client, number)
  local snapshot = C.chalk_snapshot_take(client.segment, 0, core.message)
  if snapshot == nil then error("chalk: " .. core.said(), 0) end
  local n = ffi.new "uint32_t[1]"
  local entries = C.chalk_snapshot_entries(snapshot, n)
  local found = false
  for i = 0, n[0] - 1 do
    found = found or (entries[i].metric == number and entries[i].total ~= 0)
  end
  C.chalk_snapshot_free(snapshot)
  return found
end

-- Defines a histogram with the bounds that its definition and its client have now.
local function redefine(client, state, recorded)
  local old = state.number
  if not recorded then C.chalk_clear(client.writer, old) end
  client:define(state)
  if state.number ~= old then C.chalk_undefine(client.writer, old) end
  accessor.fill(state)
end

--- Changes the default bounds. Histograms without bounds of their own get them, unless they have been recorded.
---@param client chalk.Client
---@param list number[]
function M.change_defaults(client, list)
  if lists.is_same(list, client.buckets) then return end
  client.buckets = list
  for _, state in ipairs(client.states) do
    local definition = state.definition
    if kinds.of[definition.type].has_bounds and not definition.buckets and state.number then
      if is_recorded(client, state.number) then
        log.write("warning", definition.id_name .. " was recorded before init, so it keeps its buckets")
      else
        redefine(client, state, false)
      end
    end
  end
end

--- Gives a histogram other bounds: it starts again without values, and its series have to be looked up again.
---@param client chalk.Client
---@param state chalk.MetricState
---@param list number[]
---@return boolean recorded whether it had any value
function M.change(client, state, list)
  local recorded = is_recorded(client, state.number)
  state.definition.buckets = list
  state.forget()
  redefine(client, state, recorded)
  return recorded
end

return M
