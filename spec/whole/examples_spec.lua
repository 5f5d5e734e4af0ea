--- A user who starts from an example has a program that runs and shows what its comment promises.

local examples = require "support.examples"
local cjson = require "cjson"
local files = require "support.files"
local web = require "demo.web"

local function has(output, text)
  assert.is_truthy(output:find(text, 1, true), ("%q is not in:\n%s"):format(text, output))
end

describe("the examples", function()
  after_each(files.clean)

  it("tour.lua shows records, mistakes, quantiles and a scrape", function()
    local address = "127.0.0.1:" .. web.free_port()
    local code, output = examples.run("tour.lua", { address })
    assert.equal(0, code)
    has(output, "time() returns what the function does: the answer")
    has(output, 'http.request_count: tag "status" is one of success, failure, not "sucess"')
    has(output, "a whole number from 0 to 2^53, not -1")
    has(output, "request_count: 5\n")
    local p50, p99, error_bound = output:match "1001 values, p50 (%S+) s, p99 (%S+) s, each within (%S+) %%"
    local tolerance = tonumber(error_bound) / 100 + 0.002
    assert.near(0.5, tonumber(p50), 0.5 * tolerance)
    assert.near(0.99, tonumber(p99), 0.99 * tolerance)
    has(output, "http://" .. address .. "/metrics:")
    has(output, "# TYPE myapp_http_request_latency_seconds histogram\n")
    has(output, 'myapp_http_request_count_total{endpoint="/api",status="failure"} 5\n')
    has(output, 'myapp_http_request_latency_seconds_bucket{endpoint="/api",le="0.1"} 101\n')
  end)

  it("custom.lua writes differences as JSON lines, the last ones when the program ends", function()
    local path = files.name()
    local code, output = examples.run("custom.lua", { path })
    assert.equal(0, code)
    local found = {}
    for line in files.read(path):gmatch "[^\n]+" do
      has(output, line)
      local entry = cjson.decode(line)
      local name = entry.name .. (entry.tags and "/" .. entry.tags.queue or "")
      found[name] = found[name] or {}
      table.insert(found[name], entry)
    end
    assert.equal(2, #found["jobs.done/mail"])
    assert.equal(3, found["jobs.done/mail"][1].delta)
    assert.equal(2, found["jobs.done/mail"][2].delta)
    assert.equal(5, found["jobs.done/mail"][2].total)
    assert.equal(1, #found["jobs.done/video"])
    assert.equal(17, found["jobs.waiting"][1].value)
    local took = found["jobs.took"][1]
    assert.equal(100, took.count)
    assert.near(5.05, took.sum, 1e-9)
    assert.near(0.05, took.p50, 0.05 * 0.002)
  end)

  it("run-time.lua shows the metrics that a library defines", function()
    local code, output = examples.run "run-time.lua"
    assert.equal(0, code)
    has(output, 'cache_lookup_total{result="miss"} 5\n')
    has(output, 'cache_lookup_total{result="hit"} 2\n')
    has(output, 'cache_lookup_duration_seconds_count{result="miss"} 5\n')
    has(output, "cache_entries 3\n")
    has(output, "cache_evictions_total 2\n")
  end)

  for _, signal in ipairs { "sigterm", "sigint" } do
    it("service.lua answers, counts unknown paths as one endpoint, and ends cleanly on " .. signal, function()
      local service = examples.child.service(examples.folder)
      finally(function() service:stop() end)
      assert.equal("fast\n", examples.get(service.port, "/fast").body)
      assert.equal(404, examples.get(service.port, "/this").status)
      assert.equal(404, examples.get(service.port, "/that").status)
      local scrape = examples.get(service.metrics_port, "/metrics").body
      has(scrape, 'http_request_count_total{endpoint="/fast",status="200"} 1\n')
      has(scrape, 'http_request_count_total{endpoint="other",status="404"} 2\n')
      service.handle:kill(signal)
      assert.equal(0, service:finish(10))
      assert.equal(0, service.signal)
    end)
  end

  it("shop.lua takes orders, returns its queries, and ends cleanly", function()
    local port, metrics_port = web.free_port(), web.free_port()
    local shop = examples.child.spawn(require("luv").exepath(), {
      examples.folder .. "shop.lua",
      "1.4.0",
      tostring(port),
      tostring(metrics_port),
      "--stdin",
    })
    finally(function() shop:stop() end)
    assert(examples.child.wait(function() return shop.output:find "listening on" end, 10))
    assert.equal("customer 1 bought 101 and 102\n", examples.get(port, "/order/1").body)
    local declined = examples.get(port, "/order/20")
    assert.same({ 500, "the card was declined\n" }, { declined.status, declined.body })
    assert.equal(4, #cjson.decode(examples.get(port, "/queries").body))
    local scrape = examples.get(metrics_port, "/metrics").body
    has(scrape, 'function="charge",module="billing",service_name="shop",result="error",caller_function="place"')
    has(scrape, 'build_info{version="1.4.0"')
    shop.handle:kill "sigterm"
    assert.equal(0, shop:finish(10))
  end)
end)
