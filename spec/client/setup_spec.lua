--- An init that fails leaves no port, no file and no thread behind, so that the next one succeeds.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local broken = require "support.broken_exporters"
local children = require "support.children"
local core = require "chalk.core"
local files = require "support.files"
local ports = require "support.ports"
local request = require "support.request"
local uv = require "luv"

local DRIVERS = { "thread", "loop", "manual" }

-- Makes a segment in which a C host has defined as many metrics as fit.
local function fill_segment(path)
  local C, ffi = core.C, core.ffi
  local segment = C.chalk_segment_open(nil, ffi.new("chalk_options", { path = path }), core.message)
  local writer = C.chalk_writer_open(segment, core.message)
  local n = 0
  repeat
    n = n + 1
    local d, name = ffi.new "chalk_definition", "metric" .. n
    d.name, d.name_size, d.shape, d.blob, d.kind = name, #name, "", "", C.CHALK_COUNT
  until C.chalk_define(writer, d, core.message) < 0
  return {
    close = function()
      C.chalk_writer_close(writer)
      C.chalk_segment_close(segment)
    end,
  }
end

describe("an init that fails", function()
  local client, uninstall

  before_each(function()
    client = chalk.new()
    uninstall = broken.install()
    for name in pairs(package.loaded) do
      if name:find "^broken_" then package.loaded[name] = nil end
    end
  end)

  after_each(function()
    client:shutdown()
    uninstall()
    files.clean()
  end)

  local function assert_refused(words, options)
    local ok, message = client:try_init(options)
    assert.is_nil(ok)
    assert.matches(words, message, 1, true)
  end

  local function prometheus(listen) return chalk.exporter.prometheus { listen = listen } end

  local function custom(module, options) return chalk.exporter.custom(module, options) end

  local LATE = "the disk is not there"

  local function raises() return custom "broken_raises_in_new" end

  for _, driver in ipairs(DRIVERS) do
    describe("with the driver " .. driver, function()
      it("leaves no port open that accepts connections and never answers", function()
        local port, path = ports.tcp(), files.name()
        local list = { prometheus("127.0.0.1:" .. port), prometheus("unix://" .. path), raises() }
        -- The driver `manual` has no loop, so exporters cannot listen, and init fails for that reason.
        local words = driver == "manual" and "no loop to listen with" or LATE
        if driver == "manual" then list[3] = nil end
        local function assert_free()
          local response, problem = request.get(port)
          assert.same({ nil, "ECONNREFUSED" }, { response, problem })
          assert.is_nil(uv.fs_lstat(path))
        end
        assert_refused(words, { driver = driver, exporters = list })
        assert_free()
        assert.is_true(client:try_init {
          driver = driver,
          exporters = { custom("support.file_exporter", {
            path = files.name(),
          }) },
        })
        assert_free()
      end)

      it("lets the next one listen at the same address and answer", function()
        if driver == "manual" then return end
        local port = ports.tcp()
        local good = prometheus("127.0.0.1:" .. port)
        assert_refused(LATE, { driver = driver, exporters = { good, raises() } })
        client:count("jobs"):inc(3)
        assert.is_true(client:try_init { driver = driver, exporters = { good } })
        assert.matches("\njobs_total 3\n", request.get(port).body, 1, true)
      end)

      it("because a module could not be loaded may be repeated", function()
        local once = custom("broken_raises_at_load_once", { path = files.name() })
        local options = { driver = driver, exporters = { once } }
        assert_refused("not mounted yet", options)
        if driver == "thread" then return end -- it loads modules in a VM of its own, each time
        assert.is_true(client:try_init(options))
      end)

      it(
        "because a module raised an object names the exporter",
        function()
          assert_refused("exporter broken_raises_object: a table that cannot be shown", {
            driver = driver,
            exporters = { custom "broken_raises_object" },
          })
        end
      )

      it("when an exporter begins to serve leaves no loop that reads a closed segment", function()
        if driver == "manual" then return end
        local port = ports.tcp()
        assert_refused("no handler", {
          driver = driver,
          exporters = {
            prometheus("127.0.0.1:" .. port),
            custom("broken_raises_in_handler", { listen = "127.0.0.1:" .. ports.tcp() }),
          },
        })
        local timer = uv.new_timer()
        timer:start(250, 0, function() timer:close() end)
        uv.run()
        assert.is_nil((request.get(port)))
        assert.is_true(client:try_init { driver = driver, exporters = { prometheus("127.0.0.1:" .. port) } })
        assert.equal(200, request.get(port).status)
      end)

      it("calls shutdown of the exporters that it had made", function()
        local path = files.name()
        local first = custom("support.file_exporter", { path = path })
        assert_refused(LATE, { driver = driver, exporters = { first, raises() } })
        assert.equal("shutdown\n", files.read(path))
      end)

      it("keeps none of its options", function()
        local kept = {}
        local function on_error(message) kept[#kept + 1] = message end
        local latency = client:histogram "latency"
        local before = client:info()
        assert_refused(LATE, {
          driver = driver,
          strict = true,
          on_error = on_error,
          max_series = 7,
          buckets = { 1 },
          exporters = { raises() },
        })
        assert.equal(before.max_series, client:info().max_series)
        assert.equal(before.memory_limit, client:info().memory_limit)
        latency:record(0.2)
        assert.matches('latency_bucket{le="0.25"} 1', client:text(), 1, true)
        assert.has_error(function() client:count("jobs"):inc(-1) end)
        assert.same({}, kept)
        client:init { driver = driver }
      end)

      it("leaves the event tap off", function()
        client:histogram("latency"):record(1)
        local raw = chalk.exporter.statsd { address = "127.0.0.1:" .. ports.tcp(), histograms = "raw" }
        assert_refused(LATE, { driver = driver, exporters = { raw, raises() } })
        assert.equal(0, core.C.chalk_tap_kinds(client.segment))
      end)

      it("gives its segment_path back", function()
        local refused, taken = files.name(), files.name()
        assert_refused(LATE, { driver = driver, segment_path = refused, exporters = { raises() } })
        client:count("jobs"):inc()
        client:shutdown()
        client = chalk.new()
        assert_refused(LATE, { driver = driver, segment_path = refused, exporters = { raises() } })
        assert.is_true(client:try_init { driver = driver, segment_path = taken })
        client:count("jobs"):inc(3)
        local other = chalk.new { segment_path = taken }
        assert.equal(3, other:count("jobs"):value())
        other = chalk.new { segment_path = refused }
        assert.equal(0, other:count("jobs"):value())
      end)
    end)
  end

  it("of the client that all VMs share gives its segment_path back", function()
    local code, output = children.run(
      [[
      local chalk = require "chalk"
      package.preload.broken = function() return { new = function() error("no disk", 0) end } end
      local function try(path, exporters)
        return chalk.try_init { driver = "manual", segment_path = path, exporters = exporters }
      end
      print(try(arg[1], { chalk.exporter.custom("broken") }))
      print(try(arg[2]))
      chalk.count("jobs"):inc(3)
      print(chalk.new({ segment_path = arg[2] }):count("jobs"):value())
    ]],
      {},
      files.name(),
      files.name()
    )
    assert.same({ 0, "nil\texporter broken: no disk\ntrue\n3\n" }, { code, output })
  end)

  it("because an exporter takes too long does not close the segment under it", function()
    local code, output = children.run(
      [[
      local core, wait = require "chalk.core", require "support.wait"
      local C = core.C
      core.C = setmetatable({ -- shorter times
        chalk_thread_wait_ready = function(t, _, message) return C.chalk_thread_wait_ready(t, 0.5, message) end,
        chalk_thread_wait = function(t) return C.chalk_thread_wait(t, 0.1) end,
      }, { __index = C })
      require "chalk.flush.driver.thread"
      core.C = C
      local chalk = require "chalk"
      local client = chalk.new()
      local slow = chalk.exporter.custom("broken_waits_in_new", { path = arg[1] })
      print(client:try_init { exporters = { slow } })
      print(client:try_init())
      client:count("jobs"):inc()
      io.open(arg[1], "w"):close()
      wait.sleep(0.5)
      print(client:count("jobs"):value())
    ]],
      {},
      files.name()
    )
    assert.same({ 0, "nil\tthe flush thread did not start in time\ntrue\n1\n" }, { code, output })
  end)

  it("because a module is missing says so even if another process flushes", function()
    local path = files.name()
    local holder = chalk.new {
      segment_path = path,
      exporters = { custom("support.file_exporter", {
        path = files.name(),
      }) },
    }
    assert.is_true(holder:flush())
    for module, words in pairs {
      broken_absent = "module 'broken_absent' not found",
      broken_not_a_table = "no function new",
      broken_raises_at_load = "no such library",
    } do
      assert_refused(words, { segment_path = path, exporters = { custom(module) } })
    end
    assert.is_nil(package.loaded.broken_not_a_table) -- it was tried in a VM of its own
    holder:shutdown()
  end)

  it("because chalk's own metrics do not fit leaves the client as new", function()
    local path = files.name()
    local held = fill_segment(path)
    assert_refused("no room for the definition of chalk.", { segment_path = path })
    assert.is_nil(client.segment)
    client:count("jobs"):inc(2)
    assert.is_true(client:try_init())
    assert.matches("\njobs_total 2\n", client:text(), 1, true)
    held.close()
  end)
end)
