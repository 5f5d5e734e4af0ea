-- A small HTTP service, instrumented with chalk.
--
--     luajit examples/service.lua [PORT [METRICS_PORT]]     0 or no number: any free port
--
-- It prints where it listens. It answers /fast, /search, /report and /flaky, each after a different time, and ends on
-- SIGTERM or SIGINT. /quantiles returns as JSON what was recorded so far. With --stdin it also ends when its standard
-- input ends.

local here = arg[0]:match "^(.*/)" or "./"
package.path = here .. "?.lua;" .. package.path

local chalk = require "chalk"
local cjson = require "cjson"
local uv = require "luv"
local web = require "demo.web"

local metrics = chalk.load(here .. "metrics.json")
local in_flight = metrics.http.requests_in_flight
local started = uv.now()

-- The endpoints

local function after(milliseconds, f)
  local timer = uv.new_timer()
  timer:start(milliseconds, 0, function()
    timer:close()
    f()
  end)
end

local routes = {}

routes["/fast"] = function(answer) answer(200, "fast\n") end

routes["/search"] = function(answer)
  after(math.random(2, 10), function() answer(200, "found\n") end)
end

routes["/report"] = function(answer)
  after(math.random(20, 60), function() answer(200, "reported\n") end)
end

routes["/flaky"] = function(answer)
  after(1, function()
    if math.random() < 0.2 then return answer(500, "failed\n") end
    answer(200, "worked\n")
  end)
end

-- Recording

-- The series of each endpoint. Unknown paths share the endpoint "other", because clients can request any number of
-- them.
local endpoints = {}

local function endpoint_of(path)
  local name = routes[path] and path or "other"
  local endpoint = endpoints[name]
  if not endpoint then
    endpoint = { latency = metrics.http.request_latency { endpoint = name }, statuses = {} }
    endpoints[name] = endpoint
  end
  return endpoint, name
end

local function handle(path, reply)
  local endpoint, name = endpoint_of(path)
  local stop_clock = endpoint.latency:start()
  in_flight:inc()
  local function answer(status, body)
    in_flight:dec()
    stop_clock()
    metrics.http.request_count:with(name, status):inc()
    endpoint.statuses[status] = true
    reply(status, body)
  end
  local route = routes[path]
  if not route then return answer(404, path .. " does not exist\n") end
  route(answer)
end

-- Reads back what was recorded.
local function report()
  local list = {}
  for name, endpoint in pairs(endpoints) do
    local sketch, statuses = endpoint.latency:value(), {}
    for status in pairs(endpoint.statuses) do
      statuses[tostring(status)] = metrics.http.request_count:with(name, status):value()
    end
    list[name] = {
      statuses = statuses,
      count = sketch:count(),
      error = sketch:error(),
      p50 = sketch:quantile(0.5),
      p90 = sketch:quantile(0.9),
      p99 = sketch:quantile(0.99),
    }
  end
  return cjson.encode(list)
end

-- Running

-- Starts chalk's listener. Another process may take a free port before chalk does, so several are tried.
local function start_metrics(port)
  local ok, message
  for _ = 1, port == 0 and 5 or 1 do
    local chosen = port == 0 and web.free_port() or port
    ok, message = chalk.try_init {
      exporters = { chalk.exporter.prometheus { listen = "127.0.0.1:" .. chosen } },
    }
    if ok then return chosen end
  end
  error(message, 0)
end

local function main(port, metrics_port, with_stdin)
  math.randomseed(tonumber(tostring(uv.hrtime()):match "%d+") % 2 ^ 31)
  local server = web.serve(port, function(path, reply)
    if path == "/quantiles" then return reply(200, report(), "application/json") end
    handle(path, reply)
  end)
  metrics_port = start_metrics(metrics_port)
  local handles = { uv.new_timer(), uv.new_signal(), uv.new_signal() }
  local function stop()
    server:close()
    for _, one in ipairs(handles) do
      if not one:is_closing() then one:close() end
    end
  end
  handles[1]:start(0, 1000, function() metrics.uptime:set((uv.now() - started) / 1000) end)
  handles[2]:start("sigterm", stop)
  handles[3]:start("sigint", stop)
  if with_stdin then
    handles[4] = uv.new_pipe(false)
    handles[4]:open(0)
    handles[4]:read_start(function(_, data)
      if not data then stop() end
    end)
  end
  print(("listening on 127.0.0.1:%d metrics on 127.0.0.1:%d"):format(server.port, metrics_port))
  io.stdout:flush()
  uv.run()
  assert(chalk.shutdown())
end

local ports, with_stdin = {}, false
for _, word in ipairs(arg) do
  if word == "--stdin" then
    with_stdin = true
  else
    ports[#ports + 1] = assert(tonumber(word), "usage: service.lua [PORT [METRICS_PORT]] [--stdin]")
  end
end
main(ports[1] or 0, ports[2] or 0, with_stdin)
