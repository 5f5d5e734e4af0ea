-- Prints the table of docs/accuracy.md: the errors of the quantiles of a million recorded values, and the memory that
-- the sketch takes.
--
--     luajit bench/accuracy.lua
--
-- Values are recorded into a histogram series and read back with value(), as an application would do.

package.path = (arg[0]:match "^(.*/)" or "./") .. "?.lua;" .. package.path

local chalk = require "chalk"
local draws = require "draws"

local N, SERIES = 1000000, 1024
local QUANTILES = { 0.5, 0.9, 0.99, 0.999 }
local LIMITS = { 200, 512, 2048 }

local DISTRIBUTIONS = {
  { "normal, mean 100, sd 10", function() return 100 + 10 * draws.normal() end },
  { "lognormal, sigma 0.5", draws.lognormal },
  { "exponential, mean 1", draws.exponential },
  { "Pareto, alpha 1.5", function() return draws.uniform() ^ (-1 / 1.5) end },
  { "bimodal, 1 ms and 10 s", draws.bimodal },
  { "constant", function() return 0.042 end },
}

local function series_of(limit, n)
  local client = chalk.new { max_buckets = limit }
  local metric = client:histogram("values", { tags = { "i" }, buckets = { 1 } })
  return client, function(i) return metric:with(i % n) end
end

local function record_all(values, limit)
  local _, series = series_of(limit, 1)
  local one = series(0)
  for i = 1, N do
    one:record(values[i])
  end
  return one:value()
end

-- Returns the bytes of one series. They are computed from many series, because the heap takes its pages in large runs.
local function memory(values, limit)
  local client, series = series_of(limit, SERIES)
  series(0):record(values[1])
  local before = client:info().memory
  for i = 0, SERIES - 1 do
    local one = series(i)
    for k = 1, #values do
      one:record(values[k])
    end
  end
  return (client:info().memory - before) / SERIES
end

print "| values | buckets | off at p50 | p90 | p99 | p99.9 | `:error()` | memory |"
print "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
for _, distribution in ipairs(DISTRIBUTIONS) do
  local values = draws.list(N, distribution[2])
  local few = draws.thinned(values)
  local sorted = {}
  for i = 1, N do
    sorted[i] = values[i]
  end
  table.sort(sorted)
  for _, limit in ipairs(LIMITS) do
    local sketch = record_all(values, limit)
    local cells = {}
    for i, q in ipairs(QUANTILES) do
      local exact = sorted[math.floor(q * (N - 1)) + 1]
      local off = math.abs(sketch:quantile(q) - exact) / exact
      assert(off <= sketch:error(), distribution[1] .. ": the quantile is off by more than error() says")
      cells[i] = ("%.3f %%"):format(off * 100)
    end
    local bytes = ("%.1f KiB"):format(memory(few, limit) / 1024)
    print(
      ("| %s | %d | %s | %.3f %% | %s |"):format(
        distribution[1],
        limit,
        table.concat(cells, " | "),
        sketch:error() * 100,
        bytes
      )
    )
    collectgarbage()
  end
end
