-- A shop whose functions, in examples/shop/, are instrumented with chalk.autometrics.
--
--     luajit examples/shop.lua [VERSION [PORT [METRICS_PORT]]]     0 or no number: any free port
--
-- /order/1, /order/2 and so on place orders, several at a time. Version 1.5.0 has a bug, to show what the metrics tell
-- about a deploy: stop 1.4.0 and start 1.5.0 on the same ports. The shop ends on SIGTERM or SIGINT, and with --stdin
-- also when its standard input ends.

local here = arg[0]:match "^(.*/)" or "./"
package.path = here .. "?.lua;" .. package.path

local auto = require "chalk.autometrics"
local chalk = require "chalk"
local cjson = require "cjson"
local uv = require "luv"
local web = require "demo.web"

local words, with_stdin = {}, false
for _, word in ipairs(arg) do
  if word == "--stdin" then
    with_stdin = true
  else
    words[#words + 1] = word
  end
end
local version, port, metrics_port = words[1] or "1.4.0", tonumber(words[2] or 0), tonumber(words[3] or 0)

-- init comes before the modules, so that their functions have the service's name from the beginning.
auto.init { service_name = "shop", version = version }
local billing = require "shop.billing"
local orders = require "shop.orders"
billing.use(version)

local function answer(path, reply)
  local order = tonumber(path:match "^/order/(%d+)$")
  if not order then return reply(404, path .. " does not exist\n") end
  local ok, result = pcall(orders.place, order)
  if ok then return reply(200, result) end
  return reply(500, type(result) == "table" and result.message .. "\n" or tostring(result))
end

-- Returns the queries and links of all functions as JSON.
local function queries()
  local list = {}
  for i, f in ipairs(auto.functions()) do
    list[i] = { name = f.name, module = f.module, queries = auto.queries(f.f), links = auto.links(f.f) }
  end
  return cjson.encode(list)
end

local server = web.serve(port, function(path, reply)
  if path == "/queries" then return reply(200, queries(), "application/json") end
  coroutine.wrap(answer)(path, reply)
end)

metrics_port = metrics_port ~= 0 and metrics_port or web.free_port()
chalk.init { exporters = { chalk.exporter.prometheus { listen = "127.0.0.1:" .. metrics_port } } }

local handles = { uv.new_signal(), uv.new_signal() }
local function stop()
  server:close()
  for _, one in ipairs(handles) do
    if not one:is_closing() then one:close() end
  end
end
handles[1]:start("sigterm", stop)
handles[2]:start("sigint", stop)
if with_stdin then
  handles[3] = uv.new_pipe(false)
  handles[3]:open(0)
  handles[3]:read_start(function(_, data)
    if not data then stop() end
  end)
end

print(("listening on 127.0.0.1:%d metrics on 127.0.0.1:%d"):format(server.port, metrics_port))
io.stdout:flush()
uv.run()
assert(chalk.shutdown())
