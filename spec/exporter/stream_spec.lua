--- The event stream exporter. If this file fails, a client misses a metric or a record, or receives something that
--- nobody recorded.

local beds = require "support.stream_bed"
local chalk = require "chalk"
local children = require "support.children"
local core = require "chalk.core"
local files = require "support.files"
local fork = require "support.fork"
local log = require "chalk.base.log"
local stream = require "chalk.exporter.stream"
local stream_client = require "support.stream_client"
local vms = require "support.vms"
local wait = require "support.wait"

local KILL, STOP, CONTINUE = 9, 19, 18

describe("the stream's options", function()
  local function problem_of(options)
    local ok, message = pcall(chalk.new, { driver = "manual", exporters = { chalk.exporter.stream(options) } })
    assert.is_false(ok)
    return message
  end

  local SIZES = {
    ["0"] = 0,
    ["-1"] = -1,
    ["1.5"] = 1.5,
    ["a text"] = "1024",
    NaN = 0 / 0,
    inf = math.huge,
    ["true"] = true,
    ["2^31"] = 2 ^ 31,
  }

  for text, value in pairs(SIZES) do
    it("refuse buffer_size = " .. text, function()
      local words = "a whole number from 1 to 1073741824, or false for no limit"
      local message = problem_of { buffer_size = value }
      local got = type(value) == "string" and '"1024"' or value ~= value and "NaN" or tostring(value)
      assert.equal("chalk: exporters[1] (stream): buffer_size must be " .. words .. ", got " .. got, message)
    end)
  end

  it("are checked all at once, at init", function()
    local wrong = { listen = 5000, namespace = "9a", global_tags = { env = {} }, name = 1, bufer_size = 1 }
    local message = problem_of(wrong)
    for _, part in ipairs {
      "listen must be an address",
      "namespace must be a string of letters",
      "global_tags must be a table",
      "name must be a string",
      'unknown option bufer_size, did you mean "buffer_size"?',
    } do
      assert.is_truthy(message:find(part, 1, true), message)
    end
    assert.matches("options must be a table", problem_of(3))
    assert.matches("global_tags must be valid UTF%-8 without NUL", problem_of { global_tags = { a = "\255" } })
  end)

  it("default to the address of metrics-exporter-tcp on loopback, and its buffer", function()
    assert.same({ listen = "127.0.0.1:5000", buffer_size = 1024 }, stream.resolve {})
    assert.is_false(stream.resolve({ buffer_size = false }).buffer_size)
  end)

  for _, address in ipairs { "127.0.0.1", ":5000", "", "127.0.0.1:99999", "[::1:5000", "unix://" } do
    it(("refuse %q, which is not an address"):format(address), function()
      local message = problem_of { listen = address }
      local expected = 'chalk: exporters[1] (stream): listen: bad address "%s": expected "host:port", '
      assert.equal(1, message:find(expected:format(address), 1, true), message)
    end)
  end

  for address, why in pairs {
    ["192.0.2.1:5000"] = "Cannot assign requested address",
    ["no.such.host.invalid:5000"] = "",
  } do
    it(("refuse the address %q"):format(address), function()
      local message = problem_of { listen = address }
      local expected = "chalk: exporters[1]: cannot listen at " .. address .. ": " .. why
      assert.is_truthy(message:find(expected, 1, true), message)
    end)
  end

  it("are refused if the port is in use", function()
    local bed = beds.start "manual"
    bed.client:flush() -- it is open from init on, all the same
    local address = "127.0.0.1:" .. bed.port
    for _, driver in ipairs { "thread", "loop", "manual" } do
      local other = chalk.new()
      local exporter = chalk.exporter.stream { listen = address }
      local ok, message = other:try_init { driver = driver, exporters = { exporter } }
      assert.same(
        { nil, "exporters[1]: cannot listen at " .. address .. ": Address already in use" },
        { ok, message }
      )
    end
    bed:close()
  end)
end)

-- Whether a record through this handle takes the inlined path.
local function is_inlined(series) return series.shared[0] + series.own[0] == series.epoch end

for _, driver in ipairs { "thread", "loop", "manual" } do
  describe("the stream with the driver " .. driver, function()
    local bed, write, said

    before_each(function()
      said, write = {}, log.write
      log.write = function(_, message) said[#said + 1] = message end
    end)

    after_each(function()
      bed:close()
      log.write = write
    end)

    local function start(options, client_options)
      bed = beds.start(driver, options, client_options)
      return bed.client
    end

    it("describes every metric first, recorded or not", function()
      local client = start()
      client:count("requests", { namespace = "http", unit = "count", description = "Requests" })
      client:gauge("load", { unit = "percent" })
      client:histogram("took", { description = "", unit = "seconds" })
      local reader = bed:connect()
      reader:till(function() return #reader.described == 3 end, function() bed:run_once() end)
      assert.same({
        http_requests_count = {
          name = "http_requests_count",
          type = "counter",
          unit = "count",
          description = "Requests",
        },
        load_percent = { name = "load_percent", type = "gauge", unit = "percent", description = "" },
        took_seconds = { name = "took_seconds", type = "histogram", unit = "seconds", description = "" },
      }, reader.metadata)
      assert.equal(0, #reader.metrics)
    end)

    it(
      "describes metrics that are defined later: to connected clients before the first record, to new ones at once",
      function()
        local client = start()
        local first = bed:connect()
        local jobs = client:count "jobs"
        client:gauge "never"
        local second = bed:connect()
        second:till(function() return #second.described == 2 end, function() bed:run_once() end)
        assert.same({ "jobs", "never" }, second.described)
        jobs:inc(2)
        bed:read(first, 1)
        assert.is_table(first.metadata.jobs)
        bed:read(second, 1)
        assert.same({ "jobs", "never" }, second.described) -- once each
      end
    )

    it("sends each record with its verb, value and time, in order", function()
      local client = start()
      local jobs, load, took = client:count "jobs", client:gauge "load", client:histogram "took"
      jobs:inc()
      local reader, before = bed:connect(), core.C.chalk_wall()
      jobs:inc()
      jobs:inc(0)
      jobs:inc(2 ^ 53)
      load:set(-2.5)
      load:inc()
      load:inc(0.25)
      load:dec()
      load:dec(3)
      load:set(1e300)
      load:set(-0.0)
      took:record(0.042)
      took:record(-1)
      took:record(0)
      took:record(5e-324)
      jobs:record(7)
      load:record(8)
      took:record(9)
      assert.has_error(function() jobs:inc(-1) end)
      took:record(math.huge) -- counted as an error, and no record
      took:record(10)
      bed:read(reader, 18)
      local after, last = core.C.chalk_wall(), 0
      for _, metric in ipairs(reader.metrics) do
        local time = metric.seconds + metric.nanos / 1e9
        assert.is_true(time > before - 0.01 and time < after + 0.01 and time >= last)
        assert.same({}, metric.labels)
        last = time
      end
      assert.same({
        "jobs{} increment_counter 1",
        "jobs{} increment_counter 0",
        "jobs{} increment_counter 9007199254740992",
        "load{} set_gauge -2.5",
        "load{} increment_gauge 1",
        "load{} increment_gauge 0.25",
        "load{} decrement_gauge 1",
        "load{} decrement_gauge 3",
        "load{} set_gauge 1.0000000000000001e+300",
        "load{} set_gauge -0",
        "took{} record_histogram 0.042000000000000003",
        "took{} record_histogram -1",
        "took{} record_histogram 0",
        "took{} record_histogram 4.9406564584124654e-324",
        "jobs{} increment_counter 7",
        "load{} set_gauge 8",
        "took{} record_histogram 9",
        "took{} record_histogram 10",
      }, reader:lines())
      assert.equal(0, bed:dropped())
    end)

    it("uses the names and labels of the Prometheus exporter, without suffixes", function()
      local client = start { namespace = "app", global_tags = { env = "prod", zone = 3, path = "none" } }
      local hits = client:count("hits_total", {
        namespace = "web",
        tags = {
          "path",
          { tag = "x", export_name = "x_y" },
          { tag = "maybe", optional = true },
        },
      })
      local sizes = client:gauge("size", { unit = "bytes" })
      local reader = bed:connect()
      hits:with("/ä", "a b", "m"):inc()
      hits:with("", 7, nil):inc(2)
      sizes:set(1)
      bed:read(reader, 3)
      assert.same({
        "app_web_hits{env=prod,maybe=m,path=/ä,x_y=a b,zone=3} increment_counter 1",
        "app_web_hits{env=prod,x_y=7,zone=3} increment_counter 2",
        "app_size_bytes{env=prod,path=none,zone=3} set_gauge 1",
      }, reader:lines())
      assert.is_table(reader.metadata.app_web_hits)
    end)

    it("sends the client's global tags, and none of chalk's own metrics", function()
      local client = start(nil, { global_tags = { env = "test" } })
      local jobs = client:count "jobs"
      local reader = bed:connect()
      assert.has_error(function() jobs:inc "x" end) -- counted in chalk_errors_total
      jobs:inc()
      bed:read(reader, 1)
      assert.same({ "jobs{env=test} increment_counter 1" }, reader:lines())
      assert.same({ "jobs" }, reader.described)
    end)

    it("shows the overflow series, and series that were dropped and made again", function()
      local client = start()
      local jobs = client:count("jobs", { tags = { "a" }, max_series = 2 })
      local load = client:gauge("load", { tags = { "a" } })
      local reader = bed:connect()
      for i = 1, 4 do
        jobs:with("v" .. i):inc(i)
      end
      local expected = {}
      for i = 1, 20 do
        local series = load:with "x"
        series:set(i)
        load:remove { a = "x" }
        series:set(-i) -- the handle finds its successor
        load:clear()
        expected[2 * i - 1] = ("load{a=x} set_gauge %d"):format(i)
        expected[2 * i] = ("load{a=x} set_gauge %d"):format(-i)
        assert(client:flush()) -- sweeps
      end
      bed:read(reader, 44)
      local lines = reader:lines()
      assert.same({
        "jobs{a=v1} increment_counter 1",
        "jobs{a=v2} increment_counter 2",
        "jobs{a=__overflow__} increment_counter 3",
        "jobs{a=__overflow__} increment_counter 4",
      }, { unpack(lines, 1, 4) })
      assert.same(expected, { unpack(lines, 5) })
      assert.equal(0, bed:dropped())
    end)

    it("costs nothing while no client is connected, before the first and after the last", function()
      local client = start()
      local all = { client:count("jobs"):with(), client:gauge("load"):with(), client:histogram("took"):with() }
      local function record()
        for _, series in ipairs(all) do
          series:record(1)
        end
      end
      local function inlined()
        record()
        local list = {}
        for i, series in ipairs(all) do
          list[i] = is_inlined(series)
        end
        return list
      end
      bed:run_once()
      assert.same({ 0, { true, true, true } }, { bed:tapped(), inlined() })
      for round = 1, 3 do
        local reader, other = bed:connect(), bed:connect()
        assert.same({ false, false, false }, inlined())
        bed:read(reader, 3)
        other:close()
        bed:till(function() return bed:connected() == 1 end)
        assert.same({ false, false, false }, inlined())
        reader:close()
        bed:till(function() return bed:tapped() == 0 end, "the tap's end")
        assert.same({ true, true, true }, inlined())
        assert.equal(0, bed:connected(), round)
      end
      assert.equal(0, bed:dropped())
    end)

    it("sends the same to all clients, to each from its connection on", function()
      local jobs = start():count "jobs"
      local first = bed:connect()
      jobs:inc(1)
      bed:read(first, 1)
      local second = bed:connect()
      jobs:inc(2)
      bed:read(first, 2)
      bed:read(second, 1)
      first:close()
      bed:till(function() return bed:connected() == 1 end)
      jobs:inc(3)
      bed:read(second, 2)
      assert.same({ "jobs{} increment_counter 2", "jobs{} increment_counter 3" }, second:lines())
    end)

    it("closes clients that half-close or reset, and keeps clients that send bytes", function()
      local jobs = start():count "jobs"
      local talker, leaver, resetter = bed:connect(), bed:connect(), bed:connect()
      assert.equal(3, bed:connected())
      for _ = 1, 50 do
        assert(talker:send(("\255GET / HTTP/1.1\r\n"):rep(1000)) ~= 0)
      end
      leaver:half_close()
      resetter:send "x"
      resetter:reset()
      bed:till(function() return bed:connected() == 1 end)
      leaver:till(function() return leaver.ended end)
      jobs:inc()
      bed:read(talker, 1)
      assert.same({ "jobs{} increment_counter 1" }, talker:lines())
      assert.same({}, said)
    end)

    it("accepts sixty-four clients, and hangs up on more", function()
      local jobs = start():count "jobs"
      local all = {}
      for i = 1, 64 do
        all[i] = stream_client.connect(bed.port)
      end
      bed:till(function() return bed:connected() == 64 end)
      local refused = stream_client.connect(bed.port)
      refused:till(function() return refused.ended end, function() bed:run_once() end)
      jobs:inc()
      for _, client in ipairs(all) do
        bed:read(client, 1)
        client:close()
      end
      refused:close()
      bed:till(function() return bed:connected() == 0 end)
      bed:connect()
      assert.same({}, said)
    end)

    it("sends the records of all VMs and processes of the segment", function()
      local name = ("stream-%s-%d"):format(driver, math.random(1e9))
      local client = start()
      client:shutdown()
      local port = bed.port
      -- The VMs of this process share a named segment.
      bed.client = require("chalk.client").new(name, {})
      bed.client:init {
        driver = driver,
        flush_interval = 3600,
        exporters = { chalk.exporter.stream { listen = "127.0.0.1:" .. port, buffer_size = 100000 } },
      }
      bed.segment = bed.client.segment
      local jobs = bed.client:count("jobs", { tags = { "by" } })
      jobs:with("main"):inc(0)
      local reader = bed:connect()
      local forked = {}
      for child = 1, 3 do
        forked[child] = fork.child(function()
          local mine = jobs:with("child" .. child)
          for i = 1, 2000 do
            mine:inc(i)
          end
        end)
      end
      local vm = vms.open()
      vm:run(
        [[
        local client = require("chalk.client").new(..., {})
        local jobs = client:count("jobs", { tags = { "by" } })
        for i = 1, 2000 do jobs:with("vm"):inc(i) end
      ]],
        name
      )
      for i = 1, 2000 do
        jobs:with("main"):inc(i)
      end
      bed:read(reader, 10000)
      for _, pid in ipairs(forked) do
        assert.equal(0, fork.wait(pid))
      end
      vm:close()
      local last = {}
      for _, metric in ipairs(reader.metrics) do
        local by = metric.labels.by
        assert.equal((last[by] or 0) + 1, metric.value)
        last[by] = metric.value
      end
      assert.same({ main = 2000, vm = 2000, child1 = 2000, child2 = 2000, child3 = 2000 }, last)
      assert.equal(0, bed:dropped())
    end)

    it("sends all records made before a shutdown, and ends", function()
      local client = start { buffer_size = 100000 }
      local jobs = client:count "jobs"
      local reader = bed:connect()
      for i = 1, 5000 do
        jobs:inc(i)
      end
      assert(client:shutdown())
      reader:till(function() return reader.ended end)
      assert.equal("end", reader.ended)
      assert.equal(5000, #reader.metrics)
      assert.equal(5000, reader.metrics[5000].value)
      assert.is_nil(stream_client.connect(bed.port))
    end)
  end)
end

describe("the stream of one of several processes that alternate in flushing", function()
  it("has the records before, between and after the others' flushes", function()
    local bed = beds.start "manual"
    local jobs = bed.client:count("jobs", { tags = { "by" } })
    local mine = jobs:with "parent"
    local reader = bed:connect()
    mine:inc(1)
    local child = fork.child(function()
      jobs:with("child"):inc(1)
      for i = 2, 3 do
        assert(bed.client:flush())
        jobs:with("child"):inc(i)
      end
    end)
    assert.equal(0, fork.wait(child))
    mine:inc(2)
    bed:read(reader, 5)
    assert.same({
      "jobs{by=parent} increment_counter 1",
      "jobs{by=child} increment_counter 1",
      "jobs{by=child} increment_counter 2",
      "jobs{by=child} increment_counter 3",
      "jobs{by=parent} increment_counter 2",
    }, reader:lines())
    bed:close()
  end)
end)

-- The program of the processes of one segment. They record until a file exists.
local NODE = [[
  local chalk, fork, wait = require "chalk", require "support.fork", require "support.wait"
  chalk.init { segment_path = arg[1], exporters = { chalk.exporter.stream { listen = "127.0.0.1:" .. arg[2] } } }
  local jobs, number = chalk.count("jobs", { tags = { "by" } }), 0
  local function work()
    while not io.open(arg[3]) do
      number = number + 1
      jobs:with(fork.pid()):inc(number)
      wait.sleep(0.002)
    end
  end
  for _ = 1, tonumber(arg[4]) do fork.child(work) end
  io.write(fork.pid(), "\n")
  io.flush()
  work()
  os.exit(0)
]]

describe("the process that serves the stream", function()
  local segment, stop, client, node, readers

  before_each(function()
    segment, stop, readers = files.name(), files.name(), {}
    client = chalk.new { segment_path = segment }
  end)

  after_each(function()
    files.make_at(stop)
    fork.kill(node.pid, CONTINUE)
    node.finish()
    for _, reader in ipairs(readers) do
      reader:close()
    end
    files.clean()
  end)

  local port
  local function start(forks)
    port = beds.port()
    node = children.start(NODE, {}, segment, port, stop, forks)
  end

  local function connect()
    local reader = wait.till(function() return stream_client.connect(port) end)
    readers[#readers + 1] = reader
    return reader
  end

  -- Counts the processes whose events a client receives. Checks that each process's events are in order and without
  -- gaps.
  local function seen_by(reader)
    local last, n = {}, 0
    for _, metric in ipairs(reader.metrics) do
      local by = metric.labels.by
      if last[by] then
        assert.equal(last[by] + 1, metric.value)
      else
        n = n + 1
      end
      last[by] = metric.value
    end
    return n
  end

  it("is replaced by another one when it is killed, and clients find that one at the same address", function()
    start(2)
    local reader = connect()
    reader:till(function() return seen_by(reader) == 3 end)
    assert.equal(node.pid, client:info().holder)
    fork.kill(node.pid, KILL)
    reader:till(function() return reader.ended end)
    local again = connect()
    again:till(function() return seen_by(again) == 2 end)
    again:till(function() return #again.metrics > 500 end)
    assert.equal(2, seen_by(again))
    local left = client:info().holder
    again:close()
    wait.till(function() return core.C.chalk_tap_kinds(client.segment) == 0 end)
    assert.is_true(left > 0 and left ~= node.pid)
  end)

  it("is replaced when it is stopped, and leaves the stream to the other one when it continues", function()
    start(1)
    local reader = connect()
    reader:till(function() return seen_by(reader) == 2 end)
    fork.kill(node.pid, STOP)
    -- The child cannot listen at the port. It has no clients, so it switches the tap off.
    wait.till(function() return client:info().holder ~= node.pid end)
    wait.till(function() return core.C.chalk_tap_kinds(client.segment) == 0 end)
    core.C.chalk_tap_switch(client.segment, 14, 0, 1) -- as if the child had clients
    fork.kill(node.pid, CONTINUE)
    reader:till(function() return reader.ended end)
    assert.equal(14, core.C.chalk_tap_kinds(client.segment))
  end)
end)
