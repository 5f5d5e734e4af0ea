-- What nginx has rather than does: connections, room in shared dictionaries, memory of Lua VMs. Each worker sets these
-- gauges once a second. Connections and dictionaries are the same seen from any worker, so that whoever comes last
-- sets them for all (`last`): none of them has to be chosen, and none is missed when it hangs or dies. A VM's memory is
-- each worker's own; the tag is the place of the worker, in which a reload has an old and a new one for a while.

local core = require "chalk.core"

local ffi = core.ffi

local M = {}

local INTERVAL = 1 -- seconds
local STATES = { "active", "reading", "writing", "waiting" }

-- Those behind ngx.var.connections_*, which a timer cannot read. Pointers to counters in nginx's shared memory; absent
-- in an nginx that was built without its stub_status module.
ffi.cdef [[
  extern uintptr_t *ngx_stat_active, *ngx_stat_reading, *ngx_stat_writing, *ngx_stat_waiting;
]]

local metrics -- once defined

local function gauge(client, name, tag, spec)
  spec.namespace = "nginx"
  spec.tags = { { tag = "resty_chalk_nginx_" .. tag, export_name = tag } }
  return client:gauge(name, spec)
end

--- Defines the gauges. In the master.
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

local function number_of(state)
  local ok, counter = pcall(function() return ffi.C["ngx_stat_" .. state] end)
  return ok and counter or nil
end

local function sample_connections()
  for _, state in ipairs(STATES) do
    local counter = number_of(state)
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

--- Starts setting them, if they were defined. In a worker.
function M.start()
  if not metrics then return end
  if ngx.worker.id() == 0 then -- dictionaries that an older configuration had
    metrics.free:clear()
    metrics.capacity:clear()
  end
  sample(false)
  assert(ngx.timer.every(INTERVAL, sample))
end

return M
