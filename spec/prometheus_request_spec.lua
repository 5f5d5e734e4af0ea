package.path = "spec/?.lua;" .. package.path

local accepted = require "chalk.exporter.prometheus.accept"
local bed_of = require "segment_bed"
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

  it("serves its path in the format that was asked for, and nothing else", function()
    local response = respond("/stats", "application/openmetrics-text")
    assert.equal(200, response.status)
    assert.equal("application/openmetrics-text; version=1.0.0; charset=utf-8", response.headers["Content-Type"])
    assert.is_true(response.gzip)
    assert.equal("# TYPE uptime gauge\nuptime 1\n# EOF\n", response.body())
    assert.is_nil(response.body())
    assert.equal("text/plain; version=0.0.4; charset=utf-8", respond("/stats").headers["Content-Type"])
    assert.equal(404, respond("/metrics").status)
  end)

  it("answers 503 while there is nothing to read", function()
    local handler = prometheus.new():handler(function() return nil, "out of memory" end)
    local response = handler { method = "GET", path = "/metrics", headers = {} }
    assert.equal(503, response.status)
    assert.equal("out of memory\n", response.body)
  end)

  it("chooses by the Accept header", function()
    local om = "application/openmetrics-text"
    local cases = {
      { nil, "prometheus" },
      { "", "prometheus" },
      { "*/*", "prometheus" },
      { "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "prometheus" },
      { om, "openmetrics" },
      { om:upper() .. "; Version=1.0.0", "openmetrics" },
      { om .. ';version="0.0.1"', "openmetrics" },
      { om .. ";version=2.0.0", "prometheus" },
      { om .. ";q=0", "prometheus" },
      { om .. ";q=nonsense", "prometheus" },
      { om .. ";q=0.4,text/plain;q=0.5", "prometheus" },
      { om .. ";q=0.5,text/plain;q=0.4,*/*", "openmetrics" },
      { "text/plain," .. om, "prometheus" },
      { om .. ",text/plain", "openmetrics" },
      { "text/plain;version=0.0.4;q=0.3," .. om .. " ; version=1.0.0 ; q=0.5 , */*;q=0.1", "openmetrics" },
      {
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
          .. om
          .. ";version=1.0.0;escaping=allow-utf-8;q=0.5,"
          .. om
          .. ";version=0.0.1;q=0.4,"
          .. "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
        "openmetrics",
      },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], accepted.format_of(case[1]), case[1])
    end
  end)
end)
