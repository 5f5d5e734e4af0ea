-- Records into many series in a worker, so that a scrape has much to read. A metric has at most 10,000 series; further
-- series go to further metrics.

local M = {}

local MOST = 10000
local OUTCOMES = { "hit", "miss", "stale", "error" }

-- Calls f n times, with a metric and the number of a series in it.
local function each(n, kind, tags, f)
  local metric
  for i = 0, n - 1 do
    if i % MOST == 0 then
      metric = require("chalk")[kind](("%ss_%d"):format(kind, i / MOST), { namespace = "stock", tags = tags })
    end
    f(metric, i % MOST)
  end
end

--- Records into series of counts and histograms, and then increments stock.full, which `wait_full` waits for.
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
