-- The table of docs/memory.md: what a series takes, worked out from 100,000 of each kind.
--
--     luajit bench/memory.lua

package.path = (arg[0]:match "^(.*/)" or "./") .. "?.lua;" .. package.path

local clients = require "chalk.client"
local random = require "random"

local SERIES, ROOM = 100000, 4 * 1024 * 1024 * 1024

local lognormal = {}
for i = 1, 1000 do
  lognormal[i] = 0.02 * math.exp(0.5 * random.normal())
end

local wide = {}
for i = 1, 512 do
  wide[i] = 1e-6 * 2 ^ (i / 16)
end

local function record_list(values)
  return function(series)
    for i = 1, #values do
      series:record(values[i])
    end
  end
end

-- name, kind, more of the definition, what is recorded into each series, series
local CASES = {
  { "count", "count", {}, function(s) s:inc() end },
  { "gauge", "gauge", {}, function(s) s:set(1) end },
  { "gauge, `across` = `sum`", "gauge", { across = "sum" }, function(s) s:set(1) end },
  { "histogram, one value", "histogram", {}, function(s) s:record(0.02) end },
  { "histogram, 1,000 lognormal values, sigma 0.5", "histogram", {}, record_list(lognormal), 10000 },
  { "histogram, 512 buckets far apart", "histogram", {}, record_list(wide), 10000 },
}

-- Clients of one name share a segment and have a writer each.
local function client_of(name, case, n)
  local client = clients.new(name, { max_series = 200000, memory_limit = ROOM })
  local spec = { tags = { "endpoint", "status" }, max_series = n + 1 }
  for field, value in pairs(case[3]) do
    spec[field] = value
  end
  return client, client[case[2]](client, "work", spec)
end

-- Made beforehand: tag values are strings of the application.
local endpoints = {}
for i = 1, SERIES do
  endpoints[i] = "/api/v1/resource/" .. i
end

local function fill(case, metric, n)
  for i = 1, n do
    case[4](metric:with(endpoints[i], i % 2 == 0 and "success" or "failure"))
  end
end

local function vm_size()
  collectgarbage()
  collectgarbage()
  return collectgarbage "count" * 1024
end

-- What a flush's commit takes: an exporter that sends differences, by hand.
local function baselines(client, n)
  assert(client:try_init {
    driver = "manual",
    exporters = { { export = function() return true end } },
    max_series = 200000,
    memory_limit = ROOM,
  })
  local before = client:info().memory
  assert(client:flush(60))
  return (client:info().memory - before) / n
end

print "| bytes a series | first writer | each further writer | a cursor | the VM's own |"
print "| --- | ---: | ---: | ---: | ---: |"
for i, case in ipairs(CASES) do
  local name, n = "memory " .. i, case[5] or SERIES
  local first, metric = client_of(name, case, n)
  local vm, before = vm_size(), first:info().memory
  fill(case, metric, n)
  local alone = first:info().memory
  vm = vm_size() - vm
  local second, same = client_of(name, case, n)
  fill(case, same, n)
  local both = second:info().memory
  local cursor = baselines(first, n)
  assert(first:info().folded == 0, "a limit was reached")
  local further = (both - alone) / n
  print(("| %s | %.0f | %.0f | %.0f | %.0f |"):format(case[1], (alone - before) / n, further, cursor, vm / n))
end
