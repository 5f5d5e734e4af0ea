--- A client does what init was told: wrong options are refused at the caller's line, and limits, buckets and idle
--- timeouts apply to the series that they are meant for and to no others.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local broken = require "support.broken_exporters"
local children = require "support.children"
local collect = require "support.collect"
local documents = require "support.documents"
local files = require "support.files"

describe("a client", function()
  local client

  before_each(function() client = chalk.new() end)

  after_each(function()
    client:shutdown()
    files.clean()
  end)

  local function refusal(options)
    local ok, message = client:try_init(options)
    assert.is_nil(ok)
    return message
  end

  describe("is initialised", function()
    it("once: a second init raises at the caller's line, a second try_init returns the message", function()
      client:init()
      local ok, message = pcall(function() client:init() end)
      assert.is_false(ok)
      assert.matches(
        "^spec/client_spec.lua:%d+: chalk: init was called twice",
        (message:gsub("^.*/spec/", "spec/"))
      )
      assert.same({ nil, "init was called twice" }, { client:try_init() })
    end)

    it("again after it was refused", function()
      assert.matches("driver", refusal { driver = "magic" })
      assert.is_true(client:try_init { driver = "manual" })
    end)

    it("by chalk.new with options, which raises at the caller's line", function()
      local ok, message = pcall(function() local _ = chalk.new { flush_intervall = 3 } end)
      assert.is_false(ok)
      assert.matches("client_spec.lua:%d+: chalk: unknown option", message)
      assert.matches('did you mean "flush_interval"', message, 1, true)
      ok, message = pcall(function() local _ = chalk.new(7) end)
      assert.is_false(ok)
      assert.matches("client_spec.lua:%d+: chalk: options must be a table, got 7", message)
    end)

    it("and keeps what was recorded before", function()
      local metrics = client:load(documents.service())
      local kept = metrics.http.request_count:with("/a", "success")
      kept:inc(3)
      metrics.http.auth.login_latency:with("success"):record(0.3)
      client:init { driver = "manual", exporters = { collect.exporter() } }
      kept:inc()
      assert.equal(4, kept:value())
      local seen = collect.samples(client:text())
      assert.equal(4, seen['http_request_count_total{endpoint="/a",status="success"}'])
      assert.equal(1, seen['http_auth_login_latency_count{status="success"}'])
    end)

    it("without output on standard error if all is well", function()
      local code, output = children.run(
        [[
        local chalk = require "chalk"
        local m = chalk.load "spec/fixtures/metrics.json"
        m.http.auth.login_latency:with("success"):record(1)
        chalk.init { exporters = { chalk.exporter.custom("support.file_exporter", { path = arg[1] }) } }
        chalk.flush()
      ]],
        {},
        files.name()
      )
      assert.same({ 0, "" }, { code, output })
    end)
  end)

  describe("refuses", function()
    local function it_refuses(what, options, ...)
      local words = { ... }
      it(what, function()
        local message = refusal(type(options) == "function" and options() or options)
        for _, word in ipairs(words) do
          assert.matches(word, message, 1, true)
        end
      end)
    end

    it_refuses("unknown options", { flush_intervall = 3 }, "flush_intervall", 'did you mean "flush_interval"')
    it_refuses(
      "worker_threads, with what chalk has instead",
      { worker_threads = 1 },
      'unknown option worker_threads: there is one flush thread, with driver = "thread"'
    )
    it_refuses("all wrong options at once", { driver = 1, strict = "yes" }, "driver must be", "strict must be")
    it_refuses(
      "a flush_interval of 0",
      { flush_interval = 0 },
      "flush_interval must be a number from 0.01 to 86400, got 0"
    )
    it_refuses("buckets that do not increase", { buckets = { 1, 1 } }, "buckets must be a list of 1 to 64 finite")
    it_refuses("global_tags with a bad name", { global_tags = { ["a b"] = "x" } }, "global_tags must be a table")
    it_refuses(
      "an idle_timeout of 0",
      { idle_timeout = 0 },
      "idle_timeout must be a number of seconds above 0",
      "got 0"
    )
    it_refuses(
      "an idle_timeout of an unknown type",
      { idle_timeout = { counts = 3 } },
      "idle_timeout",
      "count, gauge"
    )
    it_refuses("max_series of 0", { max_series = 0 }, "max_series must be a whole number from 1 to 8000000, got 0")
    it_refuses("max_buckets out of range", { max_buckets = 4 }, "max_buckets must be a whole number from 8 to 8192")
    it_refuses(
      "initial_error out of range",
      { initial_error = 0 },
      "initial_error must be a number from 0.0001 to 0.5"
    )
    it_refuses(
      "too little memory",
      { memory_limit = 1000 },
      "memory_limit must be",
      "bytes, at least 4194304, got 1000"
    )
    it_refuses("a segment_path without a directory", { segment_path = "/nowhere/at/all" }, "/nowhere/at/all")
    it_refuses("exporters that are not exporters", { exporters = { 3 } }, "exporters[1]")
    it_refuses(
      "an exporter that is not in a list",
      function() return { exporters = chalk.exporter.prometheus {} } end,
      "exporters must be a list of exporters"
    )
    it_refuses(
      "exporters under names",
      function() return { exporters = { prometheus = chalk.exporter.prometheus {} } } end,
      "exporters must be a list of exporters"
    )
    it_refuses(
      "a list of exporters with a hole",
      function()
        return { exporters = { chalk.exporter.prometheus {}, nil, chalk.exporter.prometheus { name = "b" } } }
      end,
      "exporters must be a list of exporters"
    )
    it_refuses(
      "tables as exporters with the driver thread",
      { exporters = { collect.exporter() } },
      "exporters[1]",
      "module"
    )
    it_refuses("two exporters with the same name", function()
      local one = chalk.exporter.custom("support.file_exporter", { path = "x" })
      return { exporters = { one, chalk.exporter.custom("support.file_exporter", { path = "y" }) } }
    end, "exporters[1]", "exporters[2]", "name")
    it_refuses("functions for the flush thread's VM", function()
      local exporter = chalk.exporter.custom("support.file_exporter", { deep = { f = print } })
      return { exporters = { exporter } }
    end, "deep.f", "function", "thread")
    it_refuses(
      "a bad address",
      function() return { exporters = { chalk.exporter.prometheus { listen = "nowhere" } } } end,
      "exporters[1]",
      "nowhere"
    )
    it_refuses(
      "unknown options of an exporter",
      function() return { exporters = { chalk.exporter.prometheus { lisen = "x" } } } end,
      "exporters[1]",
      "lisen"
    )

    it("unknown exporters, at the caller's line", function()
      local ok, message = pcall(function() local _ = chalk.exporter.promtheus end)
      assert.is_false(ok)
      assert.matches("client_spec.lua:%d+: .*promtheus", message)
      assert.has_error(function() chalk.exporter.custom {} end)
    end)

    it("an address that is in use, naming the exporter that needs it", function()
      local other = chalk.new()
      local listen = "unix://" .. files.name()
      other:init { exporters = { chalk.exporter.prometheus { listen = listen } } }
      local message = refusal {
        exporters = {
          chalk.exporter.custom("support.file_exporter", { path = files.name() }),
          chalk.exporter.prometheus { listen = listen },
        },
      }
      assert.matches("exporters[2]", message, 1, true)
      assert.matches(listen, message, 1, true)
      other:shutdown()
      assert.is_true(client:try_init { exporters = { chalk.exporter.prometheus { listen = listen } } })
    end)

    for _, driver in ipairs { "thread", "loop", "manual" } do
      it("modules that are not exporters, with the driver " .. driver, function()
        finally(broken.install())
        local function message_of(module)
          package.loaded[module] = nil
          return refusal { driver = driver, exporters = { chalk.exporter.custom(module) } }
        end
        local says = {
          ["broken_absent"] = "broken_absent",
          ["broken_not_a_table"] = "no function new",
          ["broken_without_new"] = "no function new",
          ["broken_raises_at_load"] = "no such library",
          ["broken_returns_nil"] = "method export",
          ["broken_without_export"] = "method export",
          ["broken_raises_in_new"] = "the disk is not there",
        }
        for module, words in pairs(says) do
          local message = message_of(module)
          assert.matches(module, message, 1, true)
          assert.matches(words, message, 1, true)
        end
      end)
    end
  end)

  describe("has the bounds", function()
    local function bounds_of(text, name)
      local les = {}
      for le in text:gmatch("\n" .. name .. '_bucket{[^\n]*le="([^"]+)"') do
        les[#les + 1] = le
      end
      return table.concat(les, " ")
    end

    it("that init names, for handles from before it too", function()
      local latency = client:histogram("latency", { tags = { { tag = "a" } } })
      local own = client:histogram("own", { buckets = { 7 } })
      local kept = latency:with "x"
      client:init { driver = "manual", buckets = { 1, 2.5 } }
      kept:record(2)
      latency:with("x"):record(0.5)
      own:record(1)
      client:histogram("later"):record(1)
      local text = client:text()
      assert.equal("1.0 2.5 +Inf", bounds_of(text, "latency"))
      assert.equal("7.0 +Inf", bounds_of(text, "own"))
      assert.equal("1.0 2.5 +Inf", bounds_of(text, "later"))
      assert.equal(2, collect.samples(text)['latency_bucket{a="x",le="2.5"}'])
      assert.equal(2, kept:value():count())
    end)

    it("of the default buckets if nothing names others", function()
      client:histogram("latency"):record(0.2)
      assert.equal("0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 10.0 +Inf", bounds_of(client:text(), "latency"))
    end)

    it("by an exporter's buckets", function()
      client:init { driver = "manual", exporters = { chalk.exporter.prometheus { buckets = { 3, 4 } } } }
      client:histogram("latency"):record(3.5)
      assert.equal("3.0 4.0 +Inf", bounds_of(client:text(), "latency"))
    end)

    it("of chalk's own flushes, whatever buckets the application has", function()
      client:init {
        driver = "manual",
        buckets = { 1, 2 },
        exporters = { chalk.exporter.prometheus { buckets = { 3, 4 } }, collect.exporter() },
      }
      assert(client:flush())
      assert.equal(
        "0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 10.0 +Inf",
        bounds_of(client:text(), "chalk_flush_seconds")
      )
    end)
  end)

  describe("renders", function()
    before_each(function() client:count("jobs", { description = "Jobs" }):inc(2) end)

    it("text in both formats of Prometheus, and in no unknown one", function()
      assert.matches("# TYPE jobs_total counter\njobs_total 2\n", client:text(), 1, true)
      assert.equal(client:text "prometheus", client:text())
      assert.matches("# TYPE jobs counter\n", client:text "openmetrics", 1, true)
      assert.matches("# EOF\n$", client:text "openmetrics")
      local _, message = pcall(function() local _ = client:text "json" end)
      assert.matches("client_spec.lua:%d+: chalk: text takes", message)
    end)

    it("gauges that were never set as 0 if that is asked for, and otherwise not", function()
      client:gauge "waiting"
      client:gauge("depth", { across = "sum", tags = { "queue" } }):with "mail"
      client:gauge("level"):set(3)
      for _, format in ipairs { "prometheus", "openmetrics" } do
        local seen = collect.samples(client:text(format))
        assert.is_nil(seen.waiting)
        assert.is_nil(seen['depth{queue="mail"}'])
        local all = collect.samples(client:text(format, { unset = true }))
        assert.same({ 0, 0, 3, 2 }, { all.waiting, all['depth{queue="mail"}'], all.level, all.jobs_total })
        assert.is_nil(all['depth{queue="__overflow__"}'])
      end
      assert.is_nil(collect.samples(client:text()).waiting)
      assert.matches(
        "\nwaiting:0|g\n",
        client:text("statsd", { unset = true, exporter = { container_id = false } }),
        1,
        true
      )
    end)

    it("the lines of a StatsD exporter, without sending them or counting them as sent", function()
      client:histogram("lat", { tags = { "a" } }):with("x"):record(1)
      client:gauge("level"):set(3)
      local function lines(options)
        local found = {}
        for line in client:text("statsd", options):gmatch "[^\n]+" do
          if not line:find "^chalk%." then found[#found + 1] = line end
        end
        table.sort(found)
        return found
      end
      local dogstatsd = {
        exporter = {
          container_id = false,
          namespace = "app",
          global_tags = { env = "prod" },
          histograms = "percentiles",
          quantiles = { 0.5 },
          aggregates = { "count" },
        },
      }
      local expected = {
        "app.jobs:2|c|#env:prod",
        "app.lat.count:1|g|#env:prod,a:x",
        "app.lat.p50:1|g|#env:prod,a:x",
        "app.level:3|g|#env:prod",
      }
      for i = 1, 2 do
        local found = lines(dogstatsd)
        found[3] = found[3]:gsub(":[%d.]+|", ":1|") -- as exact as a sketch is
        assert.same(expected, found, i)
      end
      assert.same(
        { "jobs:2|c", "lat.x.le_1:1|c", "lat.x.le_Inf:1|c", "level:3|g" },
        lines { exporter = { dialect = "statsd", histograms = "buckets", buckets = { 1 } } }
      )
    end)

    it("the lines of the first StatsD exporter given to init", function()
      local receiver = require("support.receivers").udp()
      local address = "127.0.0.1:" .. receiver.port
      client:init {
        driver = "manual",
        global_tags = { env = "prod" },
        exporters = { chalk.exporter.statsd { address = address, namespace = "app", container_id = false } },
      }
      assert.matches("app.jobs:2|c|#env:prod\n", client:text "statsd", 1, true)
      assert.same({}, receiver:all())
      assert(client:flush())
      assert.matches("app.jobs:2|c|#env:prod\n", table.concat(receiver:all()), 1, true)
      assert.matches("app.jobs:2|c|#env:prod\n", client:text "statsd", 1, true)
      client:shutdown()
      receiver:close()
    end)

    it("nothing for wrong options, which are an error at the caller's line", function()
      for words, options in pairs {
        ['text: options must be a table, got "unset"'] = "unset",
        ['text: unknown option unsed, did you mean "unset"?'] = { unsed = true },
        ["text: unset must be true or false"] = { unset = 1 },
        ["text: exporter: .*bad namespace"] = { exporter = { namespace = "a b" } },
      } do
        local _, message = pcall(function() local _ = client:text("prometheus", options) end)
        assert.matches("client_spec.lua:%d+: chalk: " .. words, message)
      end
    end)

    it("global_tags whose names have - . and /, with _ in labels", function()
      client:init { driver = "manual", global_tags = { ["kube/cluster-name"] = "a", ["dd.team"] = "b" } }
      assert.matches('jobs_total{dd_team="b",kube_cluster_name="a"} 2\n', client:text(), 1, true)
    end)

    it("with the options of init, whatever was rendered before it", function()
      assert.matches("\njobs_total 2\n", client:text(), 1, true)
      client:init { driver = "manual", exporters = { chalk.exporter.prometheus { namespace = "app" } } }
      assert.matches("\napp_jobs_total 2\n", client:text(), 1, true)
    end)

    it("global_tags and the exporter's namespace", function()
      client:init {
        driver = "manual",
        global_tags = { env = "prod", zone = "global" },
        exporters = { chalk.exporter.prometheus { namespace = "app" } },
      }
      client:count("zoned", { tags = { { tag = "zone" } } }):with("own"):inc()
      local seen = collect.samples(client:text())
      assert.equal(2, seen['app_jobs_total{env="prod",zone="global"}'])
      assert.equal(1, seen['app_zoned_total{env="prod",zone="own"}'])
    end)
  end)

  it("is independent of every other client", function()
    local other = chalk.new()
    client:count("same"):inc(2)
    other:gauge("same"):set(5)
    chalk.count("client_spec_global"):inc()
    assert.equal(2, collect.samples(client:text()).same_total)
    assert.equal(5, collect.samples(other:text()).same)
    assert.is_nil(client:text():find("client_spec_global", 1, true))
    assert.matches("client_spec_global_total 1", chalk.text(), 1, true)
  end)

  it("may be collected while the program keeps its series", function()
    local kept = {}
    for i = 1, 20 do
      local short = chalk.new()
      kept[i] = short:count("c", { tags = { { tag = "t" } } }):with "x"
      kept[i]:inc()
    end
    collectgarbage()
    collectgarbage()
    for i = 1, 20 do
      kept[i]:inc()
    end
  end)

  describe("with max_series", function()
    local said

    local function stderr_of(script, ...)
      local code, output = children.run(script, {}, ...)
      assert.equal(0, code, output)
      return output
    end

    it("folds further series into one overflow series, and counts these lookups", function()
      client = chalk.new { max_series = 10, driver = "manual" }
      local users = client:count("users", { tags = { { tag = "id" }, { tag = "kind", optional = true } } })
      for i = 1, 100 do
        users:with(i):inc()
      end
      local seen = collect.samples(client:text())
      local kept, total = 0, 0
      for id, value in pairs(seen) do
        if id:find "^users_total" then
          kept, total = kept + 1, total + value
        end
      end
      assert.same({ 11, 100 }, { kept, total })
      assert.equal(90, seen['users_total{id="__overflow__",kind="__overflow__"}'])
      assert.equal(90, seen.chalk_overflow_total)
      assert.equal(10, seen.chalk_series)
    end)

    it("of a metric does not limit other metrics", function()
      local few = client:gauge("few", { tags = { { tag = "id" } }, max_series = 2 })
      local many = client:histogram("many", { tags = { { tag = "id" } } })
      for i = 1, 5 do
        few:with(i):set(i)
        many:with(i):record(i)
      end
      local seen = collect.samples(client:text())
      assert.equal(1, seen['few{id="1"}'])
      assert.is_nil(seen['few{id="3"}'])
      assert.equal(5, seen['few{id="__overflow__"}'])
      assert.equal(1, seen['many_count{id="5"}'])
    end)

    it("warns once for each metric and flush", function()
      said = stderr_of [[
        local chalk = require "chalk"
        local exporter = { export = function() return true end }
        local client = chalk.new { max_series = 2, driver = "manual", exporters = { exporter } }
        local a = client:count("a", { tags = { { tag = "id" } } })
        local b = client:count("b", { tags = { { tag = "id" } } })
        for i = 1, 50 do a:with(i):inc() b:with(i):inc() end
        client:flush()
        io.stderr:write("then\n")
        client:flush()
        a:with(99):inc()
        client:flush()
        client:shutdown()
      ]]
      local first, second = said:match "^(.-)then\n(.*)$"
      local _, times = first:gsub("overflow", "")
      assert.equal(2, times, said)
      assert.matches("chalk: warning: a: ", first, 1, true)
      assert.matches("chalk: warning: b: ", first, 1, true)
      _, times = second:gsub("overflow", "")
      assert.equal(1, times, said)
    end)

    it("accepts new series after others were removed", function()
      client = chalk.new { max_series = 2, driver = "manual" }
      local m = client:count("m", { tags = { { tag = "id" } } })
      m:with("a"):inc()
      m:with("b"):inc()
      m:with("c"):inc()
      m:remove { id = "a" }
      m:with("c"):inc()
      assert.equal(1, collect.samples(client:text())['m_total{id="c"}'])
    end)
  end)

  it("with its memory full continues to record into the overflow series", function()
    client = chalk.new { memory_limit = 4 * 1024 * 1024, max_series = 3000, driver = "manual" }
    local m = client:histogram("m", { tags = { { tag = "id" } } })
    for i = 1, 3000 do
      local series = m:with(("x"):rep(400) .. i)
      for k = 1, 60 do
        series:record(2 ^ (k - i % 7))
      end
    end
    local count = 0
    for id, value in pairs(collect.samples(client:text())) do
      if id:find "^m_count" then count = count + value end
    end
    local seen = collect.samples(client:text())
    assert.is_true(seen.chalk_overflow_total > 0)
    local lost = seen['chalk_errors_total{kind="memory"}'] or 0
    assert.is_true(count <= 180000 and count + lost >= 180000)
  end)

  describe("with idle_timeout", function()
    local now, metrics, exporter

    local function start(timeout, document)
      now = 1000
      exporter = collect.exporter()
      client = chalk.new {
        driver = "manual",
        clock = function() return now end,
        idle_timeout = timeout,
        exporters = { exporter },
      }
      metrics = client:load(document or documents.service())
    end

    local function pass(seconds)
      now = now + seconds
      assert.is_true(client:flush())
    end

    it("drops series that were not recorded for that time, and only those", function()
      start(60)
      local count = metrics.http.request_count:with("/idle", "success")
      local busy = metrics.http.request_count:with("/busy", "success")
      local gauge = metrics.http.open:with "/idle"
      local latency = metrics.http.request_latency:with("/idle", "success")
      count:inc(5)
      busy:inc()
      gauge:set(7)
      latency:record(1)
      pass(1)
      for _ = 1, 8 do
        busy:inc()
        pass(10)
      end
      local text = client:text()
      assert.is_nil(text:find('"/idle"', 1, true))
      assert.equal(9, busy:value())
      assert.equal(9, collect.samples(text)['http_request_count_total{endpoint="/busy",status="success"}'])
      -- A series that is recorded again begins at 0.
      count:inc()
      gauge:inc(2)
      latency:record(2)
      metrics.http.request_count:with("/idle", "success"):inc()
      local seen = collect.samples(client:text())
      assert.equal(2, seen['http_request_count_total{endpoint="/idle",status="success"}'])
      assert.equal(2, seen['http_open{endpoint="/idle"}'])
      assert.equal(1, seen['http_request_latency_seconds_count{endpoint="/idle",status="success"}'])
      pass(1)
      assert.equal(2, exporter.last["request_count{endpoint=/idle,status=success}"].delta)
    end)

    it("treats setting a gauge to the same value as a record", function()
      start(60)
      local gauge = metrics.http.open:with "/same"
      for _ = 1, 20 do
        gauge:set(1)
        pass(10)
      end
      assert.equal(1, collect.samples(client:text())['http_open{endpoint="/same"}'])
    end)

    it("keeps series that were never recorded, until they are", function()
      start(60)
      local zero = metrics.http.request_count:with("/zero", "success")
      for _ = 1, 20 do
        pass(10)
      end
      local id = 'http_request_count_total{endpoint="/zero",status="success"}'
      assert.equal(0, collect.samples(client:text())[id])
      zero:inc()
      for _ = 1, 20 do
        pass(10)
      end
      assert.is_nil(collect.samples(client:text())[id])
    end)

    it("may be set for one type only", function()
      start { gauge = 20 }
      metrics.http.request_count:with("/a", "success"):inc()
      metrics.http.open:with("/a"):set(1)
      for _ = 1, 10 do
        pass(10)
      end
      local text = client:text()
      assert.matches("http_request_count_total{", text, 1, true)
      assert.is_nil(text:find("\nhttp_open{", 1, true))
    end)

    it("keeps chalk's own metrics", function()
      start(10)
      for _ = 1, 10 do
        pass(10)
      end
      local seen = collect.samples(client:text())
      assert.equal(10, seen.chalk_flush_seconds_count)
      assert.equal(0, seen.chalk_overflow_total)
    end)
  end)
end)
