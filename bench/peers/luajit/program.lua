-- Does the work of the peers' programs with chalk, in code as users write it. The arguments are the name of the work
-- and the seconds of a measure. It prints a line for each way to do that work: the way, a tab, the figure.
--
--     luajit bench/peers/luajit/program.lua count_80 0.1

local here = arg[0]:match "^(.*/)" or "./"
package.path = ("%s?.lua;%s../../?.lua;%s"):format(here, here, package.path)

local chalk = require "chalk"
local draws = require "draws"
local loops = require "loops"
local prometheus = require "chalk.exporter.prometheus"
local together = require "together"
local view = require "chalk.read.view"
local work = require "work"

local NEW, COUNTS, HISTOGRAMS = 10000, 100000, 10000
local TAGS = { "endpoint", "status" }

local name, seconds = arg[1], tonumber(arg[2])
local WORKS = {}

local function print_figure(way, figure) print(("%s\t%.9g"):format(way, figure)) end

function WORKS.empty() print_figure("loop", work.time(seconds, loops.empty()).ns) end

function WORKS.count_kept()
  local loop, kept = loops.count()
  local measure = work.time(seconds, loop)
  work.check(measure.total, kept:value())
  print_figure("series", measure.ns)
end

function WORKS.gauge_kept()
  local loop, kept = loops.gauge()
  local measure = work.time(seconds, loop)
  work.check(work.values[measure.last % 1024], kept:value())
  print_figure("series", measure.ns)
end

function WORKS.histogram_kept()
  local loop, kept = loops.histogram()
  local measure = work.time(seconds, loop)
  work.check(measure.count, kept:value():count())
  print_figure("series", measure.ns)
end

-- Measures both ways to look a series up.
local function looked_up(kind, expected)
  for _, way in ipairs { { "call", "metric{...}" }, { "with", "metric:with(...)" } } do
    local loop, metric = loops[kind .. "_" .. way[1]]()
    local measure = work.time(seconds, loop)
    work.check(measure[expected], work.sum(metric))
    print_figure(way[2], measure.ns)
  end
end

function WORKS.count_80() looked_up("count", "total") end

function WORKS.histogram_80() looked_up("histogram", "count") end

function WORKS.threads_count_80()
  print_figure("two processes", together.processes("count", seconds))
  print_figure("two VM threads", together.threads("count", seconds))
end

function WORKS.threads_histogram_80()
  print_figure("two processes", together.processes("histogram", seconds))
  print_figure("two VM threads", together.threads("histogram", seconds))
end

-- Creates 10,000 series in each of five new metrics; the figure is the median of the five.
function WORKS.new_count()
  local resources = work.resources(NEW)
  local times = {}
  for family = 1, 5 do
    local metric = chalk.count("new_" .. family, { tags = TAGS })
    local started = work.now()
    for i = 0, NEW - 1 do
      metric:with(resources[i], work.status(i)):inc()
    end
    times[family] = (work.now() - started) / NEW * 1e9
  end
  table.sort(times)
  print_figure("metric:with(...)", times[3])
end

local function mixed(n)
  local client = chalk.new { max_series = 200000 }
  local requests = client:count("requests", { tags = TAGS })
  local temperature = client:gauge("temperature", { tags = TAGS })
  local latency = client:histogram("latency", { tags = TAGS })
  local resources = work.resources(n)
  for i = 0, n - 1 do
    local endpoint, status = resources[i], work.status(i)
    if i % 3 == 0 then
      requests:with(endpoint, status):inc(i * 7919)
    elseif i % 3 == 1 then
      temperature:with(endpoint, status):set(i * 0.37)
    else
      for k = 1, 5 do
        latency:with(endpoint, status):record(0.001 * k * (i % 50 + 1))
      end
    end
  end
  return client
end

local function text(n)
  local client = mixed(n)
  local lines = 0
  for line in client:text():gmatch "[^\n]+" do
    if line:byte() ~= 35 then lines = lines + 1 end
  end
  local ms = work.median_of(seconds, function() assert(#client:text() > n) end) * 1e3
  print(("text()\t%.9g\t%d lines"):format(ms, lines))
  local exporter = prometheus.new {}
  ms = work.median_of(seconds, function()
    local v, size = assert(view.take(client.segment)), 0
    for chunk in exporter:chunks(v, "prometheus") do
      size = size + #chunk
    end
    view.free(v)
    assert(size > n)
  end) * 1e3
  print(("in pieces, as it is served\t%.9g\t%d lines"):format(ms, lines))
end

function WORKS.text_1000() text(1000) end

function WORKS.text_100000() text(100000) end

function WORKS.memory_count()
  local metric = chalk.count("memory", { tags = TAGS })
  print_figure(
    "resident, with the VM's part",
    work.memory(COUNTS, function(resources)
      for i = 0, COUNTS - 1 do
        metric:with(resources[i], work.status(i)):inc()
      end
    end)
  )
end

local function memory_histogram(n)
  local metric = chalk.histogram("memory", { tags = TAGS })
  local recorded = work.recorded(n)
  print_figure(
    "resident, with the VM's part",
    work.memory(HISTOGRAMS, function(resources)
      for i = 0, HISTOGRAMS - 1 do
        local series = metric:with(resources[i], work.status(i))
        for k = 1, n do
          series:record(recorded[k])
        end
      end
    end)
  )
end

function WORKS.memory_histogram_1() memory_histogram(1) end

function WORKS.memory_histogram_1000() memory_histogram(1000) end

-- The memory is that of a series with one writer, one tag and one bound. It is computed from many series, because the
-- heap takes its pages in large runs.
local function accuracy(distribution)
  local list = work.distribution(distribution)
  local client = chalk.new { memory_limit = 2 ^ 32 }
  local metric = client:histogram("values", { tags = { "i" }, buckets = { 1 } })
  local first = metric:with(0)
  for i = 1, #list do
    first:record(list[i])
  end
  local sketch, few, many = first:value(), draws.thinned(list), 1024
  local before = client:info().memory
  for k = 1, many do
    local series = metric:with(k)
    for i = 1, #few do
      series:record(few[i])
    end
  end
  local bytes = (client:info().memory - before) / many
  local off = work.worst(list, function(q) return sketch:quantile(q) end)
  print(("512 buckets, the default\t%.9g\t%.0f bytes"):format(off, bytes))
end

if WORKS[name] then
  WORKS[name]()
elseif name:match "^accuracy_" then
  accuracy(name:match "^accuracy_(.+)")
end
