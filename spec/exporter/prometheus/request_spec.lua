--- The handler of scrapes. If this file fails, metrics are served at a path that was not configured, or a scraper gets
--- no status that says why there are no metrics.

package.path = "spec/?.lua;" .. package.path

local bed_of = require "support.segment_bed"
local prometheus = require "chalk.exporter.prometheus"

describe("a scrape", function()
  local bed

  before_each(function()
    bed = bed_of.open { metrics = { { name = "uptime", type = "gauge" } } }
    bed:set(1, "uptime")
  end)

  after_each(function() bed:close() end)

  local function respond(path, accept)
    local handler = prometheus.new({ path = "/stats" }):handler(function() return bed:view() end)
    return handler { method = "GET", path = path, query = "", headers = { accept = accept } }
  end

  it("is answered at the configured path only, in the requested format", function()
    local response = respond("/stats", "application/openmetrics-text")
    assert.equal(200, response.status)
    assert.equal("application/openmetrics-text; version=1.0.0; charset=utf-8", response.headers["Content-Type"])
    assert.is_true(response.gzip)
    assert.equal("# TYPE uptime gauge\nuptime 1\n# EOF\n", response.body())
    assert.is_nil(response.body())
    assert.equal("text/plain; version=0.0.4; charset=utf-8", respond("/stats").headers["Content-Type"])
    assert.equal(404, respond("/metrics").status)
  end)

  it("is answered with 503 while no view can be taken", function()
    local handler = prometheus.new():handler(function() return nil, "out of memory" end)
    local response = handler { method = "GET", path = "/metrics", headers = {} }
    assert.equal(503, response.status)
    assert.equal("out of memory\n", response.body)
  end)
end)
