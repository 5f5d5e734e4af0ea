-- Fills a worker's cells of many series: what there is to scrape. A metric has at most 10,000 series, as many as fit
-- are in the first one.

local M = {}

local MOST = 10000
local OUTCOMES = { "hit", "miss", "stale", "error" }

-- Calls f with a metric and the number of a series in it, `n` times in all.
local function each(n, kind, tags, f)
  local metric
  for i = 0, n - 1 do
    if i % MOST == 0 then
      metric = require("chalk")[kind](("%ss_%d"):format(kind, i / MOST), { namespace = "stock", tags = tags })
    end
    f(metric, i % MOST)
  end
end

--- Records series of counts and of histograms, then says so in stock.full.
function M.fill(metrics, counts, histograms)
  each(
    counts,
    "count",
    { "endpoint", { tag = "outcome", values = OUTCOMES } },
    function(metric, i) metric:with("/api/v1/resource/" .. i, OUTCOMES[i % 4 + 1]):inc(i * 7919) end
  )
  each(histograms, "histogram", { "endpoint" }, function(metric, i)
    local series = metric:with("/api/v1/resource/" .. i)
    for k = 1, 5 do
      series:record(0.001 * k * (i % 50 + 1))
    end
  end)
  metrics.stock.full:inc()
end

return M
