-- Fills a worker's cells of many series: what there is to scrape.

local M = {}

local OUTCOMES = { "hit", "miss", "stale", "error" }

--- Records `counts` series of stock.reads and `histograms` of stock.sizes, then says so in stock.full.
function M.fill(metrics, counts, histograms)
  local stock = metrics.stock
  for i = 1, counts do
    stock.reads:with("/api/v1/resource/" .. i, OUTCOMES[i % 4 + 1]):inc(i * 7919)
  end
  for i = 1, histograms do
    local sizes = stock.sizes:with("/api/v1/resource/" .. i)
    for k = 1, 5 do
      sizes:record(0.001 * k * (i % 50 + 1))
    end
  end
  stock.full:inc()
end

return M
