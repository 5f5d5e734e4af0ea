--- Batches and the option `exporters`. If this file fails, a custom exporter does not receive every field of every
--- metric, or loses or repeats changes when its target is away.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local collect = require "support.collect"
local documents = require "support.documents"
local files = require "support.files"
local log = require "chalk.base.log"

local COUNT = "request_count{endpoint=/a,status=success}"
local LATENCY = "request_latency{endpoint=/a,status=success}"

describe("a custom exporter", function()
  local client, metrics, said
  local write = log.write

  before_each(function()
    said = {}
    log.write = function(_, message) said[#said + 1] = message end
  end)

  local function start(driver, ...)
    client = chalk.new { driver = driver, exporters = { ... }, flush_interval = 3600 }
    metrics = client:load(documents.service())
  end

  local function inc(n) metrics.http.request_count:with("/a", "success"):inc(n) end
  local function record(v) metrics.http.request_latency:with("/a", "success"):record(v) end

  after_each(function()
    log.write = write
    client:shutdown()
    files.clean()
  end)

  for _, driver in ipairs { "manual", "loop" } do
    describe("with the driver " .. driver, function()
      it("can be a table, whose export and shutdown are called as methods", function()
        local exporter = collect.exporter()
        local shut = 0
        function exporter.shutdown(self)
          assert(self == exporter)
          shut = shut + 1
        end
        start(driver, exporter)
        inc(2)
        assert.is_true(client:flush())
        assert.equal(2, exporter.last[COUNT].total)
        client:shutdown()
        client:shutdown()
        assert.same({ 2, 1 }, { exporter.batches, shut })
      end)
    end)
  end

  it("receives nil instead of a sketch if there is no memory for one", function()
    local sketch, read = require "chalk.record.sketch", {}
    local new = sketch.new
    finally(function() sketch.new = new end)
    start("manual", {
      export = function(_, batch)
        for m in batch:each() do
          if m.name == "request_latency" then read = { m.sketch == nil, m.delta_sketch:count() } end
        end
        return true
      end,
    })
    record(2)
    function sketch.new() return nil end
    assert.is_true(client:flush())
    assert.same({ true, 1 }, read)
  end)

  it("receives every field of every metric", function()
    local seen = {}
    start("manual", {
      export = function(_, batch)
        for m in batch:each() do
          local les = {}
          for le, n in m.les or function() end do
            les[#les + 1] = { le, n }
          end
          seen[m.name] = {
            namespace = m.namespace,
            name = m.name,
            type = m.type,
            description = m.description,
            unit = m.unit,
            tags = m.tags,
            total = m.total,
            delta = m.delta,
            value = m.value,
            les = les,
            sketch = m.sketch,
            delta_sketch = m.delta_sketch,
            own = m.own,
          }
        end
        return true
      end,
    })
    inc(3)
    metrics.uptime:set(1.5)
    metrics.http.retries({ path = "/p" }):inc()
    metrics.http.auth.login_latency:with("failure"):record(2)
    for _, v in ipairs { 0.05, 0.1, 5, 50 } do
      record(v)
    end
    client:flush()

    local count = seen.request_count
    assert.same({ "http" }, count.namespace)
    assert.same({ { "endpoint", "/a" }, { "status", "success" } }, count.tags)
    assert.same({ "request_count", "count", "Requests answered" }, { count.name, count.type, count.description })
    assert.same({ 3, 3 }, { count.total, count.delta })
    assert.is_nil(count.value or count.sketch or count.delta_sketch or count.unit or count.own)

    assert.same({ "gauge", 1.5 }, { seen.uptime.type, seen.uptime.value })
    assert.same({ {}, {} }, { seen.uptime.namespace, seen.uptime.tags })
    assert.is_nil(seen.uptime.total or seen.uptime.delta or seen.uptime.sketch)

    assert.same({ { "path", "/p" } }, seen.retries.tags)
    assert.same({ "http", "auth" }, seen.login_latency.namespace)

    local latency = seen.request_latency
    assert.equal("seconds", latency.unit)
    assert.same({ { 0.1, 2 }, { 1, 2 }, { 10, 3 }, { math.huge, 4 } }, latency.les)
    assert.is_nil(latency.total or latency.delta or latency.value)
    for _, sketch in ipairs { latency.sketch, latency.delta_sketch } do
      assert.equal(4, sketch:count())
      assert.is_true(math.abs(sketch:sum() - 55.15) < 0.1)
      assert.is_true(math.abs(sketch:quantile(1) - 50) <= 50 * sketch:error())
      assert.is_true(sketch:min() <= 0.05 and sketch:min() > 0.0499)
      assert.is_true(sketch:max() >= 50 and sketch:max() < 50.1)
      local last, total = -math.huge, 0
      for lower, upper, n in sketch:buckets() do
        assert.is_true(lower >= last and upper > lower and n > 0)
        last, total = upper, total + n
      end
      assert.equal(4, total)
    end
    assert.is_true(seen.flush.own)
  end)

  it("may iterate over bounds twice, and keep sketches after the batch", function()
    local first, second, kept
    start("manual", {
      export = function(_, batch)
        first, second = {}, {}
        for m in batch:each() do
          if m.name == "request_latency" then
            for le in m.les do
              first[#first + 1] = le
            end
            for le in m.les do
              second[#second + 1] = le
            end
            kept = m.sketch
          end
        end
        return true
      end,
    })
    record(1)
    client:flush()
    client:shutdown()
    collectgarbage()
    assert.same({ 0.1, 1, 10, math.huge }, first)
    assert.same(first, second)
    assert.equal(1, kept:count())
  end)

  it("receives sketches with the accuracy of the stored ones", function()
    local given
    client = chalk.new {
      driver = "manual",
      max_buckets = 4096,
      exporters = {
        {
          export = function(_, batch)
            for m in batch:each() do
              if m.name == "wide" then given = m.sketch:error() end
            end
            return true
          end,
        },
      },
    }
    local wide = client:histogram "wide"
    for i = 1, 2000 do
      wide:record(1.002 ^ i)
    end
    client:flush()
    assert.equal(wide:value():error(), given)
    assert.is_true(given <= 0.001)
  end)

  it("receives the changes since its last success", function()
    local exporter = collect.exporter()
    start("manual", exporter)
    inc(3)
    record(1)
    client:flush()
    assert.same({ 3, 3 }, { exporter.last[COUNT].total, exporter.last[COUNT].delta })
    inc(2)
    record(2)
    record(3)
    client:flush()
    assert.same({ 5, 2 }, { exporter.last[COUNT].total, exporter.last[COUNT].delta })
    assert.same({ 3, 2 }, { exporter.last[LATENCY].count, exporter.last[LATENCY].new })
    client:flush()
    assert.same({ 5, 0 }, { exporter.last[COUNT].total, exporter.last[COUNT].delta })
    assert.same({ 3, 0 }, { exporter.last[LATENCY].count, exporter.last[LATENCY].new })
  end)

  describe("that fails", function()
    local failure, failing, good

    before_each(function()
      failure = nil
      failing = collect.exporter("failing", function()
        if failure == "raise" then error "away" end
        if failure == "object" then error {} end
        if failure == "nil" then return nil, "away" end
        if failure == "nothing" then return end
        if failure == "false" then return false end
        return true
      end)
      good = collect.exporter "good"
      start("manual", failing, good)
    end)

    for _, how in ipairs { "raise", "object", "nil", "nothing", "false" } do
      it("by " .. how .. " receives the same changes again, and does not affect other exporters", function()
        inc(3)
        client:flush()
        failure = how
        for i = 1, 3 do
          inc(2)
          record(1)
          assert.is_true(client:flush())
          assert.same({ i * 2, 2 }, { failing.last[COUNT].delta, good.last[COUNT].delta })
          assert.same({ i, 1 }, { failing.last[LATENCY].new, good.last[LATENCY].new })
        end
        local errors = collect.samples(client:text())
        assert.equal(3, errors['chalk_export_errors_total{exporter="failing"}'])
        assert.is_nil(errors['chalk_export_errors_total{exporter="good"}'])
        assert.matches("exporter failing: ", said[1], 1, true)
        failure = nil
        client:flush()
        assert.equal(6, failing.last[COUNT].delta)
        client:flush()
        assert.equal(0, failing.last[COUNT].delta)
      end)
    end

    it("never receives a counter that goes backwards", function()
      local last = 0
      for i = 1, 60 do
        failure = ({ "raise", "nil", false })[i % 3 + 1] or nil
        inc(1)
        if i % 2 == 0 then client:flush() end
        local total = collect.samples(client:text())['http_request_count_total{endpoint="/a",status="success"}']
        assert.is_true(total > last)
        last = total
      end
      assert.equal(60, last)
    end)
  end)

  it("may commit single series, and receives only the others again", function()
    local part = collect.exporter()
    local fail = true
    part.export = function(self, batch)
      self.last = {}
      for m in batch:each() do
        if m.type == "count" and not m.own then
          self.last[m.tags[1][2]] = m.delta
          if fail and m.tags[1][2] == "/a" then batch:commit(m) end
        end
      end
      if fail then return nil, "half" end
      return true
    end
    start("manual", part)
    metrics.http.request_count:with("/b", "success"):inc(5)
    inc(7)
    client:flush()
    assert.same({ ["/a"] = 7, ["/b"] = 5 }, part.last)
    inc(1)
    fail = false
    client:flush()
    assert.same({ ["/a"] = 1, ["/b"] = 5 }, part.last)
  end)

  it("may commit histograms one by one", function()
    local deltas, fail = {}, true
    start("manual", {
      export = function(_, batch)
        for m in batch:each() do
          if m.name == "request_latency" then
            deltas[#deltas + 1] = m.delta_sketch:count()
            batch:commit(m)
          end
        end
        if fail then return nil, "later" end
        return true
      end,
    })
    record(1)
    client:flush()
    record(2)
    fail = false
    client:flush()
    assert.same({ 1, 1 }, deltas)
  end)

  it("gets an error if it reads a batch after its export has returned", function()
    local kept, metric
    start("manual", {
      export = function(_, batch)
        kept = batch
        for m in batch:each() do
          if m.name == "request_count" then metric = m end
        end
        return true
      end,
    })
    inc(1)
    client:flush()
    collectgarbage()
    assert.equal("request_count", metric.name)
    for _, late in ipairs {
      function() local _ = metric.total end,
      function() local _ = metric.tags end,
      function() kept:commit(metric) end,
      function() kept:each()() end,
    } do
      local ok, message = pcall(late)
      assert.is_false(ok)
      assert.matches("exporters_spec.lua:%d+: a batch is over", message)
    end
  end)

  it("that is added later starts at the totals of that moment", function()
    local path = files.name()
    local first, second = collect.exporter "first", collect.exporter "second"
    local function open(...)
      local one = chalk.new { driver = "manual", segment_path = path, exporters = { ... } }
      one:load(documents.service())
      return one
    end
    client = open(first)
    metrics = client:load(documents.service())
    inc(10)
    client:shutdown()
    local other = open(first, second)
    other:flush()
    inc(4)
    other:flush()
    assert.same({ 14, 4 }, { second.last[COUNT].total, second.last[COUNT].delta })
    assert.same({ 14, 4 }, { first.last[COUNT].total, first.last[COUNT].delta })
    other:shutdown()
  end)

  it("keeps its cursor by its name when the order of exporters changes", function()
    local path = files.name()
    local first, second = collect.exporter "first", collect.exporter "second"
    local function open(...)
      local one = chalk.new { driver = "manual", segment_path = path, exporters = { ... } }
      metrics = one:load(documents.service())
      return one
    end
    client = open(first, second)
    inc(10)
    client:flush()
    client:shutdown()
    local third, fourth = collect.exporter "second", collect.exporter "first"
    client = open(third, fourth)
    inc(1)
    client:flush()
    assert.same({ 1, 1 }, { third.last[COUNT].delta, fourth.last[COUNT].delta })
  end)

  it("receives the last counts of a removed series, and only once", function()
    local exporter = collect.exporter()
    start("manual", exporter)
    inc(3)
    record(1)
    client:flush()
    inc(4)
    record(1)
    metrics.http.request_count:remove { endpoint = "/a", status = "success" }
    metrics.http.request_latency:clear()
    client:flush()
    assert.equal(4, exporter.last[COUNT].delta)
    client:flush()
    assert.is_nil(exporter.last[COUNT])
    inc(5)
    client:flush()
    assert.same({ 5, 5 }, { exporter.last[COUNT].total, exporter.last[COUNT].delta })
  end)

  it("receives the last values of a removed histogram", function()
    local news = 0
    start("manual", {
      export = function(_, batch)
        for m in batch:each() do
          if m.name == "request_latency" then news = news + m.delta_sketch:count() end
        end
        return true
      end,
    })
    record(1)
    client:flush()
    record(1)
    record(2)
    metrics.http.request_latency:clear()
    client:flush()
    client:flush()
    record(3)
    client:flush()
    assert.equal(4, news)
  end)

  it("receives metrics that the program defines after init", function()
    local exporter = collect.exporter()
    start("manual", exporter)
    client:flush()
    client:count("late"):inc()
    client:flush()
    assert.equal(1, exporter.last["late{}"].delta)
  end)

  it("receives its options and global_tags in the flush thread's VM", function()
    local path = files.name()
    local options = { path = path, list = { 1, { deep = '\0\r\n"' } } }
    client = chalk.new {
      global_tags = { env = "prod" },
      exporters = { chalk.exporter.custom("support.echo_exporter", options) },
    }
    client:flush()
    assert.equal('env=prod list[2].deep=\0\r\n"', files.read(path))
  end)

  it("can be configured several times from one module, under different names", function()
    local a, b = files.name(), files.name()
    client = chalk.new {
      exporters = {
        chalk.exporter.custom("support.file_exporter", { path = a, name = "a" }),
        chalk.exporter.custom("support.file_exporter", { path = b, name = "b", fails_while = b, how = "raise" }),
      },
    }
    client:count("jobs"):inc(2)
    local block = assert(io.open(b, "w"))
    block:close()
    assert.is_true(client:flush())
    assert.equal("jobs{} total=2 delta=2\n--\n", files.read(a))
    assert.equal("", files.read(b))
    assert.equal(1, collect.samples(client:text())['chalk_export_errors_total{exporter="b"}'])
    os.remove(b)
    client:flush()
    assert.equal("jobs{} total=2 delta=2\n--\n", files.read(b))
  end)
end)
