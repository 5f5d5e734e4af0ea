--- The StatsD exporter. If this file fails, a server that parses lines as strictly as the protocol's documentation
--- reads other totals than were recorded, in one of the modes and dialects.

package.path = "spec/?.lua;" .. package.path

local beds = require "support.statsd_bed"

describe("the statsd exporter", function()
  local scene = beds.scene(before_each, after_each)

  describe("sends", function()
    it("the changes of counts and the values of gauges, with tags in declared order", function()
      scene:start { namespace = "app", global_tags = { env = "prod", zone = "a", empty = "" } }
      local hits = scene.client:count("hits", { namespace = { "http" }, tags = { "uri", "zone" } })
      local open = scene.client:gauge "open"
      hits:with("/a", "b"):inc(3)
      open:set(0.1)
      scene:flush()
      assert.same(
        { "app.http.hits:3|c|#env:prod,uri:/a,zone:b", "app.open:0.1|g|#env:prod,zone:a" },
        scene.bed:text()
      )
      hits:with("/a", "b"):inc(2 ^ 40)
      hits:with("/b", "b"):inc()
      scene:flush()
      assert.same({
        "app.http.hits:1099511627776|c|#env:prod,uri:/a,zone:b",
        "app.http.hits:1|c|#env:prod,uri:/b,zone:b",
        "app.open:0.1|g|#env:prod,zone:a",
      }, scene.bed:text())
      scene:flush()
      assert.same({ "app.open:0.1|g|#env:prod,zone:a" }, scene.bed:text())
    end)

    it("no tags of a series without tags, and no absent tags", function()
      scene:start()
      scene.client:count("bare"):inc()
      scene.client:count("some", { tags = { "a", { tag = "b", optional = true }, "c" } })({ a = "1", c = "3" }):inc()
      scene:flush()
      assert.same({ "bare:1|c", "some:1|c|#a:1,c:3" }, scene.bed:text())
    end)

    it("no gauge that is not a number", function()
      scene:start()
      local gauge = scene.client:gauge "odd"
      for _, value in ipairs { 0 / 0, math.huge, -math.huge } do
        gauge:set(value)
        scene:flush()
        assert.same({}, scene.bed:text())
      end
      gauge:set(1)
      scene:flush()
      assert.same({ "odd:1|g" }, scene.bed:text())
    end)

    it("gauges only when they have changed if configured so, and again after a failure", function()
      scene:start { gauges = "changed" }
      local one, other = scene.client:gauge "one", scene.client:gauge "other"
      one:set(1)
      other:set(2)
      scene:flush()
      assert.same({ "one:1|g", "other:2|g" }, scene.bed:text())
      one:set(1)
      other:set(-3)
      scene:flush()
      assert.same({ "other:-3|g" }, scene.bed:text())
      scene.bed:die()
      one:set(7)
      scene.bed:flush()
      scene.bed:revive()
      while #scene.bed:text() == 0 do
        scene.bed:flush()
      end
      assert.same({ "one:7|g", "other:-3|g" }, scene.bed:text())
    end)

    it("a negative gauge after a zero in the same packet, if a sign means a change", function()
      scene:start { relative_gauges = true, max_packet = 64 }
      local gauge = scene.client:gauge("temperature", { tags = { "place" } })
      for i = 1, 20 do
        gauge:with("p" .. i):set(i % 2 == 0 and -i or i)
      end
      scene:flush()
      local seen = 0
      for _, packet in ipairs(scene.bed.packets) do
        for place, value in packet:gmatch "temperature:%-(%d+)|g|#place:p(%d+)\n" do
          seen = seen + 1
          assert.equal(value, place)
          assert.truthy(packet:find(("temperature:0|g|#place:p%s\ntemperature:-%s|"):format(place, value), 1, true))
        end
      end
      assert.equal(10, seen)
    end)

    it("the time with counts and gauges, and nothing else", function()
      local before = os.time()
      scene:start { timestamps = true }
      scene.client:count("c"):inc()
      scene.client:gauge("g"):set(1)
      scene.client:histogram("h"):record(1)
      scene:flush()
      local times = 0
      for _, line in ipairs(scene.bed:lines()) do
        assert.equal(line.type ~= "d", line.time ~= nil)
        if line.time then assert.is_true(line.time >= before and line.time <= os.time()) end
        times = times + (line.time and 1 or 0)
      end
      assert.equal(2, times)
    end)

    it("the fields of its origin on every line", function()
      scene:start { container_id = "ci-0a1b", cardinality = "low", timestamps = true, global_tags = { a = "b" } }
      scene.client:count("c"):inc()
      scene.client:histogram("h"):record(0.5)
      scene:flush()
      for _, line in ipairs(scene.bed:lines()) do
        assert.same({ "ci-0a1b", "low", { "a:b" } }, { line.container, line.cardinality, line.tags })
      end
    end)
  end)

  describe("sends histograms as", function()
    local function record(metric, n, factor)
      for i = 1, n do
        metric:record(i * (factor or 1) / n)
      end
    end

    local function error_of(metric) return metric:value():error() end

    it("gauges of percentiles of the values since the last flush", function()
      scene:start { histograms = "percentiles", quantiles = { 0, 0.5, 0.999, 1 } }
      local metric = scene.client:histogram "lat"
      metric:record(1000)
      scene:flush()
      record(metric, 1000)
      scene:flush()
      local gauges, bound = scene.bed.agent.gauges, error_of(metric) + 1e-9
      assert.equal(1000, gauges["lat.count"])
      local expected = { avg = 0.5005, min = 0.001, max = 1, p0 = 0.001, p50 = 0.5, p99_9 = 0.999, p100 = 1 }
      for name, value in pairs(expected) do
        assert.near(value, gauges["lat." .. name], 2 * bound * value, name)
      end
      scene:flush()
      assert.same({}, scene.bed:text())
    end)

    for mode, kind in pairs { distribution = "d", histogram = "h" } do
      it(mode .. ", whose count is exact and whose quantiles agree within the errors", function()
        scene:start { histograms = mode }
        local metric = scene.client:histogram("lat", { tags = { "a" } }):with "x"
        record(metric, 20000, 3)
        metric:record(0)
        metric:record(-2)
        scene:flush()
        for _, line in ipairs(scene.bed:lines()) do
          assert.equal(kind, line.type)
        end
        local id, sketch = "lat{a:x}", metric:value()
        assert.equal(20002, scene.bed.agent:count(id))
        for _, q in ipairs { 0.0001, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1 } do
          local wanted = sketch:quantile(q)
          assert.near(wanted, scene.bed.agent:quantile(id, q), math.abs(wanted) * (sketch:error() * 2 + 1 / 128), q)
        end
        record(metric, 77)
        scene:flush()
        assert.equal(20079, scene.bed.agent:count(id))
      end)
    end

    it("timings in milliseconds, from the unit of the metric", function()
      scene:start { histograms = "timing" }
      local units = { seconds = 1000, milliseconds = 1, microseconds = 0.001, bytes = 1 }
      for unit in pairs(units) do
        scene.client:histogram("in_" .. unit, { unit = unit }):record(0.25)
      end
      scene:flush()
      for unit, factor in pairs(units) do
        local got = scene.bed.agent:quantile("in_" .. unit, 1)
        assert.near(0.25 * factor, got, 0.25 * factor * 0.001)
      end
      for _, line in ipairs(scene.bed:lines()) do
        assert.equal("ms", line.type)
      end
    end)

    it("percentiles and the configured aggregates of each metric", function()
      scene:start {
        histograms = "percentiles",
        quantiles = { 0.5 },
        aggregates = { "sum", "count" },
        per_metric = {
          { match = "full", name = "mean", aggregates = { "avg" } },
          { match = "full", name = "bare", aggregates = {} },
          { match = "full", name = "all", aggregates = { "max", "min", "avg", "sum", "count" } },
        },
      }
      for _, name in ipairs { "all", "bare", "mean", "usual" } do
        scene.client:histogram(name):record(2)
      end
      scene:flush()
      local names = {}
      for i, line in ipairs(scene.bed:lines()) do
        names[i] = line.name
        assert.near(line.name:find("count", 1, true) and 1 or 2, line.values[1], 0.01)
      end
      table.sort(names)
      assert.same({
        "all.avg",
        "all.count",
        "all.max",
        "all.min",
        "all.p50",
        "all.sum",
        "bare.p50",
        "mean.avg",
        "mean.p50",
        "usual.count",
        "usual.p50",
        "usual.sum",
      }, names)
    end)

    it("names and tag keys with the characters - . and /, which the protocol allows", function()
      scene:start { namespace = "my-app/web.v2", global_tags = { ["kube/cluster-name"] = "a", ["dd.team"] = "b" } }
      local hits = scene.client:count("hits", { tags = { { tag = "pod", export_name = "kube/pod-name.v1" } } })
      hits:with("c"):inc()
      scene:flush()
      assert.same({ "my_app_web.v2.hits:1|c|#dd.team:b,kube/cluster-name:a,kube/pod-name.v1:c" }, scene.bed:text())
    end)

    it("buckets: the changes of the count of each bound", function()
      scene:start({ histograms = "buckets" }, { buckets = { 1e-05, 0.5, 1 } })
      local metric = scene.client:histogram("lat", { tags = { "a" } }):with "x"
      for _, value in ipairs { 0, 0.5, 0.7, 3 } do
        metric:record(value)
      end
      scene:flush()
      assert.same({
        "lat:1|c|#a:x,le:1e-05",
        "lat:2|c|#a:x,le:0.5",
        "lat:3|c|#a:x,le:1",
        "lat:4|c|#a:x,le:Inf",
      }, scene.bed:text())
      metric:record(0.8)
      scene:flush()
      assert.same({ "lat:1|c|#a:x,le:1", "lat:1|c|#a:x,le:Inf" }, scene.bed:text())
    end)

    it("some of the buckets, which are counted even if only the exporter names them", function()
      scene:start { histograms = "buckets", buckets = { 2, 8 } }
      local metric = scene.client:histogram "lat"
      for value = 1, 10 do
        metric:record(value)
      end
      scene:flush()
      assert.same({ "lat:10|c|#le:Inf", "lat:2|c|#le:2", "lat:8|c|#le:8" }, scene.bed:text())
      scene:flush()
      local all = table.concat(scene.bed.packets, "\n")
      assert.truthy(
        all:find("chalk.flush:1|c|#le:10\n", 1, true),
        "chalk's own flushes have their own bounds: " .. all
      )
    end)

    it("a rule for the metric requires", function()
      scene:start {
        namespace = "app",
        per_metric = {
          { match = "full", name = "http.a", histograms = "percentiles", quantiles = { 0.25 } },
          { match = "prefix", name = "http.", histograms = "timing" },
          { match = "suffix", name = "_bytes", histograms = "buckets", buckets = { 100 } },
          { match = "^db%.", histograms = "histogram" },
        },
      }
      local spec = { namespace = { "http" }, unit = "seconds" }
      scene.client:histogram("a", spec):record(1)
      scene.client:histogram("b", spec):record(1)
      scene.client:histogram("c", { namespace = { "db" } }):record(1)
      scene.client:histogram("d_bytes"):record(1)
      scene.client:histogram("e"):record(0)
      scene:flush()
      local types = {}
      for _, line in ipairs(scene.bed:lines()) do
        types[line.name .. (line.tags[1] and "{" .. line.tags[1] .. "}" or "")] = line.type
      end
      assert.same({
        ["app.http.a.count"] = "g",
        ["app.http.a.avg"] = "g",
        ["app.http.a.min"] = "g",
        ["app.http.a.max"] = "g",
        ["app.http.a.p25"] = "g",
        ["app.http.b"] = "ms",
        ["app.db.c"] = "h",
        ["app.d_bytes{le:100}"] = "c",
        ["app.d_bytes{le:Inf}"] = "c",
        ["app.e"] = "d",
      }, types)
    end)

    it("one value with a rate for many equal values, at most max_weight of them", function()
      scene:start { max_weight = 1000 }
      local metric = scene.client:histogram "same"
      for _ = 1, 12345 do
        metric:record(0)
      end
      scene:flush()
      local lines = scene.bed:lines()
      table.sort(lines, function(a, b) return a.rate < b.rate end)
      assert.same({ 0.001, 12 }, { lines[1].rate, #lines[1].values })
      assert.same({ 345, 1 }, { math.floor(1 / lines[2].rate), #lines[2].values })
      assert.equal(12345, scene.bed.agent:count "same")
    end)

    it("only finite numbers", function()
      scene:start { histograms = "timing" }
      local metric = scene.client:histogram("far", { unit = "days" })
      for _, value in ipairs { 1.7e308, -1.7e308, 5e-324, -5e-324, 0 } do
        metric:record(value)
      end
      scene:flush()
      assert.equal(5, scene.bed.agent:count "far")
    end)
  end)

  describe("with the dialect statsd", function()
    it("joins tag values into names, packs no values, and sends no tags", function()
      scene:start { dialect = "statsd", histograms = "timing", namespace = "app", global_tags = { env = "prod" } }
      local hits = scene.client:count("hits", { tags = { "uri", { tag = "zone", optional = true } } })
      hits:with("/a.b|c:d\n", nil):inc(2)
      local lat = scene.client:histogram("lat", { unit = "seconds", tags = { "uri" } }):with "x"
      for i = 1, 100 do
        lat:record(i / 100)
      end
      scene.client:gauge("temp"):set(-4)
      scene:flush()
      local agent = scene.bed.agent
      assert.equal(2, agent.counts["app.hits._a_b_c_d_.none"])
      assert.equal(100, agent:count "app.lat.x")
      assert.near(500, agent:quantile("app.lat.x", 0.5), 5)
      scene.client:gauge("temp"):set(-7)
      scene:flush()
      assert.equal(-7, agent.gauges["app.temp"])
    end)

    it("sends percentiles and buckets under separate names", function()
      scene:start(
        { dialect = "statsd", per_metric = { { match = "suffix", name = "_b", histograms = "buckets" } } },
        {
          buckets = { 0.5, 10 },
        }
      )
      scene.client:histogram("a", { tags = { "t" } }):with("v"):record(-1)
      scene.client:histogram("a_b"):record(1)
      scene:flush()
      local agent = scene.bed.agent
      assert.same(
        { ["a_b.le_10"] = 1, ["a_b.le_Inf"] = 1 },
        { ["a_b.le_10"] = agent.counts["a_b.le_10"], ["a_b.le_Inf"] = agent.counts["a_b.le_Inf"] }
      )
      assert.same({ 1, -1, -1 }, { agent.gauges["a.v.count"], agent.gauges["a.v.min"], agent.gauges["a.v.max"] })
    end)
  end)

  it("sends its own counters if configured so", function()
    scene:start { telemetry = true, global_tags = { env = "x" }, container_id = "me" }
    local hits = scene.client:count "hits"
    local packets, bytes = 0, 0
    for i = 1, 5 do
      hits:inc()
      scene:flush()
      if i < 5 then packets = packets + #scene.bed.packets end
      for _, packet in ipairs(scene.bed.packets) do
        if i < 5 or packet:find("hits", 1, true) then bytes = bytes + #packet end
      end
    end
    local counts = scene.bed.agent.counts
    assert.equal(packets + 1, counts["chalk.client.packets_sent{env:x}"])
    assert.equal(bytes, counts["chalk.client.bytes_sent{env:x}"])
    assert.is_nil(counts["chalk.client.packets_dropped{env:x}"])
  end)

  it("blocks in a flush that is called in a callback of the loop, where it cannot yield", function()
    local uv = require "luv"
    scene:start({ write_timeout = 5 }, nil, "udp")
    scene.client:count("hits"):inc(4)
    local result
    local timer = uv.new_timer()
    timer:start(1, 0, function() result = { scene.client:flush(5) } end)
    uv.run "once"
    timer:close()
    uv.run "nowait"
    assert.same({ true }, result)
    scene.bed:read()
    assert.equal(4, scene.bed.agent.counts.hits)
    scene.bed:die()
    scene.client:count("hits"):inc()
    timer = uv.new_timer()
    timer:start(1, 0, function() result = { scene.client:flush(5) } end)
    uv.run "once"
    timer:close()
    uv.run "nowait"
    assert.same({ true }, result)
    assert.truthy(scene.said[1]:find("Connection refused", 1, true))
  end)
end)
