-- chalk in nginx and OpenResty: one set of metrics for all workers.
--
--     init_by_lua_block        { metrics = require("resty.chalk").init { definitions = "metrics.json" } }
--     init_worker_by_lua_block { require("resty.chalk").init_worker() }
--     location /metrics        { content_by_lua_block { require("resty.chalk").serve() } }
--
-- `init` runs in the master. It opens the segment and the listening sockets, which the workers inherit. `init_worker`
-- starts a flush thread in each worker; one of these threads holds the flusher's role, and the others wait for it.
-- `serve` asks the thread that holds the role, at a unix socket, and passes its answer on to the client, so that no
-- text is rendered on a worker's event loop. If `stream {}` calls init too, both modules share one configuration, see
-- resty.chalk.agreement.

local agreement = require "resty.chalk.agreement"
local client = require "chalk.global"
local core = require "chalk.core"
local exporters = require "chalk.flush.exporters"
local instance = require "resty.chalk.instance"
local socket = require "resty.chalk.socket"

local C = core.C

local M = {}

local TICK = 0.25 -- seconds; cells of dropped series can be used again only after every worker has ticked
local PAUSE = 0.005 -- seconds between two looks at a flush

local state -- of this VM after init: metrics and tags, the definitions that init received, the address of the socket

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

-- Adds to the user's exporters a Prometheus exporter that listens at the unix socket, for `serve`.
local function with_relay(options, address)
  local list = {}
  for i, exporter in ipairs(options.exporters or {}) do
    list[i] = exporter
  end
  local relay = exporters.prometheus_options(options)
  relay.name, relay.listen = "resty.chalk.serve", address
  list[#list + 1] = exporters.constructors.prometheus(relay)
  options.exporters = list
end

local function check(options)
  if type(options) ~= "table" then fail("init needs a table of options, got a " .. type(options)) end
  local phase = ngx.get_phase()
  if phase ~= "init" then fail("init must be called in init_by_lua*, it was called in " .. phase) end
  if options.driver ~= nil and options.driver ~= "thread" then fail 'driver must be "thread" in nginx' end
  if options.definitions == nil then
    fail "init needs definitions: a path, or the structure of metrics.json as a table"
  end
end

-- Answers a second init. With the same definitions, as in two includes of one configuration, it returns the same
-- result.
local function repeated(options)
  if options.definitions ~= state.definitions then fail "init was called twice, with different definitions" end
  return state.metrics, state.tags
end

-- Returns the options that hold for this VM: its own, and the shared ones that another module of this nginx was given.
-- Then the path of the socket, and the address of the other module's socket, if there is one.
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

-- Paths are relative to nginx's prefix, as in nginx's own directives.
local function source_of(definitions)
  if type(definitions) ~= "string" or definitions:sub(1, 1) == "/" then return definitions end
  return ngx.config.prefix() .. definitions
end

--- Sleeps without blocking the worker. Returns false in phases in which nginx does not allow a sleep.
local function pause() return (pcall(ngx.sleep, PAUSE)) end

-- Without init_worker

-- Logs, in a new worker, that init_worker was not called.
local function complain()
  local missing = not (state and state.started) and ngx.get_phase() ~= "init_worker" and agreement.missing(client)
  if missing then ngx.log(ngx.ERR, "chalk: ", missing) end
end

-- Flushes in a VM that has not called init_worker, or fails with the reason if nothing can flush.
local function flush_unstarted(timeout)
  if ngx.get_phase() == "init" then return true end
  local missing = agreement.missing(client)
  if missing then return nil, missing end
  if not client.config then return true end -- chalk is disabled
  client:attach()
  return client:flush(timeout)
end

-- Steps of init

-- Defines the metrics of `definitions`. The first definition opens the segment.
local function load_definitions(definitions, rest)
  client.options = rest -- the segment's size depends on options
  client.hands_on = true -- this process does not sweep, because its workers do
  local ok, metrics, tags = pcall(client.load, client, source_of(definitions))
  if not ok then error(metrics, 0) end
  return metrics, tags
end

-- Configures the exporters. Closes the socket again if that fails.
local function prepare(rest, address)
  local ok, message = client:prepare(rest)
  if ok then return end
  exporters.discard_sockets(exporters.listener(client), { { listen = address } })
  fail(message)
end

--- Loads the definitions and configures the exporters. Must be called in init_by_lua*. Raises a message if something is
--- wrong, so that nginx does not start, or keeps its old configuration.
---@param options table `definitions` (a path, relative to nginx's prefix, or a table), `socket` (a path), and the
--- options of chalk.init
---@return table metrics, table tags
function M.init(options)
  check(options)
  if state then return repeated(options) end
  local problem = client.problem_of(without(options, "definitions", "socket"))
  if problem then fail(problem) end
  local rest, path, address = agreed_options(options)
  local metrics, tags = load_definitions(options.definitions, rest)
  if client.enabled and options.enabled ~= false then
    address = address or socket.open(client, path)
    with_relay(rest, address)
  end
  prepare(rest, address)
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

-- Tells the core that this worker is not recording at this moment.
local function tick(premature)
  if premature or not client.segment then return end
  local callers = package.loaded["chalk.autometrics.callers"]
  if callers then callers.sweep() end
  client:on_stale()
  C.chalk_writer_tick(client.writer)
end

-- Starts the flush thread, unless the VM of the other module does so.
local function start()
  local agreed = agreement.read()
  if agreed then
    client.config, state.address = agreed.config, agreed.address
  end
  if not agreement.is_starter(agreed) then return client:attach() end
  client:start()
  agreement.start(agreed)
  -- Closes sockets that only an older configuration had. This is not done in init, because nginx may still refuse the
  -- new configuration then.
  local addresses, n = addresses_of(client.config)
  C.chalk_listen_only(exporters.listener(client), addresses, n)
end

--- Starts chalk in a worker. Must be called in init_worker_by_lua*.
function M.init_worker()
  if not state then fail "init_worker was called without init, which must be called in init_by_lua*" end
  if ngx.get_phase() ~= "init_worker" then
    fail("init_worker must be called in init_worker_by_lua*, it was called in " .. ngx.get_phase())
  end
  if not client.segment or state.started then return end
  state.started = true
  C.chalk_inherit(0)
  client.hands_on = false
  client:on_stale()
  C.chalk_rebind(client.watch) -- takes a slot for this worker, so that its definitions stay in use
  start()
  local ok, message = ngx.timer.every(TICK, tick)
  if not ok then fail("the timer cannot be started: " .. tostring(message)) end
  instance.start()
end

local function unavailable(message)
  ngx.log(ngx.ERR, "chalk: ", message)
  ngx.status = ngx.HTTP_SERVICE_UNAVAILABLE
  ngx.header["Content-Type"] = "text/plain; charset=utf-8"
  ngx.say("chalk: ", message)
  return ngx.exit(ngx.HTTP_OK)
end

--- Answers a scrape. Must be called in content_by_lua*.
function M.serve()
  if not state then fail "serve was called without init, which must be called in init_by_lua*" end
  if not state.address then
    ngx.header["Content-Type"] = "text/plain; charset=utf-8"
    return ngx.exit(ngx.HTTP_OK)
  end
  local missing = agreement.missing(client)
  if missing then return unavailable(missing) end
  return require("resty.chalk.relay").run(state.address)
end

--- Defines the standard metrics of an HTTP server. Must be called in init_by_lua*, after init. The returned object's
--- log() records a request.
---@param options table? see resty.chalk.http
---@return resty.chalk.Http
function M.http(options)
  if not state then fail "http was called without init, which must be called before it in init_by_lua*" end
  local phase = ngx.get_phase()
  if phase ~= "init" then fail("http must be called in init_by_lua*, it was called in " .. phase) end
  return require("resty.chalk.http").new(client, options)
end

return M
