--- The numbers are right in whichever of the documented ways a program records them, and a program in which chalk is
--- disabled runs as before.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local children = require "support.children"
local collect = require "support.collect"
local documents = require "support.documents"
local files = require "support.files"

describe("recording", function()
  local client, metrics, tags

  before_each(function()
    client = chalk.new()
    metrics, tags = client:load(documents.service())
  end)

  after_each(files.clean)

  local function sample(id) return collect.samples(client:text())[id] end

  describe("a count", function()
    it("adds one, or the given number", function()
      local series = metrics.http.request_count { endpoint = "/api", status = "success" }
      series:inc()
      series:inc(5)
      series:inc(0)
      series:inc(2 ^ 53 - 6)
      assert.equal(2 ^ 53, series:value())
    end)

    it("has the same series by a call, by `with` and through a kept series", function()
      metrics.http.request_count({ endpoint = "/api", status = "failure" }):inc()
      metrics.http.request_count:with("/api", "failure"):inc(5)
      local kept = metrics.http.request_count { status = tags.status.failure, endpoint = "/api" }
      for _ = 1, 1000 do
        kept:inc()
      end
      assert.equal(1006, sample 'http_request_count_total{endpoint="/api",status="failure"}')
    end)

    it("treats inc(nil) as inc()", function()
      local series = metrics.http.request_count:with("/n", "success")
      series:inc(nil)
      assert.equal(1, series:value())
    end)

    it("treats record as inc", function()
      local series = metrics.http.request_count:with("/r", "success")
      series:record()
      series:record(2)
      assert.equal(3, series:value())
    end)
  end)

  describe("a gauge", function()
    it("is set, and moved up and down, with tags and without", function()
      metrics.uptime:set(42)
      metrics.uptime:inc()
      metrics.uptime:inc(0.5)
      metrics.uptime:dec(3)
      metrics.uptime:dec()
      assert.equal(39.5, metrics.uptime:value())
      local open = metrics.http.open { endpoint = "/a" }
      open:inc(-2)
      assert.equal(-2, open:value())
      open:record(7)
      assert.equal(7, sample 'http_open{endpoint="/a"}')
    end)

    it("accepts infinity, as Prometheus does", function()
      metrics.uptime:set(math.huge)
      assert.equal(math.huge, sample "uptime")
    end)
  end)

  describe("a histogram", function()
    it("returns a sketch of its values", function()
      local series = metrics.http.request_latency:with("/a", "success")
      assert.equal(0, series:value():count())
      for i = 1, 1000 do
        series:record(i / 100)
      end
      local sketch = series:value()
      assert.equal(1000, sketch:count())
      assert.is_true(math.abs(sketch:sum() - 5005) < 1e-6)
      assert.equal(0.01, sketch:min())
      assert.equal(10, sketch:max())
      assert.is_true(math.abs(sketch:quantile(0.5) - 5) <= 5 * sketch:error())
      assert.is_true(sketch:error() <= 0.02)
      assert.equal(10, sample 'http_request_latency_seconds_bucket{endpoint="/a",status="success",le="0.1"}')
    end)

    it("keeps its initial_error while values are few", function()
      local series = metrics.http.auth.login_latency:with "success"
      series:record(0.125)
      assert.is_true(series:value():error() <= 0.001)
    end)

    it("refuses quantiles outside 0 to 1, at the caller's line", function()
      local sketch = metrics.http.auth.login_latency:with("success"):value()
      assert.has_error(function() sketch:quantile(2) end)
      local _, message = pcall(function() sketch:quantile "x" end)
      assert.matches("recording_spec.lua:%d+: ", message)
      assert.is_true(sketch:quantile(0.5) ~= sketch:quantile(0.5))
    end)

    it("refuses what no sketch can be made with, at the caller's line", function()
      for _, options in ipairs { { initial_error = 0 }, { initial_error = 0.6 }, { initial_error = 0 / 0 } } do
        local made, message = pcall(function() chalk.sketch(options) end)
        assert.is_false(made)
        assert.matches("recording_spec.lua:%d+: initial_error must be a number from 0.0001 to 0.5", message)
      end
      for _, options in ipairs { { max_buckets = 7 }, { max_buckets = 8193 }, { max_buckets = -1 } } do
        local made, message = pcall(function() chalk.sketch(options) end)
        assert.is_false(made)
        assert.matches("recording_spec.lua:%d+: max_buckets must be a number from 8 to 8192", message)
      end
      assert.equal(0, chalk.sketch({ initial_error = 0.5, max_buckets = 8 }):count())
    end)

    it("does not store NaN and infinities, but counts them as errors", function()
      local series = metrics.http.request_latency:with("/n", "success")
      series:record(0 / 0)
      series:record(math.huge)
      series:record(-math.huge)
      series:record(1)
      assert.equal(1, series:value():count())
      assert.equal(3, sample 'chalk_errors_total{kind="not_finite"}')
    end)
  end)

  describe("time", function()
    local series

    before_each(function() series = metrics.http.request_latency:with("/t", "success") end)

    it("returns all that the function returns, nils at the end too", function()
      local function count(...) return select("#", ...), ... end
      local function f(...) return nil, select("#", ...), "x", nil, nil end
      local n, a, b, c = count(series:time(f, nil, 2, nil))
      assert.same({ 5, nil, 3, "x" }, { n, a, b, c })
      assert.equal(1, series:value():count())
    end)

    it("raises the very object that the function raised, and records", function()
      local failure = setmetatable({}, { __tostring = function() return "failure" end })
      local ok, raised = pcall(series.time, series, function() error(failure) end)
      assert.is_false(ok)
      assert.equal(failure, raised)
      assert.equal(1, series:value():count())
    end)

    it("leaves messages as they are", function()
      local _, raised = pcall(function()
        series:time(function() error("as it was", 0) end)
      end)
      assert.equal("as it was", raised)
    end)

    it("works across a coroutine's yields", function()
      local thread = coroutine.create(function()
        return series:time(function(a)
          local b = coroutine.yield(a + 1)
          return b + 1
        end, 1)
      end)
      assert.same({ true, 2 }, { coroutine.resume(thread) })
      assert.equal(0, series:value():count())
      assert.same({ true, 11 }, { coroutine.resume(thread, 10) })
      assert.equal(1, series:value():count())
    end)

    it("measures seconds", function()
      local core = require "chalk.core"
      local started = core.C.chalk_now()
      series:time(function()
        while core.C.chalk_now() < started + 0.02 do
        end -- luacheck: ignore 542
      end)
      local longest = core.C.chalk_now() - started
      assert.is_true(series:value():sum() >= 0.0199 and series:value():sum() <= longest)
    end)

    it("has `start` for durations of more than one function", function()
      local stop = series:start()
      assert.equal(0, series:value():count())
      stop()
      assert.equal(1, series:value():count())
    end)
  end)

  describe("tag values", function()
    it("may be whole numbers and booleans, the same series as their text", function()
      local m = metrics.http.open
      m({ endpoint = 200 }):inc()
      m({ endpoint = "200" }):inc()
      m:with(200):inc()
      assert.equal(3, sample 'http_open{endpoint="200"}')
      m({ endpoint = true }):inc()
      m:with("true"):inc()
      m:with(false):inc(9)
      assert.equal(2, sample 'http_open{endpoint="true"}')
      assert.equal(9, sample 'http_open{endpoint="false"}')
      m:with(-7):inc()
      assert.equal(1, sample 'http_open{endpoint="-7"}')
    end)

    it("may be left out if optional, and an empty value counts as left out", function()
      local m = metrics.http.retries
      m({ path = "/a" }):inc()
      m({ path = "/a", availability_zone = "" }):inc()
      m:with("/a"):inc()
      m:with("/a", nil):inc()
      m:with("/a", ""):inc()
      m:with("/a", "eu-1"):inc(7)
      m({ path = "/a", availability_zone = "eu-1" }):inc()
      assert.equal(5, sample 'http_retries_total{path="/a"}')
      assert.equal(8, sample 'http_retries_total{path="/a",availability_zone="eu-1"}')
    end)

    it("are named by the export_name of the reference, or else of the tag", function()
      metrics.http.retries({ path = "/x", availability_zone = "z" }):inc()
      assert.equal(1, sample 'http_retries_total{path="/x",availability_zone="z"}')
      assert.has_error(function() metrics.http.retries { endpoint = "/x" } end)
    end)

    it("may have - . and / in their names, which become _ in labels", function()
      local m =
        client:count("pods", { tags = { { tag = "cluster", export_name = "kube/cluster-name.v1" }, "end" } })
      for _ = 1, 2 do
        m({ ["kube/cluster-name.v1"] = "a", ["end"] = "b" }):inc()
        m:with("a", "b"):inc()
      end
      assert.equal(4, sample 'pods_total{kube_cluster_name_v1="a",end="b"}')
      local _, message = pcall(function() m:inc() end)
      assert.matches('pods{ ["kube/cluster-name.v1"] = ..., ["end"] = ... }', message, 1, true)
      assert.is_true(m:remove { ["kube/cluster-name.v1"] = "a", ["end"] = "b" })
    end)

    it("may be one tag under several export names", function()
      local resolvers = client:load {
        tags = {
          endpoint = { value_type = "string" },
          outcome = { value_type = "enum", values = { "good", "bad" } },
        },
        namespaces = {
          resolver = {
            metrics = {
              {
                name = "latency",
                type = "histogram",
                tags = {
                  { tag = "endpoint" },
                  { tag = "outcome", export_name = "resolver_outcome" },
                  { tag = "endpoint", export_name = "resolver_fqn", optional = true },
                },
              },
            },
          },
        },
      }
      local latency = resolvers.resolver.latency
      for _ = 1, 2 do -- a first record and one of a known series
        latency({ endpoint = "/api", resolver_outcome = "good", resolver_fqn = "users.find" }):record(0.5)
        latency:with("/api", "good", "users.find"):record(0.5)
        latency({ endpoint = "/api", resolver_outcome = "good" }):record(0.5)
      end
      assert.equal(
        4,
        sample 'resolver_latency_count{endpoint="/api",resolver_outcome="good",resolver_fqn="users.find"}'
      )
      assert.equal(2, sample 'resolver_latency_count{endpoint="/api",resolver_outcome="good"}')
      assert.is_true(latency:remove { endpoint = "/api", resolver_outcome = "good", resolver_fqn = "users.find" })
      assert.has_error(function() latency { resolver_fqn = "users.find", resolver_outcome = "good" } end)
    end)
  end)

  describe("the tree", function()
    it("has every metric under its flat name too", function()
      assert.equal(metrics.http.auth.login_latency, metrics.HttpAuthLoginLatency)
      assert.equal(metrics.uptime, metrics.Uptime)
    end)

    it("has the enum constants", function()
      assert.equal("success", tags.status.success)
      local ok, message = pcall(function() return tags.status.sucess end)
      assert.is_false(ok)
      assert.matches("recording_spec.lua:%d+: ", message)
      assert.matches('"success"', message, 1, true)
      assert.matches('"failure"', message, 1, true)
    end)

    it("suggests the name that was probably meant", function()
      local ok, message = pcall(function() return metrics.http.request_cuont end)
      assert.is_false(ok)
      assert.matches("recording_spec.lua:%d+: ", message)
      assert.matches('did you mean "request_count"', message, 1, true)
    end)

    it("grows with every load; the same definition twice is the same metric", function()
      local again = client:load(documents.service())
      assert.equal(metrics, again)
      assert.equal(metrics.http.open, again.http.open)
      local more = client:load { metrics = { { name = "more", type = "count" } } }
      more.more:inc()
      assert.equal(1, metrics.more:value())
      local ok, message = pcall(function() client:load { metrics = { { name = "uptime", type = "count" } } } end)
      assert.is_false(ok)
      assert.matches("recording_spec.lua:%d+: .*uptime", message)
    end)
  end)

  describe("definitions at run time", function()
    it("return the metric, and put it into the tree", function()
      local spec = { namespace = { "jobs" }, tags = { { tag = "queue" } }, description = "Jobs done" }
      local done = client:count("done", spec)
      done({ queue = "mail" }):inc(2)
      assert.equal(done, metrics.jobs.done)
      assert.equal(2, sample 'jobs_done_total{queue="mail"}')
      client:gauge("depth", { unit = "bytes" }):set(3)
      assert.equal(3, sample "depth_bytes")
      local latency = client:histogram("latency", { buckets = { 1, 2 } })
      latency:record(1.5)
      latency:time(function() end)
      latency:start()()
      assert.equal(3, latency:value():count())
      assert.equal(3, sample 'latency_bucket{le="2.0"}')
    end)

    it("are one metric if they are equal, and an error at the caller's line if they differ", function()
      assert.equal(client:count "twice", client:count "twice")
      local ok, message = pcall(function() client:gauge "twice" end)
      assert.is_false(ok)
      assert.matches("recording_spec.lua:%d+: .*twice", message)
    end)

    it("of an operation record its count and its duration together", function()
      local lookup = client:op("cache_lookup", { tags = { { tag = "cache" } } })
      lookup({ cache = "l1" }):record(0.25)
      lookup:with("l1"):time(function() end)
      lookup:with("l1"):start()()
      local seen = collect.samples(client:text())
      assert.equal(3, seen['cache_lookup_total{cache="l1"}'])
      assert.equal(3, seen['cache_lookup_duration_seconds_count{cache="l1"}'])
      local plain = client:op "plain"
      plain:record(1)
      assert.equal("x", plain:time(function() return "x" end))
      assert.equal(2, sample "plain_total")
    end)

    it("show the source behind a metric", function()
      assert.matches("tags.endpoint, tags.status", client:source(metrics.http.request_count), 1, true)
      assert.matches("series:set", client:source(metrics.uptime), 1, true)
      assert.is_true(loadstring(client:source(metrics.http.open)) ~= nil)
      assert.has_error(function() client:source {} end)
    end)
  end)

  describe("dropping", function()
    it("removes one series; its handles continue with a new one", function()
      local kept = metrics.http.request_count:with("/a", "success")
      kept:inc(3)
      metrics.http.request_count:with("/b", "success"):inc(4)
      assert.is_true(metrics.http.request_count:remove { endpoint = "/a", status = "success" })
      assert.is_false(metrics.http.request_count:remove { endpoint = "/a", status = "success" })
      assert.is_nil(sample 'http_request_count_total{endpoint="/a",status="success"}')
      assert.equal(4, sample 'http_request_count_total{endpoint="/b",status="success"}')
      kept:inc()
      metrics.http.request_count:with("/a", "success"):inc()
      assert.equal(2, kept:value())
      assert.equal(2, sample 'http_request_count_total{endpoint="/a",status="success"}')
    end)

    it("clears a metric of any type", function()
      metrics.http.open:with("/a"):set(1)
      metrics.http.open:with("/b"):set(1)
      metrics.http.request_latency:with("/a", "success"):record(1)
      metrics.uptime:set(5)
      metrics.http.open:clear()
      metrics.http.request_latency:clear()
      metrics.uptime:clear()
      local text = client:text()
      assert.is_nil(text:find("\nhttp_open{", 1, true))
      assert.is_nil(text:find("\nhttp_request_latency_seconds_count{", 1, true))
      assert.is_nil(text:find("\nuptime ", 1, true))
      metrics.uptime:set(6)
      metrics.http.request_latency:with("/a", "success"):record(1)
      assert.equal(6, sample "uptime")
      assert.equal(1, metrics.http.request_latency:with("/a", "success"):value():count())
    end)

    it("checks the tags it is given", function()
      local _, message = pcall(function() metrics.http.open:remove { endpont = "/a" } end)
      assert.matches('recording_spec.lua:%d+: .*did you mean "endpoint"', message)
      assert.has_error(function() metrics.http.open:remove() end)
      assert.has_error(function() metrics.http.open:remove "/a" end)
    end)
  end)

  describe("disabled", function()
    local function use_everything(m)
      m.uptime:set(1)
      m.uptime:inc()
      m.uptime:dec()
      m.uptime:record(1)
      assert.equal(0, m.uptime:value())
      local count = m.http.request_count { endpoint = "/a", status = "success" }
      count:inc()
      count:inc "not even looked at"
      assert.equal(0, count:value())
      local latency = m.http.request_latency:with("/a", "success")
      latency:record(1)
      latency:start()()
      assert.same({ 1, 2 }, { latency:time(function(...) return ... end, 1, 2) })
      assert.equal(0, latency:value():count())
      assert.is_false(m.http.open:remove { endpoint = "/a" })
      m.http.open:clear()
    end

    it("before anything is loaded records nothing", function()
      local off = chalk.new { enabled = false }
      use_everything(off:load(documents.service()))
      off:op("pair"):record(1)
      off:op("other", { tags = { { tag = "t" } } }):with("x"):time(function() end)
      assert.equal("", off:text())
      assert.equal("# EOF\n", off:text "openmetrics")
      assert.is_true(off:flush())
      assert.is_true(off:shutdown())
    end)

    it("after the load records nothing from then on", function()
      local late = chalk.new()
      local m = late:load(documents.service())
      late:init { enabled = false, exporters = { collect.exporter() }, driver = "manual" }
      use_everything(m)
      assert.equal("", late:text())
    end)

    -- A client's metrics and operations of every kind, without tags and with, and series of those.
    local function everything_of(c)
      local all = {}
      for _, spec in ipairs { {}, { tags = { "t" } } } do
        for _, kind in ipairs { "count", "gauge", "histogram", "op" } do
          all[#all + 1] = c[kind](c, kind .. #(spec.tags or {}), spec)
        end
      end
      return all
    end

    local function with_series(all)
      local out = {}
      for i, one in ipairs(all) do
        out[2 * i - 1], out[2 * i] = one, one:with "x"
      end
      return out
    end

    -- The memory that 100 calls allocate, in KiB. It is the least of 20 rounds, because compiling a loop allocates too.
    local function garbage(f)
      local least = math.huge
      for _ = 1, 20 do
        collectgarbage()
        collectgarbage "stop"
        local before = collectgarbage "count"
        for _ = 1, 100 do
          f()
        end
        least = math.min(least, collectgarbage "count" - before)
        collectgarbage "restart"
      end
      return least
    end

    for _, case in ipairs { "from the start", "later" } do
      it(case .. ", metrics of each kind and operations have empty functions for verbs", function()
        local c = case == "later" and chalk.new() or chalk.new { enabled = false }
        local all = everything_of(c)
        if case == "later" then c:init { enabled = false } end
        local first, given = all[1], 0
        local nothing = first.inc
        local function f(...) given = select("#", ...) end
        for i, one in ipairs(with_series(all)) do
          assert.equal(nothing, one.record)
          assert.equal(nothing, one:start())
          assert.equal(first.time, one.time)
          local function use()
            one:record(1)
            one:time(f, nil, nil)
            one:start()()
            one:with("y"):record(1)
          end
          local is_series = i % 2 == 0
          if is_series then use = function() one:start()() end end
          assert.equal(0, garbage(use))
          jit.off(use)
          assert.equal(0, garbage(use))
        end
        assert.equal(2, given)
        for _, verb in ipairs { "dec", "set", "record" } do
          assert.equal(nothing, first[verb])
          assert.equal(nothing, first:with()[verb])
        end
      end)
    end

    for _, case in ipairs { "from the start", "later" } do
      it(case .. ", an operation has empty functions for its histogram's names, and for unknown ones", function()
        local c = case == "later" and chalk.new() or chalk.new { enabled = false }
        for _, one in ipairs { c:op "plain", c:op("tagged", { tags = { "t" } }) } do
          if case == "later" and c.enabled then c:init { enabled = false } end
          assert.equal(0, one:value():count())
          assert.same({ false, 0 }, { one:remove { t = "x" }, one:clear() })
          assert.same({}, { one:inc(), one:set(1), one:incr() })
        end
      end)
    end

    it("later, the same operation is returned, which looks at no tags", function()
      local late = chalk.new()
      local lookup = late:op("lookup", { tags = { "cache" } })
      assert.equal(lookup, late:op("lookup", { tags = { "cache" } }))
      late:init { enabled = false }
      lookup({ cach = 1 }):record "x"
      assert.equal("ran", lookup:time(function() return "ran" end))
      assert.is_false(late.metrics.lookup:remove { cach = 1 })
      assert.equal(lookup, late:op("lookup", { tags = { "cache" } }))
    end)

    it("reports 0 everywhere in info, and still accepts an init", function()
      local off, recording = chalk.new({ enabled = false }):info(), chalk.new():info()
      for name in pairs(recording) do
        assert.equal(0, off[name], name)
      end
      local code, output = children.run(
        [[
        local chalk = require "chalk"
        local m = chalk.load "spec/fixtures/metrics.json"
        print(chalk.info().capacity)
        chalk.init { strict = true, driver = "manual" }
        m.uptime:set(1)
        print(chalk.info().series, m.uptime:value())
      ]],
        { env = { CHALK_DISABLED = "1" } }
      )
      assert.same({ 0, "0\n0\t0\n" }, { code, output })
    end)

    it("by the environment records nothing", function()
      local script = [[
        local chalk = require "chalk"
        local m = chalk.load "spec/fixtures/metrics.json"
        m.uptime:set(1)
        m.http.request_count:with("/a", "success"):inc()
        chalk.init { exporters = { chalk.exporter.custom("support.file_exporter", { path = arg[1] }) } }
        chalk.flush()
        io.write("text:", chalk.text(), ":", m.uptime:value(), "\n")
      ]]
      local path = files.name()
      local code, output = children.run(script, { env = { CHALK_DISABLED = "1" } }, path)
      assert.same({ 0, "text::0\n" }, { code, output })
      assert.equal("", files.read(path))
      code, output = children.run(script, { env = { CHALK_DISABLED = "0" } }, path)
      assert.equal(0, code, output)
      assert.matches("uptime{} value=1", files.read(path), 1, true)
    end)
  end)
end)
