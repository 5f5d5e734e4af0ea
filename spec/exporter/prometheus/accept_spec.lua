--- The choice of a format by the Accept header. If this file fails, a scraper gets a format that it did not ask for; or
--- one that asks for no known format does not get text 0.0.4, which every scraper reads.

local accept = require "chalk.exporter.prometheus.accept"

describe("the format of a scrape", function()
  it("is the one that the Accept header prefers", function()
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
      assert.equal(case[2], accept.format_of(case[1]), case[1])
    end
  end)
end)
