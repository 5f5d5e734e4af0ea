-- Gauges of the state of nginx: connections, free space of shared dictionaries, memory of Lua VMs. Each worker sets
-- them once a second.
--
-- Connections and dictionaries are the same for all workers. So every worker sets these gauges, and the last value
-- counts (`across` = "last"): no worker has to be chosen, and it does not matter if one hangs or dies. The memory of a
-- VM belongs to one worker, and its tag is the worker's number. During a reload, an old and a new worker have the same
-- number for a while, and the sum of both counts.

local core = require "chalk.core"

local ffi = core.ffi

local M = {}

local INTERVAL = 1 -- seconds
local STATES = { "active", "reading", "writing", "waiting" }

-- Pointers to the counters behind ngx.var.connections_*, in nginx's shared memory. A timer cannot read the variables
-- themselves. An nginx without the module stub_status does not have these symbols.
ffi.cdef [[
  extern uintptr_t *ngx_stat_active, *ngx_stat_reading, *ngx_stat_writing, *ngx_stat_waiting;
]]

local metrics -- the gauges, after `define`

local function gauge(client, name, tag, spec)
  spec.namespace = "nginx"
  spec.tags = { { tag = "resty_chalk_nginx_" .. tag, export_name = tag } }
  return client:gauge(name, spec)
end

--- Defines the gauges. Called in the master.
---@param client chalk.Client
function M.define(client)
  metrics = metrics
    or {
      connections = gauge(client, "connections", "state", { description = "Connections of clients, by state" }),
      free = gauge(client, "shared_dict_free", "dict", {
        unit = "bytes",
        description = "Free pages of shared dictionaries",
      }),
      capacity = gauge(client, "shared_dict_capacity", "dict", {
        unit = "bytes",
        description = "Sizes of shared dictionaries",
      }),
      memory = gauge(client, "lua_memory", "worker", {
        unit = "bytes",
        description = "Memory of the Lua VMs, by worker",
        across = "sum",
      }),
    }
end

-- Returns the pointer to the counter of a state, or nil.
local function counter_of(state)
  local ok, counter = pcall(function() return ffi.C["ngx_stat_" .. state] end)
  return ok and counter or nil
end

local function sample_connections()
  for _, state in ipairs(STATES) do
    local counter = counter_of(state)
    if counter then metrics.connections:with(state):set(tonumber(counter[0])) end
  end
end

local function sample_dictionaries()
  for name, dict in pairs(ngx.shared) do
    metrics.free:with(name):set(dict:free_space())
    metrics.capacity:with(name):set(dict:capacity())
  end
end

local function sample(premature)
  if premature then return end
  sample_connections()
  sample_dictionaries()
  metrics.memory:with(ngx.worker.id() or "none"):set(collectgarbage "count" * 1024)
end

--- Starts setting the gauges, if they were defined. Called in a worker.
function M.start()
  if not metrics then return end
  if ngx.worker.id() == 0 then -- removes dictionaries of an older configuration
    metrics.free:clear()
    metrics.capacity:clear()
  end
  sample(false)
  assert(ngx.timer.every(INTERVAL, sample))
end

return M
