-- `make bench`: times records and exports. It prints a table and writes build/bench.json.
--
--     luajit bench/run.lua            everything
--     luajit bench/run.lua --gate     fails if a record path takes more than 50 ns, makes garbage, or takes more
--                                     instructions than instructions.json allows (instructions.lua)
--     luajit bench/run.lua --paths    prints only the times of the record paths, without a table

package.path = (arg[0]:match "^(.*/)" or "./") .. "?.lua;" .. package.path

local autometrics = require "autometrics"
local cjson = require "cjson"
local commands = require "commands"
local export = require "export"
local harness = require "harness"
local processes = require "processes"
local record = require "record"
local statsd = require "statsd"
local stream = require "stream"

local MOST = 50
local mode = arg[1]

-- Each path: name, loop, target in ns. `above` names the loop whose time is subtracted. `most` is the limit of the gate
-- for a path that does more than one record. `garbage` is the number of bytes that the path may make.
local PATHS = {
  { "count inc(), kept series", "count", 1.5, above = "empty" },
  { "gauge set(), kept series", "gauge", 3.5, above = "empty" },
  { "gauge set() of the same value, kept series", "gauge_same", 3.5, above = "empty" },
  { "gauge inc(n), kept series", "gauge_inc", 15 },
  { "gauge dec(n), kept series", "gauge_dec", 15 },
  { "gauge by sum, set(), kept series", "summed", 3.5, above = "empty" },
  { "count metric{...}:inc(), 80 combinations", "call", 10 },
  { "count metric:with(a, b):inc(), 80 combinations", "with", 8 },
  { "histogram record(v), kept series, 11 bounds", "histogram", 12 },
  { "histogram metric{...}:record(v), 80 combinations", "histogram_call", 20 },
  { "op record(seconds), kept series", "op", 14 },
  { "histogram time(f), above two readings of the clock", "time", 30, above = "clock" },
  { "op time(f), above two readings of the clock", "op_time", 30, above = "clock" },
  { "histogram start()(), a function each", "start", 400, most = 1200, garbage = 160 },
}

local function measure_paths()
  local loops = record.loops(record.client())
  local rows = {}
  for i, path in ipairs(PATHS) do
    local loop = loops[path[2]]
    local below = path.above and harness.time(loops[path.above]) or 0
    local ns = math.max(0, harness.time(loop) - below)
    local row = { name = path[1], ns = ns, target = path[3], garbage = harness.garbage(loop) }
    row.most = path.most or MOST
    row.excess = math.max(0, row.garbage - (path.garbage or 0))
    rows[i] = row
  end
  return rows
end

local function measure_disabled()
  local loops = record.loops(record.client { enabled = false })
  local empty = harness.time(loops.empty)
  return math.max(0, harness.time(loops.count) - empty)
end

if mode == "--paths" then
  for _, row in ipairs(measure_paths()) do
    print(("%s\t%.3f"):format(row.name, row.ns))
  end
  return
end

local function first_line(command) return commands.first_line(command) or "unknown" end

local function processor()
  for line in io.lines "/proc/cpuinfo" do
    local name = line:match "^model name%s*:%s*(.+)"
    if name then return name end
  end
  return "unknown"
end

local rows = {}
local function row(name, value, unit, target, ok)
  rows[#rows + 1] = { name = name, value = value, unit = unit, target = target, ok = ok }
  local verdict = ok == nil and "" or ok and "ok" or "MISSED"
  print(("%-56s %10.2f %-12s %-16s %s"):format(name, value, unit, target or "", verdict))
end

local luajit = first_line((os.getenv "LUAJIT" or "luajit") .. " -v")
print(("%s\n%s, %s cores\n"):format(luajit, processor(), first_line "nproc"))

local failures = {}
local paths = measure_paths()
for _, path in ipairs(paths) do
  row(path.name, path.ns, "ns", ("at most %g"):format(path.target), path.ns <= path.target)
  if path.ns > path.most then failures[#failures + 1] = path.name end
  if path.excess > 0 then failures[#failures + 1] = path.name .. ": garbage" end
end

local stores_each = processes.stores_each()
row("gauge set() of the same value: each is stored", stores_each and 1 or 0, "", "1", stores_each)
if not stores_each then failures[#failures + 1] = "gauge set() of the same value: some calls stored nothing" end

if mode ~= "--gate" then
  local worst = 0
  for _, path in ipairs(paths) do
    worst = math.max(worst, path.excess)
  end
  row("garbage a record, the worst of these", worst, "bytes", "0", worst == 0)
  local disabled = measure_disabled()
  row("disabled, above the empty loop", disabled, "ns", "0", disabled < 0.1)
  local wrapped, garbage, nested, bare = autometrics.run()
  row("autometrics: wrapped empty function, above the bare call", wrapped, "ns", "at most 150", wrapped <= 150)
  row("  one that calls another", nested, "ns", "at most 300", nested <= 300)
  row("  garbage a call", garbage, "bytes", "0", garbage == 0)
  row("  disabled: is another function than the bare one", bare and 0 or 1, "", "0", bare)
  local alone, both = processes.run()
  local slower = (both / alone - 1) * 100
  row("two processes at once, each against one alone", slower, "% slower", "at most 5", slower <= 5)
  for _, n in ipairs { 2, 8 } do
    row(("%d processes at once, counts, 80 combinations"):format(n), processes.together("with", n), "M records/s")
    local recorded = processes.together("histogram_call", n)
    row(("%d processes at once, histograms, 80 combinations"):format(n), recorded, "M records/s")
  end
  local rate = export.exposition("count", 100000)
  row("exposition, 100,000 counts with 2 tags", rate, "M lines/s", "at least 8", rate >= 8)
  rate = export.exposition("histogram", 10000)
  row("exposition, 10,000 histograms with 11 bounds", rate, "M lines/s", "at least 8", rate >= 8)
  for _, n in ipairs { 10, 100, 1000 } do
    for _, tags in ipairs { 0, 2, 5 } do
      row(("exposition, %d mixed metrics with %d tags"):format(n, tags), export.batch(n, tags), "us")
    end
  end
  local flush, walk = export.flush(100000)
  row("flush of 100,000 counts on the flush thread, each() read", flush, "ms", "at most 60", flush <= 60)
  row("  of which the exporter's walk", walk, "ms")
  for _, mode_and_target in ipairs { { "distribution", 150 }, { "percentiles", 600 } } do
    local name, target = mode_and_target[1], mode_and_target[2]
    local sent, packed = statsd.mixed(name)
    row("statsd: 1,000 mixed metrics, " .. name, sent, "us", "at most " .. target, sent <= target)
    row("  of which without sending", packed, "us")
  end
  for _, n in ipairs { 10, 100, 1000 } do
    for _, name in ipairs { "percentiles", "distribution" } do
      row(("statsd: %d metrics of one series each, %s, packed"):format(n, name), statsd.batch(name, n), "us")
    end
  end
  local changed, unchanged, fill = statsd.counts(100000)
  row("statsd: 100,000 counts that changed, over UDP", changed, "ms", "at most 60", changed <= 60)
  row("  how full their packets are", fill * 100, "%", "at least 95", fill >= 0.95)
  row("statsd: 100,000 counts, none changed", unchanged, "ms", "at most 5", unchanged <= 5)
  local values, cost = statsd.raw(50000)
  row("statsd: raw values sent", values, "M values/s")
  row("  record a value that is sent so", cost, "ns")
  local delivered = harness.median { (stream.delivered(1)), (stream.delivered(1)), (stream.delivered(1)) }
  row("stream: events delivered to a client on loopback", delivered, "M events/s", "at least 1", delivered >= 1)
  for _, name in ipairs { "count", "gauge", "histogram" } do
    local ns = stream.tapped(name)
    row("stream: a record that is streamed, " .. name, ns, "ns", "at most 40", ns <= 40)
  end
  local idle = stream.idle()
  row("stream: nobody connected, a record takes more by", idle, "ns", "0", idle < 0.5)
  local without, with = stream.slow_client()
  row("stream: a record's p99.9 beside a client that reads", without, "ns")
  local ratio = with / without
  row("  times that, beside one that never reads, too", ratio, "times", "at most 2", ratio <= 2)
  local pipe = io.popen((os.getenv "LUAJIT" or "luajit") .. " -joff bench/run.lua --paths 2>/dev/null")
  for line in pipe:lines() do
    local name, ns = line:match "^(.-)\t(.+)$"
    if name then row("interpreter: " .. name, tonumber(ns), "ns") end
  end
  pipe:close()
  local file = assert(io.open("build/bench.json", "w"))
  file:write(cjson.encode { luajit = luajit, processor = processor(), rows = rows }, "\n")
  file:close()
end

if mode == "--gate" then
  for _, failure in ipairs(require("instructions").check()) do
    failures[#failures + 1] = failure
  end
  if #failures > 0 then
    print("\nthe gate failed: " .. table.concat(failures, "; "))
    os.exit(1)
  end
  print "\nevery record path is within the gate"
end
