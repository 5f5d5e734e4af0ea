-- `make bench-nginx`: measures nginx with and without chalk, prints a table and writes build/bench-nginx.json. A real
-- nginx, an open-loop load and a scraper run on this machine. Every figure is a median. The cases alternate, so that
-- other work of the machine slows all of them down alike.
--
--     luajit bench/nginx.lua [ROUNDS]

local here = arg[0]:match "^(.*/)" or "./"
package.path = here .. "?.lua;" .. package.path

local cjson = require "cjson"
local commands = require "commands"
local server = require "nginx.server"
local uv = require "luv"

local ROUNDS = tonumber(arg[1]) or 5
local WORKERS = 2
local RATE, SECONDS, CONNECTIONS = 2000, 6, 32
local COUNTS, HISTOGRAMS = 120000, 20000 -- series; a count has 1 line and a histogram 14
local WARM, WRK = 3, 1

local root = assert(uv.fs_realpath(here .. ".."))
local build = os.getenv "BUILD" or root .. "/build"
local library = (os.getenv "CHALK_LIBRARY" or ""):match "^(.*)/" or build
local tools = build .. "/bench-nginx"

local function say(...) io.stderr:write(string.format(...), "\n") end

local function compile()
  server.run("mkdir -p " .. tools)
  for _, name in ipairs { "load", "scrape" } do
    local command = "%s -std=c11 -O2 -D_GNU_SOURCE= -o %s/%s %snginx/%s.c"
    assert(commands.run(command:format(os.getenv "CC" or "cc", tools, name, here, name)))
  end
end

local function median(list)
  local sorted = {}
  for i, v in ipairs(list) do
    sorted[i] = v
  end
  table.sort(sorted)
  return sorted[math.floor((#sorted + 1) / 2)]
end

local function start(name, workers, counts, histograms)
  return server.start(here .. "nginx/" .. name .. ".conf", {
    root = root,
    library = library,
    workers = workers,
    counts = counts,
    histograms = histograms,
  })
end

-- The table

local rows = {}

local function row(name, value, unit, target, met, note)
  rows[#rows + 1] = { name = name, value = value, unit = unit, target = target, met = met, note = note }
end

local function verdict(met)
  if met == nil then return "" end
  return met and "met" or "missed"
end

local function print_table()
  print "| row | measured | target | |"
  print "| --- | ---: | ---: | --- |"
  for _, r in ipairs(rows) do
    print(("| %s | %.2f %s | %s | %s |"):format(r.name, r.value, r.unit, r.target or "", verdict(r.met)))
  end
end

-- Latency under scrapes

local function scraper(port, path, times) return ("%s/scrape %d %s %d 1"):format(tools, port, path, times) end

--- Runs the load for one round, with a scrape each second at port and path, or without. Returns p50, p99, p99.9 and the
--- maximum of the latency in ms.
local function load(nginx, port, path)
  local beside = port and scraper(port, path, SECONDS) .. " >/dev/null & " or ""
  local command = "%s%s/load %d / %d %d %d; wait"
  local output = server.run(command:format(beside, tools, nginx.settings.port, RATE, SECONDS, CONNECTIONS))
  local _, failed, p50, p99, p999, most = output:match "(%d+) (%d+) (%S+) (%S+) (%S+) (%S+)"
  assert(failed == "0", "requests under load failed: " .. output)
  return { tonumber(p50), tonumber(p99), tonumber(p999), tonumber(most) }
end

local NAMES = { "p50", "p99", "p99.9", "max" }
local MORE = { [2] = 0.5, [4] = 5 } -- ms that p99 and the maximum may be above those without scrapes

local function column(rounds, i)
  local list = {}
  for k, round in ipairs(rounds) do
    list[k] = round[i]
  end
  return median(list)
end

local function latency(nginx)
  local settings = nginx.settings
  local cases = {
    { "no scrape" },
    { "listener", settings.listener, "/metrics" },
    { "serve()", settings.port, "/metrics" },
    { "rendered on the event loop", settings.port, "/stall" },
  }
  for round = 1, ROUNDS do
    for _, case in ipairs(cases) do
      case.rounds = case.rounds or {}
      case.rounds[round] = load(nginx, case[2], case[3])
      say("load %d/%d, %s: %s ms", round, ROUNDS, case[1], table.concat(case.rounds[round], " "))
    end
  end
  for at, case in ipairs(cases) do
    local passes = true
    for i, name in ipairs(NAMES) do
      local value, more = column(case.rounds, i), at > 1 and MORE[i]
      local above = value - column(cases[1].rounds, i)
      local met
      if more then
        met = above <= more
        passes = passes and met
      end
      if at == #cases then met = nil end
      row(
        ("%s of requests, %s"):format(name, case[1]),
        value,
        "ms",
        more and ("at most %.1f above, is %+.2f"):format(more, above),
        met
      )
    end
    if at == #cases then
      rows[#rows].target, rows[#rows].met = "must fail the check", not passes
    end
  end
end

-- Scrapes alone

local function times_of(output)
  local list = {}
  for ms in output:gmatch "([%d.]+) %d+ %d+\n" do
    list[#list + 1] = tonumber(ms)
  end
  return list
end

local function scrape_time(name, port, most)
  local lines = server.run(("%s/scrape %d /metrics 1 0 lines"):format(tools, port)):match "(%d+)\n"
  server.run(("%s/scrape %d /metrics %d 0.2"):format(tools, port, WARM))
  local list = times_of(server.run(("%s/scrape %d /metrics %d 0.3"):format(tools, port, math.max(ROUNDS, 5) * 2)))
  say("scrapes, %s: %s ms", name, table.concat(list, " "))
  local value = median(list)
  row(
    ("request to last byte, %s lines, %s"):format(lines, name),
    value,
    "ms",
    ("at most %d"):format(most),
    value <= most
  )
end

-- wrk

local function wrk(nginx, path)
  local output = server.run(("wrk -t1 -c32 -d%ds http://127.0.0.1:%d%s"):format(WRK, nginx.settings.port, path))
  return assert(tonumber(output:match "Requests/sec:%s+([%d.]+)"), output)
end

-- Runs the cases alternately and in both orders; the first round is the warm-up. There are many short rounds, because
-- the machine's speed varies by more than the difference that is measured.
local function throughput()
  local plain, chalk = start("plain", WORKERS, 0, 0), start("chalk", WORKERS, 0, 0)
  local cases = {
    { "a no-op", plain, "/" },
    { "a count and a histogram, in a function", chalk, "/" },
    { "with status and time read from ngx", chalk, "/request" },
    { "that written into the block, which LuaJIT interprets", chalk, "/block" },
  }
  for _, case in ipairs(cases) do
    case.rates, case.ratios = {}, {}
  end
  for round = 0, ROUNDS * 5 do
    local rates = {}
    for i = 1, #cases do
      local at = round % 2 == 0 and i or #cases + 1 - i
      rates[at] = wrk(cases[at][2], cases[at][3])
    end
    say("wrk: %s", table.concat(rates, " "))
    for i, case in ipairs(cases) do
      if round > 0 then
        case.rates[round], case.ratios[round] = rates[i], rates[i] / rates[1] * 100
      end
    end
  end
  plain:stop()
  chalk:stop()
  for i, case in ipairs(cases) do
    local ratio = median(case.ratios)
    row("log_by_lua_block: " .. case[1], median(case.rates), "requests/s")
    if i > 1 then
      local target = i == 2 and "at least 97" or nil
      row("... of the no-op's in the same round", ratio, "%", target, target and ratio >= 97)
    end
  end
end

-- Memory

local function memory()
  local workers, list, base = 4, {}, {}
  for i = 1, math.max(ROUNDS, 5) do
    local plain, chalk = start("plain", workers, 0, 0), start("chalk", workers, 10000, 1000)
    chalk:wait_full()
    base[i], list[i] = plain:memory(), chalk:memory()
    say("memory: %.1f without, %.1f with", base[i], list[i])
    plain:stop()
    chalk:stop()
  end
  row("memory (Pss) of nginx without chalk, 4 workers", median(base), "MiB")
  row("with 10,000 counts and 1,000 histograms", median(list), "MiB")
  local more = median(list) - median(base)
  row("more than without", more, "MiB", "at most 24", more <= 24)
end

compile()
local nginx = start("chalk", WORKERS, COUNTS, HISTOGRAMS)
local ok, message = pcall(function()
  nginx:wait_full()
  scrape_time("serve()", nginx.settings.port, 150)
  scrape_time("listener", nginx.settings.listener, 100)
  latency(nginx)
end)
nginx:stop()
if not ok then error(message, 0) end
throughput()
memory()

print_table()
local file = assert(io.open(build .. "/bench-nginx.json", "w"))
file:write(cjson.encode { rows = rows, rounds = ROUNDS, rate = RATE, cores = tonumber(server.run "nproc") }, "\n")
file:close()
