-- The configuration that the Lua VMs of one nginx share. `http {}` and `stream {}` have a VM each, and both may call
-- init. They record into one segment, whose flush thread runs one list of exporters. So their options are combined: an
-- option that only one of them gives holds for both, and an option that they give with different values is an error of
-- the second init. The module that gives exporters starts the flush thread, or else the module whose init ran first.

local core = require "chalk.core"
local exporters = require "chalk.flush.exporters"
local serial = require "chalk.base.serial"

local ffi, C = core.ffi, core.C

local M = {}

-- Options of the segment and of the flush thread. All other options belong to one VM.
local SHARED = {
  "exporters",
  "flush_interval",
  "idle_timeout",
  "global_tags",
  "segment_path",
  "memory_limit",
  "max_series",
  "max_buckets",
  "initial_error",
  "socket",
}
local BLOCKS = { http = "http {}", stream = "stream {}" }
local FRESH = 2 -- seconds without a heartbeat after which nothing flushes; a flush loop sends ten in one second

-- nginx calls one configuration a cycle. While init_by_lua* runs, this is the new one.
pcall(ffi.cdef, "extern void *ngx_cycle;")

local handle, guard -- this VM's handle of the agreement and its finalizer, after `join`

local function fail(message) error("resty.chalk: " .. message, 0) end

local function join(client)
  if handle then return end
  handle = C.chalk_agreement_join(client.name, ffi.cast("uintptr_t", ffi.C.ngx_cycle))
  if handle == nil then fail "out of memory" end
  guard = core.finalizer(function()
    local joined = handle
    handle, guard = nil, nil -- so that a finalizer that runs later and flushes does not use the handle
    C.chalk_agreement_leave(joined)
  end)
end

local function put(agreed)
  if C.chalk_agreement_put(handle, serial.write(agreed)) ~= 0 then fail "out of memory" end
end

--- Returns the agreement of this configuration: `given` (the options), `from` (the module that gave each), `first` (the
--- module whose init ran first), `starter` (the module that starts the flush thread), `config` (the driver's
--- configuration), `address` (the socket that `serve` asks) and, in a worker, `started`.
---@return table?
function M.read()
  local text = guard and C.chalk_agreement_text(handle)
  return text and text ~= nil and serial.read(ffi.string(text)) or nil
end

local function is_same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for k, v in pairs(a) do
    if not is_same(v, b[k]) then return false end
  end
  for k in pairs(b) do
    if a[k] == nil then return false end
  end
  return true
end

-- Returns the shared ones of these options, as plain values.
local function shared_of(options)
  local shared = {}
  for _, name in ipairs(SHARED) do
    shared[name] = options[name]
  end
  if shared.exporters and next(shared.exporters) == nil then shared.exporters = nil end
  local ok, text = pcall(serial.write, shared)
  if not ok then fail(text .. " (options are copied to the flush thread's VM)") end
  return serial.read(text)
end

local function check(agreed, name, mine, subsystem)
  local theirs, other = agreed.given[name], BLOCKS[agreed.from[name] or agreed.first]
  if name == "segment_path" and theirs == nil then
    fail(("segment_path must be given in %s, whose init runs before that of %s"):format(other, BLOCKS[subsystem]))
  end
  if theirs ~= nil and not is_same(theirs, mine) then
    fail(
      ("init of %s was given other %s than init of %s: both have one configuration, so give %s in one of them"):format(
        BLOCKS[subsystem],
        name,
        other,
        name
      )
    )
  end
end

-- Adds options to the agreement.
local function add(agreed, options, subsystem)
  for name, mine in pairs(shared_of(options)) do
    if agreed.first ~= subsystem then check(agreed, name, mine, subsystem) end
    if name == "socket" and agreed.given.socket == nil then agreed.address = nil end
    agreed.given[name], agreed.from[name] = mine, agreed.from[name] or subsystem
  end
  agreed.starter = agreed.from.exporters or agreed.first
end

local pending -- from enter to publish

--- Adds the options of this VM's init to the agreement. A VM that is disabled adds nothing. Nor does a VM that was made
--- in a worker: it belongs to a request, and its init does not change the configuration.
---@param client chalk.Client
---@param options table
---@return table? options the shared options that hold for both VMs; nil: the client is disabled
---@return string? address the socket that `serve` asks, if there is one already
function M.enter(client, options)
  join(client)
  if not client.enabled or options.enabled == false then return nil end
  if C.chalk_is_worker() == 1 then return options end
  local subsystem = ngx.config.subsystem
  pending = M.read() or { first = subsystem, given = {}, from = {} }
  add(pending, options, subsystem)
  local common = {}
  for name, value in pairs(pending.given) do
    common[name] = value
  end
  common.exporters = common.exporters and exporters.revive(common.exporters)
  return common, pending.address
end

--- Publishes the result of init, with which all VMs start in the workers.
---@param config table the driver's configuration
---@param address string? the socket that `serve` asks
function M.publish(config, address)
  if not pending then return end
  pending.config, pending.address = config, address
  put(pending)
  pending = nil
end

--- Whether this VM is the one that starts the flush thread.
function M.is_starter(agreed) return agreed == nil or agreed.starter == ngx.config.subsystem end

--- Records that this process has started the flush thread.
function M.start(agreed)
  if not agreed then return end
  agreed.started = true
  put(agreed)
end

--- The names of the shared options.
M.SHARED = SHARED

local function is_flushed(client)
  local info = ffi.new "chalk_info"
  C.chalk_segment_info(client.segment, info)
  return info.heartbeat > 0 and C.chalk_now() - info.heartbeat < FRESH
end

--- Tells whether a scrape cannot be answered, because nothing flushes and this process has not started a flush thread.
---@param client chalk.Client
---@return string? message what is missing; nil: a scrape can be answered
function M.missing(client)
  local agreed = M.read()
  if not agreed or agreed.started or is_flushed(client) then return nil end
  local block = BLOCKS[agreed.starter]
  local needed = block .. ' needs init_worker_by_lua_block { require("resty.chalk").init_worker() }'
  return "init_worker() was not called: " .. needed
end

return M
