--- A dashboard finds a metric under the documented name, and no two metrics have one name.

local naming = require "chalk.define.naming"

describe("the name of a metric in Prometheus", function()
  it("is its namespace and name joined, below the exporter's own namespace", function()
    assert.equal("http_auth_login_latency", naming.family({ "http", "auth" }, "login_latency", "histogram"))
    assert.equal("myapp_http_up", naming.family({ "http" }, "up", "gauge", nil, "myapp"))
    assert.equal("up", naming.family({}, "up", "gauge", nil, ""))
  end)

  it("carries _total once on a count, and only there", function()
    assert.equal("foo", naming.family({}, "foo_total", "count"))
    assert.same({ "foo_total" }, naming.samples("foo", "count"))
    assert.equal("foo_total", naming.family({}, "foo_total", "gauge"))
    assert.equal("_total", naming.family({}, "_total", "count"))
  end)

  it("ends in its unit, as OpenMetrics demands, without repeating it", function()
    assert.equal("x_seconds", naming.family({}, "x", "histogram", "seconds"))
    assert.equal("x_seconds", naming.family({}, "x_seconds", "histogram", "seconds"))
    assert.equal("x_seconds", naming.family({}, "x_seconds_total", "count", "seconds"))
    assert.equal("http_seconds", naming.family({ "http" }, "seconds", "gauge", "seconds"))
    assert.equal("milliseconds_seconds", naming.family({}, "milliseconds", "gauge", "seconds"))
  end)

  it("gets its unit whether or not the exporter has a namespace", function()
    assert.equal("seconds_seconds", naming.family({}, "seconds", "gauge", "seconds"))
    assert.equal("app_seconds_seconds", naming.family({}, "seconds", "gauge", "seconds", "app"))
  end)

  it("consists of characters that Prometheus accepts, whatever the exporter's namespace", function()
    assert.equal("my_app_up", naming.family({}, "up", "gauge", nil, "my-app"))
    assert.equal("_9lives_up", naming.family({}, "up", "gauge", nil, "9lives"))
    assert.equal("a:b_up", naming.family({}, "up", "gauge", nil, "a:b"))
    assert.equal("___up", naming.family({}, "up", "gauge", nil, "é"))
  end)

  it("has the sample names of its type", function()
    assert.same({ "up" }, naming.samples("up", "gauge"))
    assert.same({ "t_bucket", "t_sum", "t_count" }, naming.samples("t", "histogram"))
  end)

  it("reserves the names that an OpenMetrics parser would refuse beside it", function()
    assert.same({ "a", "a_total", "a_created" }, naming.held("a", "count"))
    assert.same({ "a", "a_bucket", "a_sum", "a_count", "a_created" }, naming.held("a", "histogram"))
    assert.same({ "a" }, naming.held("a", "gauge"))
  end)
end)

describe("a label name", function()
  it("consists of characters that Prometheus accepts", function()
    assert.equal("http_status", naming.label "http.status")
    assert.equal("_2nd", naming.label "2nd")
    assert.equal("a_b", naming.label "a:b")
    assert.equal("_", naming.label "")
  end)
end)

describe("the flat name of a metric", function()
  it("is in camel case", function()
    assert.equal("HttpAuthLoginLatency", naming.flat({ "http", "auth" }, "login_latency"))
    assert.equal("Uptime", naming.flat({}, "uptime"))
    assert.equal("Http2Requests", naming.flat({ "http2" }, "_requests_"))
  end)

  it("is never empty", function() assert.equal("__", naming.flat({}, "__")) end)
end)
