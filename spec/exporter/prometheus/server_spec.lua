--- A real Prometheus scrapes the example service. If this file fails, its queries return other values than the service
--- recorded.

local uv = require "luv"
local cjson = require "cjson"
local chalk = require "chalk"
local collect = require "support.collect"
local examples = require "support.examples"
local files = require "support.files"
local programs = require "support.programs"
local servers = require "support.prometheus"
local web = require "demo.web"

local child, get = examples.child, examples.get

-- Multiples of 20. For these numbers of values, Prometheus and the sketch use the same rank for p50 and p90.
local REQUESTS = { ["/fast"] = 2000, ["/search"] = 200, ["/report"] = 60, ["/flaky"] = 400, ["/nowhere"] = 40 }
local DEADLINE = 60
-- The Accept header that Prometheus 2.42 sends.
local ASKS = "Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
  .. "text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\nAccept-Encoding: gzip\r\n"

-- Returns the bounds of the bucket that contains a value, or of two buckets if the error of the value leaves open
-- which.
local function bucket_of(value, bounds, relative_error)
  local low, high, lower, upper = value * (1 - relative_error), value * (1 + relative_error), 0, math.huge
  for _, bound in ipairs(bounds) do
    if bound < low then lower = bound end
    if bound >= high then upper = math.min(upper, bound) end
  end
  return lower, upper
end

local function latency_bounds()
  return cjson.decode(files.read "examples/metrics.json").namespaces.http.metrics[2].buckets
end

describe("a real Prometheus", function()
  local service, prometheus
  local counts = {} -- "endpoint status" -> what the client made

  setup(function()
    if not servers.find() then return end
    service = child.service(examples.folder)
    prometheus = servers.start { service = service.metrics_port }
    assert.same({ [""] = 1 }, prometheus:settle({ [""] = 1 }, "up"))
    for name, requests in pairs(REQUESTS) do
      local load = examples.request(service.port, name, requests)
      for status, n in pairs(load.statuses) do
        counts[(name == "/nowhere" and "other" or name) .. " " .. status] = n
      end
    end
  end)

  teardown(function()
    if prometheus then prometheus:stop() end
    if service then service:stop() end
  end)

  local needs = programs.needing(it, "prometheus")

  needs("has the counts that the client made, and saw no counter reset", function()
    assert.same(counts, prometheus:settle(counts, "http_request_count_total", "endpoint", "status"))
    local by_endpoint = {}
    for name, n in pairs(REQUESTS) do
      by_endpoint[name == "/nowhere" and "other" or name] = n
    end
    assert.same(by_endpoint, prometheus:settle(by_endpoint, "http_request_latency_seconds_count", "endpoint"))
    local infinite = 'http_request_latency_seconds_bucket{le="+Inf"}'
    assert.same(by_endpoint, prometheus:settle(by_endpoint, infinite, "endpoint"))
    local resets = 'sum(resets({__name__=~"http_.*_(total|count|bucket)"}[5m]))'
    assert.same({ [""] = 0 }, prometheus:values(resets))
  end)

  for name, q in pairs { p50 = 0.5, p90 = 0.9 } do
    needs(("has a %s in the bucket of the sketch's"):format(name), function()
      local settled = prometheus:settle(counts, "http_request_count_total", "endpoint", "status")
      assert.same(counts, settled)
      local quantiles = cjson.decode(get(service.port, "/quantiles").body)
      local expression = ("histogram_quantile(%g, http_request_latency_seconds_bucket)"):format(q)
      local found = prometheus:values(expression, nil, "endpoint")
      for endpoint, recorded in pairs(quantiles) do
        local lower, upper = bucket_of(recorded[name], latency_bounds(), recorded.error)
        local value = found[endpoint]
        assert.is_true(
          value >= lower and value <= upper,
          ("%s: %g is not within %g and %g"):format(endpoint, value, lower, upper)
        )
      end
    end)
  end

  -- Only in OpenMetrics are there units, and families of counters without _total.
  needs("is served OpenMetrics, with descriptions and units, compressed", function()
    local metadata = prometheus:api "metadata"
    assert.same({ { type = "counter", help = "Requests answered", unit = "" } }, metadata.http_request_count)
    assert.equal("histogram", metadata.http_request_latency_seconds[1].type)
    assert.equal("seconds", metadata.http_request_latency_seconds[1].unit)
    local head = get(service.metrics_port, "/metrics", ASKS).head:lower()
    assert.is_truthy(head:find("\r\ncontent-encoding: gzip\r\n", 1, true), head)
    assert.is_truthy(head:find("\r\ncontent-type: application/openmetrics-text; version=1.0.0", 1, true), head)
  end)

  needs("comes with a promtool that finds nothing to complain about", function()
    local promtool = assert(programs.need "promtool")
    local path = files.make(get(service.metrics_port, "/metrics").body)
    finally(files.clean)
    local pipe = io.popen(("env -u LD_PRELOAD %s check metrics <%s 2>&1; echo exit:$?"):format(promtool, path))
    assert.equal("exit:0\n", pipe:read "*a")
    pipe:close()
  end)
end)

local COUNTERS = { _total = true, _count = true, _bucket = true, _sum = true }

describe("counters", function()
  local path, client, samples, scrapes

  -- Checks that no counter of a scrape is below that of the scrape before.
  local function check(scrape)
    local now = collect.samples(scrape)
    for name, before in pairs(samples) do
      if COUNTERS[name:match("^[%w_]+"):match "_%a+$"] then
        assert(now[name], name .. " is gone")
        assert(now[name] >= before, ("%s went from %g to %g"):format(name, before, now[name]))
      end
    end
    samples, scrapes = now, scrapes + 1
  end

  -- Starts a scrape if none is in progress. The next call raises what is wrong with it.
  local function scraper(port)
    local asking, problem = false, nil
    return function()
      if problem then error(problem, 0) end
      if asking then return end
      asking = true
      examples.client.get(port, "/metrics", function(response, message)
        asking = false
        local ok, trouble = pcall(check, response and response.body)
        if not ok then problem = message or trouble end
      end)
    end
  end

  -- Reads the file of the custom exporter. Returns the sum of differences and the last total, by endpoint and status.
  local function written()
    local deltas, totals, values, batches = {}, {}, 0, {}
    for line in files.read(path):gmatch "[^\n]+" do
      local entry = cjson.decode(line)
      if entry.name == "http.request_count" then
        local name = entry.tags.endpoint .. " " .. entry.tags.status
        deltas[name] = (deltas[name] or 0) + entry.delta
        assert.is_true(entry.delta > 0 and entry.total >= (totals[name] or 0))
        totals[name] = entry.total
        batches[name] = (batches[name] or 0) + 1
      elseif entry.name == "http.request_latency" then
        values = values + entry.count
      end
    end
    return deltas, totals, values, batches
  end

  before_each(function()
    samples, scrapes, path = {}, 0, files.name()
  end)

  after_each(function()
    client:shutdown()
    files.clean()
  end)

  it("never go backwards while another exporter takes differences, and no difference is lost", function()
    local port = web.free_port()
    client = chalk.new {
      flush_interval = 0.05,
      exporters = {
        chalk.exporter.prometheus { listen = "127.0.0.1:" .. port },
        chalk.exporter.custom("jsonlines", { path = path }),
      },
    }
    local metrics = client:load "examples/metrics.json"
    local scrape, made, n = scraper(port), {}, 0
    local since = uv.hrtime()
    repeat
      for i = 1, 500 do
        n = n + 1
        local endpoint, status = "/" .. n % 7, n % 5 == 0 and 500 or 200
        metrics.http.request_count({ endpoint = endpoint, status = status }):inc(i % 3)
        metrics.http.request_latency({ endpoint = endpoint }):record(i / 1000)
        made[endpoint .. " " .. status] = (made[endpoint .. " " .. status] or 0) + i % 3
      end
      uv.run "nowait"
      scrape()
    until scrapes >= 50 and uv.hrtime() - since > 1e9 or uv.hrtime() - since > DEADLINE * 1e9

    assert.is_true(scrapes >= 50)
    check(get(port, "/metrics").body)
    for name, total in pairs(made) do
      local endpoint, status = name:match "(%S+) (%S+)"
      assert.equal(total, samples[('http_request_count_total{endpoint="%s",status="%s"}'):format(endpoint, status)])
    end
    assert(client:shutdown())
    local deltas, totals, values, batches = written()
    assert.same(made, deltas)
    assert.same(made, totals)
    assert.equal(n, values)
    for name in pairs(made) do
      assert.is_true(batches[name] > 5, "there were few flushes")
    end
  end)
end)
