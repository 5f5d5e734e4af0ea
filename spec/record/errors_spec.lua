--- A wrong record is an error at the program's line and is counted, and no other record is lost with it.

package.path = "spec/?.lua;" .. package.path

local bad_records = require "support.bad_records"
local chalk = require "chalk"
local children = require "support.children"
local collect = require "support.collect"
local documents = require "support.documents"
local files = require "support.files"

local WITHOUT_JIT = [[
  %s
  local client = require("chalk").new()
  local bad_records = require "support.bad_records"
  local cases = bad_records.of(client, (client:load(require("support.documents").service())))
  for _, case in ipairs(cases) do
    local problem = bad_records.problem(case)
    if problem then print(case.name .. ": " .. problem) end
  end
  print(#cases > 40)
]]

describe("a wrong record", function()
  local client, metrics

  before_each(function()
    client = chalk.new()
    metrics = client:load(documents.service())
  end)

  after_each(files.clean)

  describe("is refused at the caller's line, with what is allowed:", function()
    local one = chalk.new()
    for _, case in ipairs(bad_records.of(one, (one:load(documents.service())))) do
      it(case.name, function() assert.is_nil(bad_records.problem(case)) end)
    end
  end)

  it("is refused with the same message without the JIT compiler", function()
    local code, output = children.run(WITHOUT_JIT:format "jit.off()")
    assert.same({ 0, "true\n" }, { code, output })
  end)

  it("is counted by its kind, and stores nothing", function()
    local series = metrics.http.request_count:with("/", "success")
    pcall(series.inc, series, -1)
    pcall(series.inc, series, 0.5)
    pcall(series.set, series, 1)
    pcall(function() return metrics.http.request_count:with("/", "sucess") end)
    assert.equal(0, series:value())
    local seen = collect.samples(client:text())
    assert.equal(2, seen['chalk_errors_total{kind="value"}'])
    assert.equal(1, seen['chalk_errors_total{kind="verb"}'])
    assert.equal(1, seen['chalk_errors_total{kind="tag"}'])
    assert.is_nil(client:text():find("sucess", 1, true))
  end)

  it("of an operation does not add to its count", function()
    local op = client:op "pair"
    pcall(op.record, op, "x")
    assert.equal(0, metrics.pair:value())
  end)

  describe("with on_error", function()
    local said

    before_each(function()
      said = {}
      client = chalk.new { on_error = function(message) said[#said + 1] = message end }
      metrics = client:load(documents.service())
    end)

    it("is passed to it, and only that record is dropped", function()
      local series = metrics.http.request_count:with("/", "success")
      series:inc(-1)
      series:set(3)
      series:inc()
      assert.equal(1, series:value())
      assert.equal(2, #said)
      assert.matches("http.request_count: .*whole number", said[1])
      assert.equal(
        2,
        (collect.samples(client:text())['chalk_errors_total{kind="value"}'] or 0)
          + (collect.samples(client:text())['chalk_errors_total{kind="verb"}'] or 0)
      )
    end)

    it("yields a series whose verbs do nothing", function()
      metrics.http.request_count({ endpont = "/" }):inc()
      metrics.http.request_count:with("/", "sucess"):inc(7)
      metrics.http.request_count:inc()
      metrics.http.open(nil):set(1)
      local latency = metrics.http.request_latency { endpoint = {} }
      latency:record(1)
      latency:start()()
      assert.equal("x", latency:time(function() return "x" end))
      assert.equal(0, latency:value():count())
      assert.equal(5, #said)
      assert.equal(
        5,
        collect.samples(client:text())['chalk_errors_total{kind="tag"}']
          + collect.samples(client:text())['chalk_errors_total{kind="verb"}']
      )
    end)

    it("never keeps the application's function from being called", function()
      local returned = metrics.http.request_latency:time(function() return "ran" end)
      local stop = metrics.http.request_latency:start()
      stop()
      assert.equal("ran", returned)
      local series = metrics.http.open:with "/"
      assert.equal("ran", series:time(function() return "ran" end))
      series:start()()
      local lookup = client:op("lookup", { tags = { { tag = "cache" } } })
      assert.equal("ran", lookup:time(function() return "ran" end))
      lookup:record(1)
      lookup({ cach = 1 }):record(1)
      assert.equal(7, #said)
    end)

    it("is passed to it if the verb does not exist, too", function()
      metrics.http.request_count:with("/", "success"):observe(1)
      metrics.http.request_count:labels("/"):inc()
      metrics.uptime:add(1)
      metrics.http.request_count:with("/", "sucess"):observe(1)
      metrics.http.request_latency:with("/", "success"):time(1)
      metrics.uptime:time(1)
      assert.equal(6, #said)
      assert.equal(0, metrics.http.request_latency:with("/", "success"):value():count())
    end)

    it("is passed to it every time in a compiled loop", function()
      local series = metrics.http.request_count:with("/", "success")
      for i = 1, 1000 do
        series:inc(i % 10 == 0 and 0.5 or 1)
      end
      assert.equal(900, series:value())
      assert.equal(100, #said)
    end)
  end)

  it("does not include a callable object that is timed", function()
    local latency = metrics.http.request_latency:with("/", "success")
    assert.equal("called", latency:time(setmetatable({}, { __call = function() return "called" end })))
    assert.equal(1, latency:value():count())
  end)

  it("does not include the names that functions ask for which print tables", function()
    assert.is_nil(metrics.uptime.__name)
    assert.is_nil(metrics.uptime[1])
  end)

  for _, name in ipairs { "load", "count", "gauge", "histogram", "op", "init", "flush", "shutdown", "text", "info" } do
    it("is a client's " .. name .. " called with a dot: an error at that line", function()
      local line = debug.getinfo(1, "l").currentline + 1
      local ok, message = pcall(function() client[name] "x" end)
      assert.is_false(ok)
      assert.equal(
        ("spec/record/errors_spec.lua:%d: chalk: %s must be called on a client, with a colon: client:%s(...)"):format(
          line,
          name,
          name
        ),
        (message:gsub("^.*/spec/", "spec/"))
      )
    end)
  end

  it("is refused and counted by its own client after the modules were loaded again", function()
    local script = [[
      local before = require("chalk").new()
      before:count("c", { tags = { { tag = "t" } } })
      for name in pairs(package.loaded) do
        if name:find("^chalk") then package.loaded[name] = nil end
      end
      local after = require("chalk").new()
      local series = after:count("c", { tags = { { tag = "t" } } }):with("x")
      local ok, message = pcall(function() series:inc(-1) end)
      local latency = after:histogram("h", { tags = { { tag = "t" } } }):with("x")
      latency:record(0 / 0)
      print(ok, message:match("c: a count takes"), after:text():match('kind="not_finite"} (%d)'),
        before:text():match('kind="not_finite"} (%d)'))
    ]]
    assert.same({ 0, "false\tc: a count takes\t1\tnil\n" }, { children.run(script) })
  end)

  it("is passed to an on_error that init sets later", function()
    local message
    client:init { on_error = function(m) message = m end }
    metrics.uptime:set "x"
    assert.matches("uptime", message)
  end)

  describe("under strict", function()
    it("includes an unknown tag beside known ones, on every call", function()
      local strict = chalk.new { strict = true }
      local count = strict:load(documents.service()).http.request_count
      for _ = 1, 100 do
        count({ endpoint = "/", status = "success" }):inc()
      end
      local _, message = pcall(function() local _ = count { endpoint = "/", status = "success", zone = "x" } end)
      assert.matches('errors_spec.lua:%d+: http.request_count: unknown tag "zone"', message)
      assert.equal(100, count:with("/", "success"):value())
    end)

    it("includes it for metrics that were loaded before init", function()
      local count = metrics.http.request_count
      count({ endpoint = "/", status = "success" }):inc()
      client:init { strict = true }
      assert.has_error(function() count({ endpoint = "/", status = "success", zone = "x" }):inc() end)
    end)
  end)
end)
