-- The program of `make demo`. It starts examples/service.lua, sends requests to it, shows its scrape and its quantiles,
-- and compares the service's counts with those of the clients. The exit code is 0 if they agree.
--
--     luajit examples/demo.lua [--seconds=5] [--client=wrk|luv]
--
-- wrk makes the load; without wrk a client in Lua does.

local here = arg[0]:match "^(.*/)" or "./"
package.path = here .. "?.lua;" .. package.path

local cjson = require "cjson"
local uv = require "luv"
local child = require "demo.child"
local client = require "demo.client"

local LOADS = {
  { path = "/fast", endpoint = "/fast", connections = 2 },
  { path = "/search", endpoint = "/search", connections = 8 },
  { path = "/report", endpoint = "/report", connections = 8 },
  { path = "/flaky", endpoint = "/flaky", connections = 4 },
  { path = "/nowhere", endpoint = "other", connections = 1 },
}
local EXAMPLE = "/search" -- the endpoint whose latency is shown from the scrape
local is_tty = uv.guess_handle(1) == "tty"

local function say(text, ...)
  io.write(select("#", ...) > 0 and text:format(...) or text, "\n")
  io.flush()
end

local function heading(text)
  if is_tty then text = "\27[1m" .. text .. "\27[0m" end
  say("\n" .. text)
end

-- Writes 1234567 as "1,234,567".
local function grouped(n)
  local text = ("%d"):format(n):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (text:gsub("^,", ""))
end

local function shown(seconds)
  if seconds < 0.0001 then return ("%.1f us"):format(seconds * 1e6) end
  return ("%.2f ms"):format(seconds * 1000)
end

local function fetch(port, path)
  local response, message = child.await(function(done) client.get(port, path, done) end, 10)
  if not response then error(("%s: %s"):format(path, message or "no answer in time"), 0) end
  assert(response.status == 200, path)
  return response.body
end

-- Load. A load is an object with finished(), and result(), which returns { requests, failed, errors, seconds, p50 }.

local function wrk_load(port, load, seconds, wrk)
  local url = ("http://127.0.0.1:%d%s"):format(port, load.path)
  local process = child.spawn(wrk, {
    "-t1",
    "-c" .. load.connections,
    "-d" .. seconds .. "s",
    "-s",
    here .. "demo/wrk.lua",
    url,
  })
  return {
    finished = function() return process:ended() end,
    result = function()
      local line = process.output:match "\n({[^\n]*})\n"
      return cjson.decode(line or error("wrk failed: " .. process.output, 0))
    end,
  }
end

local function luv_load(port, load, seconds)
  local running = client.load { port = port, path = load.path, connections = load.connections, seconds = seconds }
  return {
    finished = function() return running.running == 0 end,
    result = function()
      return {
        requests = running.requests,
        failed = running.requests - (running.statuses[200] or 0),
        errors = running.errors,
        seconds = running.seconds,
        p50 = running:quantile(0.5),
      }
    end,
  }
end

-- Progress: a line that is redrawn on a terminal, and a line of dots elsewhere.

local function total_of(scrape)
  local total = 0
  for n in scrape:gmatch "\nhttp_request_count_total{[^\n]*} (%d+)" do
    total = total + tonumber(n)
  end
  return total
end

-- Scrapes over and over, as a Prometheus would.
local function watch_scrapes(port)
  local watch = { total = 0, count = 0, slowest = 0 }
  local asking = false
  function watch.look()
    if asking then return end
    asking = true
    local since = uv.hrtime()
    client.get(port, "/metrics", function(response)
      asking = false
      if not response then return end
      watch.total, watch.count = total_of(response.body), watch.count + 1
      watch.slowest = math.max(watch.slowest, (uv.hrtime() - since) / 1e9)
    end)
  end
  function watch.idle() return not asking end
  return watch
end

local WIDTH = 24

local function draw(passed, seconds, watch)
  if not is_tty then
    io.write "."
  else
    local full = math.min(WIDTH, math.floor(WIDTH * passed / seconds))
    local bar = ("#"):rep(full) .. ("-"):rep(WIDTH - full)
    io.write(("\r  [%s] %4.1f s  %s requests\27[K"):format(bar, math.min(passed, seconds), grouped(watch.total)))
  end
  io.flush()
end

local function drive(running, seconds, metrics_port)
  local watch, started = watch_scrapes(metrics_port), uv.hrtime()
  local timer = uv.new_timer()
  io.write "  "
  timer:start(250, 250, function()
    watch.look()
    draw((uv.hrtime() - started) / 1e9, seconds, watch)
  end)
  local finished = child.wait(function()
    for _, one in ipairs(running) do
      if not one.finished() then return false end
    end
    return true
  end, seconds + 8)
  timer:close()
  assert(finished, "the load did not end in time")
  child.wait(watch.idle, 5)
  say ""
  return watch
end

-- Output

local function show_excerpt(scrape)
  local _, lines = scrape:gsub("\n", "")
  heading(("The scrape: of its %s lines the counts, and the latency of %s"):format(grouped(lines), EXAMPLE))
  for line in scrape:gmatch "[^\n]+" do
    local is_latency = line:find "^http_request_latency"
    if line:find "^#? ?%u* ?http_" and (not is_latency or line:find(EXAMPLE, 1, true)) then say("  " .. line) end
  end
end

local ROW = "  %-9s %9s %8s %10s %10s %10s %8s %9s %13s"

local function show_row(endpoint, name, result)
  local failed = endpoint.count - (endpoint.statuses["200"] or 0)
  say(
    ROW,
    name,
    grouped(endpoint.count),
    grouped(endpoint.count / result.seconds),
    shown(endpoint.p50),
    shown(endpoint.p90),
    shown(endpoint.p99),
    ("%.2f %%"):format(endpoint.error * 100),
    ("%.1f %%"):format(100 * failed / endpoint.count),
    shown(result.p50)
  )
end

local function show_table(loads, recorded)
  heading "Latency by endpoint, from the service's sketches"
  say(ROW, "endpoint", "count", "rate/s", "p50", "p90", "p99", "within", "failed", "client's p50")
  for _, load in ipairs(loads) do
    show_row(recorded[load.endpoint], load.endpoint, load.result)
  end
end

-- Comparing

local function in_scrape(scrape, endpoint)
  local count = 0
  for labels, n in scrape:gmatch "\nhttp_request_count_total{([^\n]*)} (%d+)" do
    if labels:find(('endpoint="%s"'):format(endpoint), 1, true) then count = count + tonumber(n) end
  end
  return count,
    tonumber(scrape:match(('\nhttp_request_latency_seconds_count{endpoint="%s"} (%%d+)'):format(endpoint)))
end

-- Returns the differences between a client and the service. wrk stops in the middle of requests, which the service
-- still answers and counts: at most `open` of them, one for each connection.
local function compare_one(load, recorded, scrape, open)
  local endpoint, result, problems = recorded[load.endpoint], load.result, {}
  local function check(ok, text, ...)
    if not ok then problems[#problems + 1] = load.endpoint .. ": " .. text:format(...) end
  end
  local function between(what, n, least)
    check(n >= least and n <= least + open, "%s is %d, the client's %d", what, n, least)
  end
  local counted, histogram = in_scrape(scrape, load.endpoint)
  check(result.errors == 0, "the client had %d connection errors", result.errors)
  between("the service's count", endpoint.count, result.requests)
  between("the service's count of failures", endpoint.count - (endpoint.statuses["200"] or 0), result.failed)
  check(counted == endpoint.count, "the scrape's count is %d, the service's %d", counted, endpoint.count)
  check(histogram == counted, "the scrape's histogram has %s values, its count is %d", tostring(histogram), counted)
  -- The client's latency includes the network, so the service's must be lower. Half a millisecond is allowed for the
  -- clocks, and for the requests that the client did not see.
  local p50, most = endpoint.p50, result.p50 * 1.02 + 0.0005
  check(p50 <= most, "the service's p50 is %g s, the client's %g s", p50, result.p50)
  return problems
end

local function compare(loads, recorded, scrape, name)
  local problems, asked, answered = {}, 0, 0
  for _, load in ipairs(loads) do
    for _, problem in ipairs(compare_one(load, recorded, scrape, name == "wrk" and load.connections or 0)) do
      problems[#problems + 1] = problem
    end
    asked, answered = asked + load.result.requests, answered + recorded[load.endpoint].count
  end
  heading "What the clients counted, and what chalk did"
  local cut = answered - asked
  say("  %-12s %12s", name, grouped(asked))
  say(
    "  %-12s %12s%s",
    "the service",
    grouped(answered),
    cut > 0 and ("  with %d that were in progress when %s stopped"):format(cut, name) or ""
  )
  say("  %-12s %12s", "the scrape", grouped(total_of(scrape)))
  for _, problem in ipairs(problems) do
    say("  differs: " .. problem)
  end
  return #problems == 0
end

-- Running

-- Returns the service's scrape and its own report once no request is left: neither in progress, nor in the buffers of
-- its sockets, where a client that has ended may have left some.
local function final_state(service)
  local scrape, recorded
  local idle = child.wait(function()
    local before = fetch(service.metrics_port, "/metrics")
    recorded = cjson.decode(fetch(service.port, "/quantiles"))
    scrape = fetch(service.metrics_port, "/metrics")
    local none_in_flight = scrape:find("\nhttp_requests_in_flight 0\n", 1, true)
    return none_in_flight and total_of(before) == total_of(scrape)
  end, 10)
  assert(idle, "requests are still in flight after 10 s")
  return scrape, recorded
end

local function run(service, options)
  local wrk = options.client ~= "luv" and child.find "wrk"
  assert(wrk or options.client ~= "wrk", "wrk is not on PATH")
  local name, connections = wrk and "wrk" or "client", 0
  local running = {}
  for _, load in ipairs(LOADS) do
    connections = connections + load.connections
  end
  heading "chalk: a service under load"
  say("  service  http://127.0.0.1:%d  examples/service.lua, process %d", service.port, service.pid)
  say("  metrics  http://127.0.0.1:%d/metrics  served by the flush thread", service.metrics_port)
  say(
    "  load     %s, %d endpoints, %d connections, %d s",
    wrk or "a client in Lua, since wrk is not on PATH",
    #LOADS,
    connections,
    options.seconds
  )
  for i, load in ipairs(LOADS) do
    local start = wrk and wrk_load or luv_load
    running[i] = start(service.port, load, options.seconds, wrk)
  end
  local watch = drive(running, options.seconds, service.metrics_port)
  for i, load in ipairs(LOADS) do
    load.result = running[i].result()
  end
  local scrape, recorded = final_state(service)
  say(
    "  scraped %d times meanwhile, at most %s from the request to the last byte",
    watch.count,
    shown(watch.slowest)
  )
  show_excerpt(scrape)
  show_table(LOADS, recorded)
  return compare(LOADS, recorded, scrape, name)
end

local function traced(message) return type(message) == "string" and message or debug.traceback(tostring(message)) end

local function main(options)
  local started, service = xpcall(child.service, traced, here)
  if not started then return nil, service end
  local ok, agrees = xpcall(run, traced, service, options)
  local code = service:stop()
  if not ok then return nil, agrees end
  if code ~= 0 then return nil, "the service ended with " .. tostring(code) end
  return agrees
end

local options = { seconds = 5 }
for _, word in ipairs(arg) do
  local name, value = word:match "^%-%-(%a+)=(%w+)$"
  if name == "seconds" and tonumber(value) then
    options.seconds = tonumber(value)
  elseif name == "client" and (value == "wrk" or value == "luv") then
    options.client = value
  else
    error("usage: demo.lua [--seconds=N] [--client=wrk|luv]", 0)
  end
end

local agrees, message = main(options)
say(message and "\nfailed: " .. message or agrees and "\nagrees" or "\ndisagrees")
os.exit(agrees and 0 or 1)
