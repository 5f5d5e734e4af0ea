-- chalk in nginx and OpenResty: one set of metrics over all workers.
--
--     init_by_lua_block        { metrics = require("resty.chalk").init { definitions = "metrics.json" } }
--     init_worker_by_lua_block { require("resty.chalk").init_worker() }
--     location /metrics        { content_by_lua_block { require("resty.chalk").serve() } }
--
-- `init` runs in the master: the segment and the listening sockets are opened there, and workers inherit them.
-- `init_worker` starts a flush thread, which stands by until it can have the flusher's role. `serve` hands on what the
-- thread that has it answers at a unix socket, so that nothing is rendered on a worker's event loop. Where `stream {}`
-- calls init too, both share one configuration, see resty.chalk.agreement.

local agreement = require "resty.chalk.agreement"
local client = require "chalk.global"
local core = require "chalk.core"
local exporters = require "chalk.flush.exporters"
local instance = require "resty.chalk.instance"
local socket = require "resty.chalk.socket"

local C = core.C

local M = {}

local TICK = 0.25 -- seconds; cells of dropped series are reusable when every worker has ticked
local PAUSE = 0.005

local state -- of this VM, once init has run: the socket's path, and what init was given

local function fail(message) error("resty.chalk: " .. message, 0) end

local function without(options, ...)
  local rest = {}
  for name, value in pairs(options) do
    rest[name] = value
  end
  for _, name in ipairs { ... } do
    rest[name] = nil
  end
  return rest
end

-- The listener that `serve` asks, beside what the user's exporters listen at.
local function with_relay(options, address)
  local list = {}
  for i, e in ipairs(options.exporters or {}) do
    list[i] = e
  end
  local relay = exporters.prometheus_options(options)
  relay.name, relay.listen = "resty.chalk.serve", address
  list[#list + 1] = exporters.constructors.prometheus(relay)
  options.exporters = list
end

local function check(options)
  if type(options) ~= "table" then fail "init takes a table of options" end
  local phase = ngx.get_phase()
  if phase ~= "init" then fail("init belongs into init_by_lua*, it was called in " .. phase) end
  if options.driver ~= nil and options.driver ~= "thread" then fail 'driver can only be "thread" in nginx' end
  if options.definitions == nil then
    fail "init needs definitions: a path, or the structure of metrics.json as a table"
  end
end

-- A second init with the same definitions, from another include of one configuration, gets what the first one got.
local function repeated(options)
  if options.definitions ~= state.definitions then fail "init was called twice, with other definitions" end
  return state.metrics, state.tags
end

-- The options that hold, with those that another module of this nginx was given, and the address of its socket.
local function agreed_options(options)
  local rest = without(options, "definitions", "socket")
  local common, address = agreement.enter(client, options)
  if not common then return rest end
  for _, name in ipairs(agreement.SHARED) do
    rest[name] = common[name]
  end
  rest.socket = nil
  return rest, common.socket, address
end

-- A path is the prefix's, as those of nginx's own directives are.
local function source_of(definitions)
  if type(definitions) ~= "string" or definitions:sub(1, 1) == "/" then return definitions end
  return ngx.config.prefix() .. definitions
end

--- Lets a flush be waited for without holding up the worker, where that is possible: nginx refuses a sleep elsewhere.
local function pause() return (pcall(ngx.sleep, PAUSE)) end

-- In a worker where init_worker was not called: words in the log, once, and no flush that only seems to be one.

local function complain()
  local missing = not (state and state.started) and ngx.get_phase() ~= "init_worker" and agreement.missing(client)
  if missing then ngx.log(ngx.ERR, "chalk: ", missing) end
end

local function flush_unstarted(timeout)
  if ngx.get_phase() == "init" then return true end
  local missing = agreement.missing(client)
  if missing then return nil, missing end
  if not client.config then return true end -- it is disabled
  client:attach()
  return client:flush(timeout)
end

--- Loads the definitions and configures the exporters. In init_by_lua*. Raises what is wrong, so that nginx does not
--- start, or goes on with the configuration it has.
---@param options table `definitions` (a path, from nginx's prefix on, or a table), `socket` (a path), and what
--- chalk.init takes
---@return table metrics, table tags
function M.init(options)
  check(options)
  if state then return repeated(options) end
  local problem = client.problem_of(without(options, "definitions", "socket"))
  if problem then fail(problem) end
  local rest, path, address = agreed_options(options)
  client.options = rest -- how large the segment may get is settled when it is opened, which loading does
  client.hands_on = true -- the workers tidy
  local ok, metrics, tags = pcall(client.load, client, source_of(options.definitions))
  if not ok then error(metrics, 0) end
  if client.enabled and options.enabled ~= false then
    address = address or socket.open(client, path)
    with_relay(rest, address)
  end
  local message
  ok, message = client:prepare(rest)
  if not ok then
    exporters.discard_sockets(exporters.listener(client), { { listen = address } })
    fail(message)
  end
  agreement.publish(client.config, address)
  client.pause, client.on_forked, client.flush_unstarted = pause, complain, flush_unstarted
  state = { metrics = metrics, tags = tags, definitions = options.definitions, address = address }
  return metrics, tags
end

local function addresses_of(config)
  local list = {}
  for _, spec in ipairs(config and config.exporters or {}) do
    if spec.listen then list[#list + 1] = spec.listen end
  end
  return core.ffi.new("const char *[?]", math.max(#list, 1), list), #list, list
end

-- Says now and then that nothing is being recorded in this moment.
local function tick(premature)
  if premature or not client.segment then return end
  local callers = package.loaded["chalk.autometrics.callers"]
  if callers then callers.sweep() end
  client:on_stale()
  C.chalk_writer_tick(client.writer)
end

-- Starts the flush thread, or leaves that to the VM of the other module.
local function start()
  local agreed = agreement.read()
  if agreed then
    client.config, state.address = agreed.config, agreed.address
  end
  if not agreement.is_starter(agreed) then return client:attach() end
  client:start()
  agreement.start(agreed)
  -- What an older configuration listened at and this one does not. Here, since only now nginx has taken it up.
  local addresses, n = addresses_of(client.config)
  C.chalk_listen_only(exporters.listener(client), addresses, n)
end

--- Starts this worker's part. In init_worker_by_lua*.
function M.init_worker()
  if not state then fail "init_worker was called, but not init, which belongs into init_by_lua*" end
  if ngx.get_phase() ~= "init_worker" then fail "init_worker belongs into init_worker_by_lua*" end
  if not client.segment or state.started then return end
  state.started = true
  C.chalk_inherit(0)
  client.hands_on = false
  client:on_stale()
  C.chalk_rebind(client.watch) -- takes a slot of this worker's, so that its definitions are in use
  start()
  local ok, message = ngx.timer.every(TICK, tick)
  if not ok then fail("no timer: " .. tostring(message)) end
  instance.start()
end

local function unavailable(message)
  ngx.log(ngx.ERR, "chalk: ", message)
  ngx.status = ngx.HTTP_SERVICE_UNAVAILABLE
  ngx.header["Content-Type"] = "text/plain; charset=utf-8"
  ngx.say("chalk: ", message)
  return ngx.exit(ngx.HTTP_OK)
end

--- Answers a scrape. In content_by_lua*.
function M.serve()
  if not state then fail "serve was called, but not init, which belongs into init_by_lua*" end
  if not state.address then
    ngx.header["Content-Type"] = "text/plain; charset=utf-8"
    return ngx.exit(ngx.HTTP_OK)
  end
  local missing = agreement.missing(client)
  if missing then return unavailable(missing) end
  return require("resty.chalk.relay").run(state.address)
end

--- Defines the standard metrics of an HTTP server, which the object's log() records. In init_by_lua*, after init.
---@param options table? see resty.chalk.http
---@return resty.chalk.Http
function M.http(options)
  if not state then fail "http was called, but not init, which comes before it in init_by_lua*" end
  if ngx.get_phase() ~= "init" then fail("http belongs into init_by_lua*, it was called in " .. ngx.get_phase()) end
  return require("resty.chalk.http").new(client, options)
end

return M
