--- The contract between exporters and the flush loop (lua/chalk/exporter.lua). If this file fails, an exporter that
--- follows the contract gets other hooks called, or its failures handled in another way, than the contract says.

local chalk = require "chalk"
local collect = require "support.collect"
local contract = require "chalk.exporter"
local descriptors = require "support.descriptors"
local files = require "support.files"
local log = require "chalk.base.log"
local request = require "support.request"
local uv = require "luv"
local wait = require "support.wait"
require "support.examples" -- finds modules of examples/
local web = require "demo.web"

local DRIVERS = { "thread", "loop", "manual" }

local function custom(module, options) return chalk.exporter.custom("support." .. module, options) end

describe("the contract of exporters", function()
  local client, write, said

  before_each(function()
    client, write, said = chalk.new(), log.write, {}
    log.write = function(_, message) said[#said + 1] = message end
  end)

  after_each(function()
    log.write = write
    client:shutdown()
    files.clean()
  end)

  local function refused(options)
    local ok, message = pcall(function() client:init(options) end)
    assert.is_false(ok)
    return message
  end

  describe("with the option listen", function()
    for name, address in pairs {
      ["a path that is missing"] = "unix://",
      ["no port"] = "127.0.0.1",
      ["no host"] = ":9464",
      ["a port that is too high"] = "127.0.0.1:65536",
      ["an open bracket"] = "[::1:9464",
      ["nothing"] = "",
      ["a NUL"] = "localhost:0\0",
    } do
      it("refuses " .. name .. " at the caller's line, and says what would be right", function()
        for _, driver in ipairs(DRIVERS) do
          local exporters = { custom("file_exporter", { path = files.name(), listen = address }) }
          local message = refused { driver = driver, exporters = exporters }
          assert.matches("exporter_spec.lua:%d+: chalk: exporters%[1%] %(support.file_exporter%): ", message)
          assert.matches(
            'listen: bad address ".*": expected "host:port", ".host.:port" or "unix:///path"$',
            message
          )
        end
      end)
    end

    for _, address in ipairs { 9464, true, { "127.0.0.1:9464" } } do
      it("refuses a " .. type(address), function()
        for _, driver in ipairs(DRIVERS) do
          local exporters = { custom("file_exporter", { path = files.name(), listen = address }) }
          local message = refused { driver = driver, exporters = exporters }
          assert.matches("exporter_spec.lua:%d+: chalk: exporters%[1%]", message)
          assert.matches('listen: expected "host:port", .* got a ' .. type(address) .. "$", message)
        end
      end)
    end

    it("accepts every valid form of address, and false for no address", function()
      for _, address in ipairs { false, "127.0.0.1:0", "[::1]:0", "localhost:0", "unix://" .. files.name() } do
        local one = chalk.new()
        local exporters = { custom("file_exporter", { path = files.name(), listen = address }) }
        one:init { driver = "manual", exporters = exporters }
        one:shutdown()
      end
    end)
  end)

  describe("with a handler", function()
    for _, driver in ipairs { "thread", "loop" } do
      it("answers requests at a custom exporter's address, with the driver " .. driver, function()
        local port = web.free_port()
        client:init {
          driver = driver,
          exporters = { custom("serving_exporter", { listen = "127.0.0.1:" .. port }) },
        }
        assert.equal("you asked for /health", request.get(port, { path = "/health" }).body)
      end)
    end

    it("is refused by the driver manual, which has no loop to serve with", function()
      local exporters = { custom("serving_exporter", { listen = "127.0.0.1:" .. web.free_port() }) }
      assert.matches("no loop to listen with", refused { driver = "manual", exporters = exporters })
    end)

    it("that fails after init counts failures, still flushes, and serves once it succeeds", function()
      local path, port, broken = files.name(), web.free_port(), files.make()
      local holder = chalk.new()
      holder:init { driver = "loop", segment_path = path, exporters = { collect.exporter "holder" } }
      local good = collect.exporter "good"
      local listen = "127.0.0.1:" .. port
      client:init { -- it does not hold the role yet, so its init does not call the handler
        driver = "loop",
        segment_path = path,
        exporters = { custom("serving_exporter", { listen = listen, fails_while = broken, name = "bad" }), good },
      }
      holder:shutdown()
      local function failures() return collect.samples(client:text())['chalk_export_errors_total{exporter="bad"}'] end
      local before
      wait.till(function()
        request.turn(0.02)
        before = before or failures() and descriptors.count()
        return (failures() or 0) >= 5
      end)
      assert.equal(before, descriptors.count())
      assert.same({ "exporter bad: no handler yet" }, said)
      client:count("jobs"):inc(3)
      assert.is_true(client:flush())
      assert.equal(3, good.last["jobs{}"].delta)
      os.remove(broken)
      assert.equal(200, request.get(port).status)
    end)
  end)

  it("lets every hook but export be absent", function()
    local host = contract.host { export = function(_, batch) return batch end }
    assert.same({ true, false, false }, { host.deltas, host.serves, host.needs_loop })
    assert.is_nil(host:attach {})
    assert.is_false(host:send_rest())
    assert.is_nil(host:forked())
    assert.is_nil(host:shutdown())
    assert.equal(7, host:export(7))
    for _, none in ipairs { 7, {}, { export = true } } do
      assert.same({ nil, "an exporter must be a table with a method export" }, { contract.host(none) })
    end
  end)

  it("lets chalk.text write the formats that a module names, and no others", function()
    local writer = { text = function(_, view, format) return ("%d ranges as %s"):format(#view.ranges, format) end }
    package.preload["chalk.exporter.words"] = function()
      return { formats = { words = true }, new = function() return writer end }
    end
    finally(function()
      package.preload["chalk.exporter.words"], package.loaded["chalk.exporter.words"] = nil, nil
    end)
    client:count("jobs"):inc()
    assert.matches("^%d+ ranges as words$", client:text "words")
    for _, format in ipairs { "stream", "word", "statsd.raw", "chalk", "" } do
      local ok, message = pcall(client.text, client, format)
      assert.is_false(ok)
      assert.matches('text takes "prometheus", "openmetrics" or "statsd"', message, 1, true)
    end
  end)

  it("calls hooks on the exporter's own object, and attach with the context", function()
    local calls = {}
    local exporter = { name = "all", deltas = false }
    for _, hook in ipairs { "export", "attach", "send_rest", "shutdown" } do
      exporter[hook] = function(self, context)
        assert.equal(exporter, self)
        calls[#calls + 1] = hook
        calls.context = calls.context or context
        return hook == "export"
      end
    end
    client:init { driver = "loop", exporters = { exporter } }
    assert.is_true(client:flush())
    client:shutdown()
    assert.same({ "attach", "export" }, { calls[1], calls[2] })
    local context = calls.context
    assert.same({ client, uv, "all" }, { context.client, context.uv, context.name })
    assert.equal("table", type(context.events))
  end)

  it("turns an error in attach into an error of init, and shuts down only the exporters attached before", function()
    local shut = {}
    local function exporter(name, attach)
      return {
        name = name,
        export = function() return true end,
        attach = attach,
        shutdown = function() shut[#shut + 1] = name end,
      }
    end
    for _, driver in ipairs { "loop", "manual" } do
      local list = { exporter "first", exporter("second", function() error("no room", 0) end), exporter "third" }
      assert.matches("chalk: exporter second: no room$", refused { driver = driver, exporters = list })
    end
    assert.same({ "first", "first" }, shut)
  end)
end)
