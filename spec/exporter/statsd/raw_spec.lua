--- The StatsD exporter's mode raw. If this file fails, a value that a histogram records does not arrive exactly once as
--- a separate line, or a sample does not represent the recorded values.

package.path = "spec/?.lua;" .. package.path

local beds = require "support.statsd_bed"
local children = require "support.children"
local collect = require "support.collect"
local uv = require "luv"
local wait = require "support.wait"

-- Records values that are all different: a quarter of each whole number from 1 on, with a tag that names the recorder.
local RECORDER = [[
  local who, n = ...
  local chalk = require "chalk"
  local lat = chalk.histogram("lat", { unit = "seconds", tags = { "who" } })
  for i = 1, tonumber(n) do lat:with(who):record(i / 4) end
]]

-- A program in which three VMs and three forked processes record at the same time, for one receiver.
local PROGRAM = [[
  local address, driver, recorder, n = ...
  local chalk, fork, vms = require "chalk", require "support.fork", require "support.vms"
  chalk.init {
    driver = driver,
    flush_interval = 0.1,
    exporters = {
      chalk.exporter.statsd {
        address = address, container_id = false, histograms = "raw", raw_type = "histogram", write_timeout = 10,
      },
    },
  }
  local open, pids = {}, {}
  for i = 1, 3 do
    open[i] = vms.open()
    pids[i] = fork.child(function() assert(loadstring(recorder))("process" .. i, n) end)
  end
  for i, vm in ipairs(open) do
    vm:run(recorder, "vm" .. i, n)
    assert(chalk.flush())
  end
  assert(loadstring(recorder))("main", n)
  for _, pid in ipairs(pids) do assert(fork.wait(pid) == 0) end
  assert(chalk.shutdown())
  for _, vm in ipairs(open) do vm:close() end
]]

describe("the mode raw of the statsd exporter", function()
  local scene = beds.scene(before_each, after_each)

  -- Returns options with the mode raw, and further ones.
  local function raw(options)
    local all = { histograms = "raw" }
    for name, value in pairs(options or {}) do
      all[name] = value
    end
    return all
  end

  -- Counts the values of a series. Checks that each has arrived once.
  local function count_once(id)
    local n = 0
    for value, weight in pairs(scene.bed.agent.weights[id] or {}) do
      assert.equal(1, weight, id .. " " .. value)
      n = n + 1
    end
    return n
  end

  it("sends each value as it was recorded, in order, with the tags of its series", function()
    scene:start(raw { namespace = "app", global_tags = { env = "prod" }, cardinality = "low" })
    local lat = scene.client:histogram("lat", { namespace = { "http" }, unit = "seconds", tags = { "uri" } })
    lat:with("/a"):record(0.25)
    lat:with("/b"):record(1e-9)
    lat:with("/a"):record(0.25)
    lat:with("/a"):record(-17)
    lat:with("/a"):record(0)
    lat:with("/a"):record(1 / 3)
    scene.client:histogram("bare"):record(2 ^ 50)
    scene:flush()
    local tail = "|d|#env:prod,uri:%s|card:low\n"
    local expected = ""
    for _, value in ipairs { "0.25", "/b 1e-09", "0.25", "-17", "0", "0.3333333333333333" } do
      local uri, number = value:match "^(%S+) (%S+)$"
      expected = expected .. "app.http.lat:" .. (number or value) .. tail:format(uri or "/a")
    end
    expected = expected .. "app.bare:1125899906842624|d|#env:prod|card:low\n"
    local sent = table.concat(scene.bed.packets)
    assert.truthy(sent:find(expected, 1, true), sent)
    scene:flush()
    assert.same({}, scene.bed:text())
  end)

  it("sends the configured type, and milliseconds for timings", function()
    for kind, line in pairs {
      distribution = "lat:0.25|d",
      histogram = "lat:0.25|h",
      timing = "lat:250|ms",
    } do
      scene:start(raw { raw_type = kind })
      scene.client:histogram("lat", { unit = "seconds" }):record(0.25)
      scene:flush()
      assert.same({ line }, scene.bed:text())
      scene.bed:close()
    end
    scene:start { dialect = "statsd", histograms = "raw" }
    scene.client:histogram("lat", { unit = "microseconds", tags = { "uri" } }):with("/a.b"):record(500)
    scene:flush()
    assert.same({ "lat._a_b:0.5|ms" }, scene.bed:text())
  end)

  it("sends only finite numbers", function()
    scene:start(raw { raw_type = "timing" })
    local far = scene.client:histogram("far", { unit = "days" })
    for _, value in ipairs { 1.7e308, -1.7e308, 5e-324, -0.0 } do
      far:record(value)
    end
    scene:flush()
    assert.equal(4, scene.bed.agent:count "far")
  end)

  it("does not send values that were recorded before init", function()
    local chalk = require "chalk"
    scene.bed = beds.new(raw())
    scene.client = chalk.new()
    scene.bed.client = scene.client
    local lat = scene.client:histogram "lat"
    lat:record(1)
    scene.client:init { driver = "manual", flush_interval = 3600, exporters = { scene.bed:exporter() } }
    lat:record(2)
    scene:flush()
    assert.same({ "lat:2|d" }, scene.bed:text())
  end)

  it("can be combined with other modes, and no value is sent in two of them", function()
    scene:start({
      per_metric = {
        { match = "full", name = "a", histograms = "raw" },
        { match = "prefix", name = "b", histograms = "raw", sample_rate = 0 },
        { match = "prefix", name = "c", histograms = "buckets" },
      },
    }, { buckets = { 10, 100 } })
    local sent = {}
    for _, name in ipairs { "a", "b", "c", "d" } do
      sent[name] = scene.client:histogram(name)
    end
    local hits = scene.client:count "hits"
    for flush = 1, 5 do
      for i = 1, 100 do
        for _, metric in pairs(sent) do
          metric:record(i + 100 * flush)
        end
        hits:inc()
      end
      scene:flush()
      assert.equal(100, select(2, table.concat(scene.bed.packets):gsub("%f[%w]a:[%d.]+|d\n", "")))
    end
    assert.equal(500, count_once "a")
    assert.equal(500, scene.bed.agent:count "d")
    assert.same({ 500, 500 }, { scene.bed.agent.counts.hits, scene.bed.agent.counts["c{le:Inf}"] })
    assert.is_nil(scene.bed.agent.weights.b)
  end)

  it("sends all values to each of two receivers, beside Prometheus", function()
    local chalk = require "chalk"
    local other = beds.new(raw { raw_type = "histogram" }, "udp")
    scene.bed = beds.new(raw())
    scene.client = scene.bed:start {
      exporters = { scene.bed:exporter(), other:exporter(), chalk.exporter.prometheus { namespace = "app" } },
    }
    local lat = scene.client:histogram "lat"
    for flush = 1, 4 do
      for i = 1, 500 do
        lat:record(1000 * flush + i)
      end
      assert.is_true(beds.flush(scene.client, { scene.bed, other }))
    end
    assert.same({ 2000, 2000 }, { count_once "lat", other.agent:count "lat" })
    assert.equal(2000, collect.samples(scene.client:text()).app_lat_count)
    other:close()
  end)

  for _, driver in ipairs { "thread", "loop", "manual" } do
    it("sends the values of several VMs and processes once each, driver " .. driver, function()
      local EACH = 3000
      scene.bed = beds.new()
      local program = children.spawn(PROGRAM, {}, scene.bed.options.address, driver, RECORDER, EACH)
      local who = { "main", "vm1", "vm2", "vm3", "process1", "process2", "process3" }
      local function all()
        scene.bed:read()
        local n = 0
        for _, name in ipairs(who) do
          n = n + scene.bed.agent:count("lat{who:" .. name .. "}")
        end
        return n >= #who * EACH
      end
      local ok = pcall(wait.till, all, 20)
      assert.same({ 0, "" }, { program.finish() })
      scene.bed:read()
      assert.is_true(ok, "not all values came")
      for _, name in ipairs(who) do
        assert.equal(EACH, count_once("lat{who:" .. name .. "}"), name)
        assert.equal(EACH / 4, scene.bed.agent:quantile("lat{who:" .. name .. "}", 1))
      end
    end)
  end

  for _, driver in ipairs { "thread", "loop" } do
    it("sends full packets before any flush, driver " .. driver, function()
      scene:start(raw { max_packet = 512 }, { driver = driver })
      local lat = scene.client:histogram "lat"
      for i = 1, 5000 do
        lat:record(i)
      end
      local tick = uv.new_timer() -- an application's own, which keeps its loop going
      tick:start(1, 1, function() end)
      wait.till(function()
        uv.run "nowait"
        scene.bed:read()
        return scene.bed.agent:count "lat" > 4900
      end)
      tick:close()
      for _, packet in ipairs(scene.bed.packets) do
        assert.is_true(#packet > 512 - 20)
      end
      assert.is_true(scene.bed.agent:count "lat" < 5000)
      scene:flush()
      assert.equal(5000, count_once "lat")
    end)
  end

  describe("with a sample_rate", function()
    local N, FLUSHES, SIGMAS = 30000, 3, 6

    -- The largest error of a sum over a sample. A wrong sum has a much larger error, and a right one never reaches
    -- this.
    local function bound(variance) return SIGMAS * math.sqrt(N * FLUSHES * variance) end

    for _, rate in ipairs { 0.3, 0.7, 0.5, 0.04 } do
      it(("of %g sends that share of the values, which represents all of them"):format(rate), function()
        scene:start(raw { sample_rate = rate })
        local lat = scene.client:histogram "lat"
        local lines, total, upper, rates = 0, 0, 0, {}
        for _ = 1, FLUSHES do
          for i = 1, N do
            lat:record(i)
          end
          scene:flush()
          for _, line in ipairs(scene.bed:lines()) do
            local weight = math.floor(1 / line.rate)
            assert.is_true(1 / line.rate - weight < 1e-6, line.rate)
            lines, total, rates[weight] = lines + 1, total + weight, true
            if tonumber(line.values[1]) > N / 2 then upper = upper + weight end
          end
        end
        local less = math.floor(1 / rate)
        local fraction = 1 / rate - less
        local squares = rate * (less ^ 2 * (1 - fraction) + (less + 1) ^ 2 * fraction) -- of a value's weight
        assert.near(N * FLUSHES * rate, lines, bound(rate * (1 - rate)))
        assert.near(N * FLUSHES, total, bound(squares - 1))
        assert.near(N * FLUSHES / 2, upper, bound((squares - 1) / 2))
        rates[less], rates[fraction > 0 and less + 1 or less] = nil, nil
        assert.same({}, rates)
      end)
    end

    it("of 1 writes no rate, of 0 writes no lines, and of a rule applies to that rule's metrics", function()
      local rules = { { match = "a", sample_rate = 1 }, { match = "b", sample_rate = 0.5 } }
      scene:start(raw { sample_rate = 0, per_metric = rules })
      for _, name in ipairs { "a", "b", "c" } do
        local metric = scene.client:histogram(name)
        for i = 1, 1000 do
          metric:record(i)
        end
      end
      scene:flush()
      local lines = {}
      for _, line in ipairs(scene.bed:text()) do
        local form = line:gsub(":[%d.]+", ":")
        lines[form] = (lines[form] or 0) + 1
      end
      assert.near(500, lines["b:|d|@0.5"], SIGMAS * math.sqrt(250))
      lines["b:|d|@0.5"] = nil
      assert.same({ ["a:|d"] = 1000 }, lines)
    end)

    it("may be as small as one in a million", function()
      scene:start(raw { sample_rate = 1e-6 })
      local lat = scene.client:histogram "lat"
      for i = 1, 50000 do
        lat:record(i)
      end
      scene:flush()
      assert.is_true(#scene.bed:lines() < 10)
      assert.same({}, scene.said)
    end)
  end)

  it("lets no tag value forge a line, a tag or a metric", function()
    math.randomseed(20240502)
    local fragments = {
      "|",
      "#",
      ",",
      ":",
      "\n",
      "\r",
      "@0.1",
      "\0",
      " ",
      "|c|#x:y",
      "evil:1|g\n",
      "é",
      "\255",
      "\226\128\168",
      "ok",
      ("x"):rep(90),
    }
    for _, dialect in ipairs { "dogstatsd", "statsd" } do
      scene:start { dialect = dialect, histograms = "raw" }
      local lat = scene.client:histogram("lat", { tags = { "a", { tag = "b", optional = true } } })
      for i = 1, 4000 do
        local parts = {}
        for k = 1, math.random(6) do
          parts[k] = fragments[math.random(#fragments)]
        end
        lat:with("v" .. table.concat(parts), i % 3 == 0 and parts[1] or nil):record(i)
      end
      scene:flush()
      local values = {}
      for _, line in ipairs(scene.bed:lines()) do
        assert.truthy(line.name:find(dialect == "statsd" and "^lat%.v" or "^lat$"))
        assert.is_true(#line.tags <= 2 and #line.values == 1 and line.rate == 1)
        values[tonumber(line.values[1])] = true
      end
      assert.equal(4000, #values)
      assert.is_nil(next(values, #values))
      scene.bed:close()
    end
  end)

  it("keeps packets to their limit, counts lines that are too long, and names their metric once", function()
    scene:start(raw { max_packet = 128, telemetry = true })
    local lat = scene.client:histogram("lat", { tags = { "a" } })
    for i = 1, 200 do
      lat:with("x" .. i % 7):record(1 / i)
      if i % 10 == 0 then lat:with(("y"):rep(150)):record(i) end
    end
    scene:flush()
    scene:flush()
    local values = 0
    for _, packet in ipairs(scene.bed.packets) do
      assert.is_true(#packet <= 128)
    end
    for id in pairs(scene.bed.agent.weights) do
      assert.truthy(id:find "^lat{a:x%d}$")
      values = values + scene.bed.agent:count(id)
    end
    assert.equal(200, values)
    assert.equal(20, scene.bed.agent.counts["chalk.client.lines_dropped"])
    assert.equal(200, scene.bed.agent.counts["chalk.client.raw_values"])
    assert.equal(20, collect.samples(scene.client:text())['chalk_stream_dropped_total{where="queue"}'])
    assert.equal(1, #scene.said)
    assert.truthy(scene.said[1]:find "^lat: a line is longer than max_packet, 128 bytes")
  end)

  it("does not mix the values of series that are dropped and made again", function()
    local now = 1000
    scene:start(raw(), { idle_timeout = 60, clock = function() return now end })
    local lat = scene.client:histogram("lat", { tags = { "a" } })
    local recorded = {}
    for i = 1, 600 do
      local value = "v" .. i % 50
      lat:with(value):record(i)
      recorded[i] = "lat{a:" .. value .. "}"
      if i % 3 == 0 then lat:remove { a = value } end
      if i % 100 == 0 then lat:clear() end
      now = now + (i % 40 == 0 and 61 or 1)
      if i % 7 == 0 then scene:flush() end
    end
    scene:flush()
    for i, id in ipairs(recorded) do
      assert.equal(1, (scene.bed.agent.weights[id] or {})[i], id .. " " .. i)
    end
    local n = 0
    for id in pairs(scene.bed.agent.weights) do
      n = n + count_once(id)
    end
    assert.equal(600, n)
    assert.is_true(scene.client:info().series < 60)
  end)
end)
