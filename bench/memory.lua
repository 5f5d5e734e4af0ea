-- Prints the table of docs/memory.md: the bytes that a series takes, computed from 100,000 series of each kind.
--
--     luajit bench/memory.lua

package.path = (arg[0]:match "^(.*/)" or "./") .. "?.lua;" .. package.path

local clients = require "chalk.client"
local draws = require "draws"

local SERIES, MEMORY_LIMIT = 100000, 4 * 1024 * 1024 * 1024

local lognormal = draws.list(1000, function() return 0.02 * draws.lognormal() end)

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

-- Each case: name, kind, further fields of the definition, a function that records into a series, number of series.
local CASES = {
  { "count", "count", {}, function(s) s:inc() end },
  { "gauge", "gauge", {}, function(s) s:set(1) end },
  { "gauge, `across` = `sum`", "gauge", { across = "sum" }, function(s) s:set(1) end },
  { "histogram, one value", "histogram", {}, function(s) s:record(0.02) end },
  { "histogram, 1,000 lognormal values, sigma 0.5", "histogram", {}, record_list(lognormal), 10000 },
  { "histogram, 512 buckets far apart", "histogram", {}, record_list(wide), 10000 },
}

-- Returns a client and its metric. Clients of the same name share a segment, and each has its own writer.
local function client_of(name, case, n)
  local client = clients.new(name, { max_series = 200000, memory_limit = MEMORY_LIMIT })
  local spec = { tags = { "endpoint", "status" }, max_series = n + 1 }
  for field, value in pairs(case[3]) do
    spec[field] = value
  end
  return client, client[case[2]](client, "work", spec)
end

-- Tag values are made beforehand, because they are strings of the application and not of a series.
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

-- Returns the bytes that the cursor of an exporter takes for a series: those that the commit of a first flush
-- allocates.
local function baselines(client, n)
  assert(client:try_init {
    driver = "manual",
    exporters = { { export = function() return true end } },
    max_series = 200000,
    memory_limit = MEMORY_LIMIT,
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
  assert(first:info().folded == 0, "max_series was reached: the figures would be too low")
  local further = (both - alone) / n
  print(("| %s | %.0f | %.0f | %.0f | %.0f |"):format(case[1], (alone - before) / n, further, cursor, vm / n))
end
