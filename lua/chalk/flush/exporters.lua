-- The option `exporters`: the constructors that users call, the checks of what they write, and the listening sockets.
-- An element of the list is a *spec*, which names a module and its options, so that it can be copied to the flush
-- thread's VM. With the other drivers an element may also be an object, a table with a method `export`. The hooks of
-- modules and objects are described in chalk.exporter.

local bit = require "bit"
local contract = require "chalk.exporter"
local core = require "chalk.core"
local events = require "chalk.flush.events"
local kinds = require "chalk.define.kinds"
local listen_address = require "chalk.net.listen_address"
local option = require "chalk.define.options"

local C = core.C

local M = {}

local MOST_BOUNDS, MOST_EXPORTERS, MOST_NAME = 64, 16, 239
local SPEC = {}

local function spec(module, options, built_in)
  return setmetatable({ module = module, options = options, built_in = built_in }, SPEC)
end

--- The table `chalk.exporter`. `custom` makes a spec of a module of the application. Any other field NAME is a function
--- that makes a spec of the module chalk.exporter.NAME, which is loaded when the field is read.
M.constructors = setmetatable({
  ---@param module string the name for `require`
  ---@param options table?
  custom = function(module, options)
    if type(module) ~= "string" then
      error("chalk: exporter.custom: module must be a name, as the flush thread's VM loads it", 2)
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
    -- `resolve` runs here, in the VM and process that call init, because others may lack the environment.
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

--- Makes specs of tables that were serialized in one VM and read in another, because metatables are not serialized.
---@param list table[]
---@return table[]
function M.revive(list)
  for _, one in ipairs(list) do
    setmetatable(one, SPEC)
  end
  return list
end

local function where(i) return ("exporters[%d]"):format(i) end

-- chalk opens the sockets of custom exporters too, so it checks their addresses.
local function listen_problem(address)
  local problem = address and listen_address.problem(address)
  return problem and "listen: " .. problem or nil
end

local function check_one(i, exporter, driver)
  if getmetatable(exporter) ~= SPEC then
    if type(exporter) ~= "table" or type(exporter.export) ~= "function" then
      return where(i) .. " is not an exporter: expected chalk.exporter.NAME{ ... }, or a table with a method export"
    end
    if driver == "thread" then
      return where(i)
        .. ": the thread driver runs exporters in the flush thread's VM, so it takes no table with a method export: "
        .. "expected chalk.exporter.custom(module, options)"
    end
    return nil
  end
  if type(exporter.options) ~= "table" then return where(i) .. ": options must be a table" end
  local problem = exporter.problem or listen_problem(exporter.options.listen)
  local name = exporter.built_in and exporter.module:match "[^.]+$" or exporter.module
  return problem and ("%s (%s): %s"):format(where(i), name, problem) or nil
end

local function name_of(exporter)
  if getmetatable(exporter) ~= SPEC then return exporter.name or "table" end
  local o = exporter.options
  if type(o.name) == "string" then return o.name end
  local address = o.address or o.listen
  return exporter.module .. (type(address) == "string" and " " .. address or "")
end

--- Checks the exporters in the options of init.
---@return string? message what is wrong with them; nil if they are right
function M.check(options)
  local names = {}
  if #(options.exporters or {}) > MOST_EXPORTERS then
    return ("exporters: %d of them, more than %d"):format(#options.exporters, MOST_EXPORTERS)
  end
  for i, exporter in ipairs(options.exporters or {}) do
    local problem = check_one(i, exporter, options.driver or "thread")
    if problem then return problem end
    local name = name_of(exporter)
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

--- Collects every bound that histograms without bounds of their own count: the bounds that the options and the
--- exporters name. `default` holds if the options have none and no exporter shows any.
---@return number[]?, string? message if there are too many
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
  for _, exporter in ipairs(options.exporters or {}) do
    local of = getmetatable(exporter) == SPEC and exporter.options or {}
    if option.is_buckets(of.buckets) then
      add(of.buckets)
      shown = true
    end
    if option.is_buckets(of.counted) then add(of.counted) end
  end
  if options.buckets or not shown then add(options.buckets or default) end
  table.sort(all)
  if #all > MOST_BOUNDS then
    return nil, ("buckets: %d different bounds in all exporters together, more than %d"):format(#all, MOST_BOUNDS)
  end
  return all
end

--- The idle timeout of each kind in seconds, in the order of the kinds' numbers. 0: series are never idle.
---@param timeout number|table<string, number>|nil the option `idle_timeout`
---@return number[]
function M.idle(timeout)
  local by_kind = {}
  for i, kind in ipairs(kinds.names) do
    by_kind[i] = type(timeout) == "number" and timeout or timeout and timeout[kind] or 0
  end
  return by_kind
end

--- The exporters as a driver takes them: name, module or object, options, and the address to listen at.
---@param list table
---@return table[]
function M.specs(list)
  local specs = {}
  for i, exporter in ipairs(list) do
    local is_spec = getmetatable(exporter) == SPEC
    specs[i] = {
      name = name_of(exporter),
      module = is_spec and exporter.module or nil,
      exporter = not is_spec and exporter or nil,
      options = is_spec and exporter.options or {},
      listen = is_spec and exporter.options.listen or nil,
    }
  end
  return specs
end

--- Opens the sockets that exporters listen at, so that a port in use is an error of init. Raises a message.
---@param client table
---@param specs table[]
function M.listen(client, specs)
  for i, one in ipairs(specs) do
    if one.listen and C.chalk_listen(M.listener(client), one.listen, core.message) < 0 then
      error(("%s: %s"):format(where(i), core.said()), 0)
    end
  end
end

local function settle_sockets(listener, specs, in_force)
  for _, one in ipairs(specs) do
    if one.listen then C.chalk_listen_settle(listener, one.listen, in_force) end
  end
end

--- Keeps the sockets that `listen` opened, because their configuration is in force now.
---@param listener string
---@param specs table[]
function M.keep_sockets(listener, specs) settle_sockets(listener, specs, 1) end

--- Closes the sockets that `listen` opened, because their configuration failed. A socket that a configuration in force
--- uses stays open.
---@param listener string
---@param specs table[]
function M.discard_sockets(listener, specs) settle_sockets(listener, specs, 0) end

--- The modules of custom exporters. No VM has loaded them yet, whereas the modules of chalk's exporters were loaded
--- when the user called their constructors.
---@param list table
---@return { name: string, module: string }[]
function M.untried(list)
  local untried = {}
  for _, exporter in ipairs(list) do
    local custom = getmetatable(exporter) == SPEC and not exporter.built_in
    if custom then untried[#untried + 1] = { name = name_of(exporter), module = exporter.module } end
  end
  return untried
end

--- What the event tap must record from init on. Only built-in exporters can ask for this, by the option `tap`.
---@param list table
---@return integer kinds a bit for each kind; 0: the tap stays off
---@return integer events how many events each ring must hold
function M.events(list)
  local bits, most = 0, 0
  for _, exporter in ipairs(list) do
    local wanted = getmetatable(exporter) == SPEC and exporter.built_in and exporter.options.tap
    if wanted then
      bits = bit.bor(bits, events.mask(wanted.kinds))
      most = math.max(most, wanted.events)
    end
  end
  return bits, most
end

--- The name under which the core remembers a client's sockets.
function M.listener(client)
  return client.listener_name or client.name or ("private " .. tostring(core.ffi.cast("uintptr_t", client.segment)))
end

--- Closes the sockets of a client's exporters when the client ends.
---@param client table
---@param list table[] specs
function M.unlisten(client, list)
  for _, one in ipairs(list) do
    if one.listen then C.chalk_unlisten(M.listener(client), one.listen) end
  end
end

-- The options of a Prometheus exporter that affect its text.
local function of_text(options)
  return { namespace = options.namespace, buckets = options.buckets, global_tags = options.global_tags }
end

local function first_of(options, module)
  for _, exporter in ipairs(options.exporters or {}) do
    if getmetatable(exporter) == SPEC and exporter.module == module then return exporter.options end
  end
  return {}
end

--- The options for an exporter that writes text: `given`, or those of the first configured exporter of this module, or
--- none. `global_tags` default to the client's.
---@param options table the options of init
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

--- The options of the first Prometheus exporter that affect its text.
---@param options table the options of init
---@return table
function M.prometheus_options(options) return of_text(M.options_of(options, "chalk.exporter.prometheus")) end

return M
