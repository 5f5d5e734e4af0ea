-- What users write into the `exporters` option, and what becomes of it. A *spec* names a module and its options, so
-- that it can be sent to the flush thread's VM; with the other drivers a table with an `export` method serves too. What
-- modules and objects offer is in chalk.exporter.

local bit = require "bit"
local contract = require "chalk.exporter"
local core = require "chalk.core"
local events = require "chalk.flush.events"
local listen_address = require "chalk.net.listen_address"
local option = require "chalk.define.options"

local C = core.C

local M = {}

local MOST_LES, MOST_EXPORTERS, MOST_NAME = 64, 16, 239
local SPEC = {}

local function spec(module, options, built_in)
  return setmetatable({ module = module, options = options, built_in = built_in }, SPEC)
end

--- `chalk.exporter`: a constructor for each module chalk.exporter.NAME, and `custom`.
M.constructors = setmetatable({
  ---@param module string the name to require
  ---@param options table?
  custom = function(module, options)
    if type(module) ~= "string" then
      error("chalk: exporter.custom takes the name of a module: the exporter lives in the flush thread's VM", 2)
    end
    return spec(module, options or {})
  end,
}, {
  __index = function(constructors, name)
    local module = "chalk.exporter." .. tostring(name)
    local ok, loaded = pcall(require, module)
    if not ok then
      local message = loaded
      local absent = tostring(message):find("module '" .. module .. "' not found", 1, true)
      error(absent and ("chalk: there is no exporter %q"):format(tostring(name)) or message, 2)
    end
    -- A module that reads the environment does so here, where init runs: other VMs and processes may lack it.
    local function construct(options)
      local made = spec(module, options or {}, true)
      local resolved, problem = contract.resolve(loaded, made.options)
      made.options, made.problem = resolved or made.options, problem
      return made
    end
    rawset(constructors, name, construct)
    return construct
  end,
})

--- Specs again of what was written down and read: for another VM.
---@param list table[]
---@return table[]
function M.revive(list)
  for _, one in ipairs(list) do
    setmetatable(one, SPEC)
  end
  return list
end

local function where(i) return ("exporters[%d]"):format(i) end

-- The socket is chalk's to open, also that of a custom exporter.
local function listen_problem(address)
  local problem = address and listen_address.problem(address)
  return problem and "listen: " .. problem or nil
end

local function check_one(i, e, driver)
  if getmetatable(e) ~= SPEC then
    if type(e) ~= "table" or type(e.export) ~= "function" then
      return where(i) .. " is not an exporter: use chalk.exporter.NAME{ ... }, or a table with an export method"
    end
    if driver == "thread" then
      return where(i)
        .. ": with the thread driver an exporter lives in the flush thread's VM and is named by its module, "
        .. "chalk.exporter.custom(module, options)"
    end
    return nil
  end
  if type(e.options) ~= "table" then return where(i) .. ": options are a table" end
  local problem = e.problem or listen_problem(e.options.listen)
  local name = e.built_in and e.module:match "[^.]+$" or e.module
  return problem and ("%s (%s): %s"):format(where(i), name, problem) or nil
end

local function name_of(e)
  if getmetatable(e) ~= SPEC then return e.name or "table" end
  local o = e.options
  if type(o.name) == "string" then return o.name end
  local address = o.address or o.listen
  return e.module .. (type(address) == "string" and " " .. address or "")
end

--- What is wrong with the exporters of these options; nil when nothing is.
---@return string?
function M.check(options)
  local names = {}
  if #(options.exporters or {}) > MOST_EXPORTERS then return ("exporters are at most %d"):format(MOST_EXPORTERS) end
  for i, e in ipairs(options.exporters or {}) do
    local problem = check_one(i, e, options.driver or "thread")
    if problem then return problem end
    local name = name_of(e)
    if #name > MOST_NAME then
      return ("%s: its name is longer than %d bytes: give it a shorter one"):format(where(i), MOST_NAME)
    end
    if names[name] then
      return ("%s and %s are both named %q: give one of them a name"):format(where(names[name]), where(i), name)
    end
    names[name] = i
  end
  return nil
end

--- Every bound that histograms without their own have to count: the client's, and what its exporters show.
---@return number[]?, string? message
function M.buckets(options, default)
  local seen, all = {}, {}
  local function add(list)
    for _, bound in ipairs(list) do
      if not seen[bound] then
        seen[bound] = true
        all[#all + 1] = bound
      end
    end
  end
  local shown = false
  for _, e in ipairs(options.exporters or {}) do
    local of = getmetatable(e) == SPEC and e.options or {}
    if option.is_buckets(of.buckets) then
      add(of.buckets)
      shown = true
    end
    if option.is_buckets(of.counted) then add(of.counted) end
  end
  if options.buckets or not shown then add(options.buckets or default) end
  table.sort(all)
  if #all > MOST_LES then
    return nil, ("buckets of all exporters together are %d, more than %d"):format(#all, MOST_LES)
  end
  return all
end

--- Seconds for counts, gauges and histograms; 0: never.
function M.idle(timeout)
  if type(timeout) == "number" then return { timeout, timeout, timeout } end
  timeout = timeout or {}
  return { timeout.count or 0, timeout.gauge or 0, timeout.histogram or 0 }
end

--- What a driver starts: name, module or table, options, the address to listen at.
---@param list table
---@return table[]
function M.specs(list)
  local specs = {}
  for i, e in ipairs(list) do
    local is_spec = getmetatable(e) == SPEC
    specs[i] = {
      name = name_of(e),
      module = is_spec and e.module or nil,
      exporter = not is_spec and e or nil,
      options = is_spec and e.options or {},
      listen = is_spec and e.options.listen or nil,
    }
  end
  return specs
end

--- Opens the sockets that specs listen at, so that a taken port is an error here and now.
---@param client table
---@param specs table[]
function M.listen(client, specs)
  for i, one in ipairs(specs) do
    if one.listen and C.chalk_listen(M.listener(client), one.listen, core.message) < 0 then
      error(("%s: %s"):format(where(i), core.said()), 0)
    end
  end
end

--- Says that sockets of specs are of a configuration in force; or that they never will be, and are to be closed.
---@param listener string
---@param specs table[]
---@param in_force boolean
function M.settle(listener, specs, in_force)
  for _, one in ipairs(specs) do
    if one.listen then C.chalk_listen_settle(listener, one.listen, in_force and 1 or 0) end
  end
end

--- The modules of custom exporters, which nobody has looked at yet; those of the others are loaded already.
---@param list table
---@return { name: string, module: string }[]
function M.untried(list)
  local untried = {}
  for _, e in ipairs(list) do
    local custom = getmetatable(e) == SPEC and not e.built_in
    if custom then untried[#untried + 1] = { name = name_of(e), module = e.module } end
  end
  return untried
end

--- What the event tap has to be on for from the start, as bits of kinds and a number of events; 0: nothing.
---@param list table
---@return integer kinds, integer events
function M.events(list)
  local kinds, most = 0, 0
  for _, e in ipairs(list) do
    local wanted = getmetatable(e) == SPEC and e.built_in and e.options.tap
    if wanted then
      kinds = bit.bor(kinds, events.mask(wanted.kinds))
      most = math.max(most, wanted.events)
    end
  end
  return kinds, most
end

--- Under which name a client's sockets are remembered.
function M.listener(client)
  return client.listener_name or client.name or ("private " .. tostring(core.ffi.cast("uintptr_t", client.segment)))
end

--- Closes what specs listen at, at their client's end.
---@param client table
---@param list table[] specs
function M.unlisten(client, list)
  for _, one in ipairs(list) do
    if one.listen then C.chalk_unlisten(M.listener(client), one.listen) end
  end
end

-- Of a Prometheus exporter, what concerns its text.
local function of_text(options)
  return { namespace = options.namespace, buckets = options.buckets, global_tags = options.global_tags }
end

local function first_of(options, module)
  for _, e in ipairs(options.exporters or {}) do
    if getmetatable(e) == SPEC and e.module == module then return e.options end
  end
  return {}
end

--- How the first exporter of a module is configured, or how `given` says; without either, as such an exporter would be.
---@param options table of init
---@param module string
---@param given table?
---@return table
function M.options_of(options, module, given)
  local of = {}
  for name, value in pairs(given or first_of(options, module)) do
    of[name] = value
  end
  if of.global_tags == nil then of.global_tags = options.global_tags end
  return of
end

--- The same of the first Prometheus exporter, as far as it concerns the text.
---@param options table
---@return table
function M.prometheus_options(options) return of_text(M.options_of(options, "chalk.exporter.prometheus")) end

return M
