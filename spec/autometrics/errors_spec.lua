--- Somebody who made a mistake is told which, at their line, and nothing is half done.

local children = require "support.children"
local instrumented = require "support.instrumented"

local function f() end

describe("autometrics refuses", function()
  local auto, client

  before_each(function()
    auto, client = instrumented.new()
  end)

  -- The message is in the words given, and is at the line that called.
  local function refused(words, body, ...)
    local before = client:text()
    local ok, message = pcall(body, ...)
    assert.is_false(ok, "it is accepted")
    assert.is_truthy(message:find "^spec/autometrics/errors_spec%.lua:%d+: chalk%.autometrics: ", message)
    assert.is_truthy(message:find(words, 1, true), message)
    assert.equal(before, client:text())
  end

  it("to wrap what is no function", function()
    for _, what in ipairs { 1, "f", {}, true } do
      refused(
        "wrap takes a function, not " .. type(what),
        function() local _ = auto.wrap(what, { name = "f" }) or 1 end
      )
    end
    refused("wrap takes a function, not nil", function() local _ = auto.wrap(nil) or 1 end)
  end)

  it("a function without a name or a module that could be found", function()
    refused("no name to be found for the function at spec/autometrics/errors_spec.lua:", function()
      local _ = auto.wrap((function()
        return function() end
      end)()) or 1
    end)
    refused(
      "no name to be found for a function without a source file",
      function() local _ = auto.wrap(print) or 1 end
    )
    refused(
      "no module to be found for a function without a source file: give it one, { module = ... }",
      function() local _ = auto.wrap(print, { name = "print" }) or 1 end
    )
    refused("no name to be found", function() local _ = auto.wrap(f, { name = "", module = "m" }) or 1 end)
  end)

  it("the same name twice in one module, and a whole module for it", function()
    local wrapped = auto.wrap(f, { name = "a", module = "users" })
    refused(
      '"a" of module "users" is wrapped twice, first at spec/autometrics/errors_spec.lua:',
      function() local _ = auto.wrap(f, { name = "a", module = "users" }) or 1 end
    )
    local users = { A = f, a = f, b = f }
    refused('"a" of module "users" is wrapped twice', function() local _ = auto.module("users", users) or 1 end)
    assert.same({ A = f, a = f, b = f }, users)
    assert.equal(1, #auto.functions())
    wrapped()
    auto.wrap(f, { name = "a", module = "others" })
  end)

  it("options that are not known or not what they should be", function()
    for words, options in pairs {
      ['unknown option nmae, did you mean "name"?'] = { nmae = "x" },
      ["name must be a text of UTF-8, at most 512 bytes"] = { name = 1 },
      ["module must be a text"] = { module = "\255" },
      ["objective must be what auto.objective returns"] = { objective = "checkout" },
      ["ok_if must be a function"] = { ok_if = true },
      ["error_if must be a function"] = { error_if = 1 },
      ["concurrent must be true or false"] = { concurrent = 1 },
      ["type must be the name of a type, or false"] = { type = "" },
      ["the name of a function is a text"] = { name = ("x"):rep(512), module = "m", type = "T" },
    } do
      refused(words, function() local _ = auto.wrap(f, options) or 1 end)
    end
    refused("options are a table", function() local _ = auto.wrap(f, "name") or 1 end)
    refused(
      "name must be a text",
      function() local _ = auto.wrap(f, { name = ("x"):rep(513), module = "m" }) or 1 end
    )
    refused(
      'objective "empty" has neither a success rate nor a latency',
      function() local _ = auto.wrap(f, { name = "f", module = "m", objective = auto.objective "empty" }) or 1 end
    )
  end)

  it("modules that are none", function()
    refused("module takes a table of functions, not nil", function() local _ = auto.module "users" or 1 end)
    refused("a module's name is a text", function() local _ = auto.module({}, {}) or 1 end)
    refused("a module's name is a text", function() local _ = auto.module("", {}) or 1 end)
    refused(
      'skip names finnd, which is no function of it, did you mean "find"?',
      function() local _ = auto.module("users", { find = f }, { skip = { "finnd" } }) or 1 end
    )
    refused(
      "the name of a function is a text",
      function() local _ = auto.module("users", { a = f, ["\255"] = f }) or 1 end
    )
    assert.same({}, auto.functions())
  end)

  it("percentiles outside 0 to 100, and latencies that are not positive", function()
    for _, percentile in ipairs { -0.1, 100.1, 0 / 0, "99", {} } do
      refused(
        'objective "o": a percentile is a number from 0 to 100, not',
        function() local _ = auto.objective("o"):success_rate(percentile) or 1 end
      )
      refused(
        'objective "o": a percentile is a number from 0 to 100, not',
        function() local _ = auto.objective("o"):latency(1, percentile) or 1 end
      )
    end
    for _, latency in ipairs { 0, -1, math.huge, 0 / 0, "1" } do
      refused(
        'objective "o": a latency is a number of seconds above 0, not',
        function() local _ = auto.objective("o"):latency(latency, 99) or 1 end
      )
    end
    assert.same({ { name = "o" } }, auto.objectives())
    assert.same({ 0, 100 }, {
      auto.objective("a"):success_rate(0):describe().success_rate,
      auto.objective("b"):success_rate(100):describe().success_rate,
    })
  end)

  it("an objective that means two things, or is added to when it is in use", function()
    local o = auto.objective("o"):success_rate(99):latency(1, 99)
    refused('objective "o" has success rate 99 already, not 95', function() local _ = o:success_rate(95) or 1 end)
    refused('objective "o" has latency 1 already, not 2', function() local _ = o:latency(2, 99) or 1 end)
    refused(
      'objective "o" has latency percentile 99 already, not 95',
      function() local _ = o:latency(1, 95) or 1 end
    )
    local used = auto.objective("used"):success_rate(99)
    auto.wrap(f, { name = "f", module = "m", objective = used })
    refused('objective "used" is in use and cannot be added to', function() local _ = used:latency(1, 99) or 1 end)
    refused("an objective's name is a text", function() local _ = auto.objective() or 1 end)
    refused("an objective's name is a text", function() local _ = auto.objective "" or 1 end)
  end)

  it("more buckets than a histogram has", function()
    local bounds = {}
    for i = 1, 64 do
      bounds[i] = i
    end
    auto, client = instrumented.new { service_name = "s", buckets = bounds }
    refused(
      "the buckets of durations have to be a list of 1 to 64 finite numbers",
      function() local _ = auto.objective("o"):latency(0.5, 99) or 1 end
    )
    assert.same({ { name = "o" } }, auto.objectives())
  end)

  it("init twice, and options of init that are wrong", function()
    refused("init was called twice", function() local _ = auto.init() or 1 end)
    auto, client = instrumented.new(false)
    for words, options in pairs {
      ["unknown option servicename"] = { servicename = "x" },
      ["service_name must be a text"] = { service_name = 1 },
      ["prometheus_url must be an http or https URL"] = { prometheus_url = "prom.example" },
      ["buckets must be a list"] = { buckets = { 2, 1 } },
    } do
      refused(words, function() local _ = auto.init(options) or 1 end)
    end
    refused(
      "prometheus_url must be an http or https URL",
      function() local _ = auto.init { prometheus_url = "http://prom.example/ x" } or 1 end
    )
    auto.init { service_name = "right" }
  end)

  it("queries of what is not instrumented", function()
    for _, what in ipairs { f, {}, "f", { name = "f" }, { name = 1, module = 2 } } do
      refused(
        "queries takes a wrapped function, or { name = ..., module = ... }",
        function() local _ = auto.queries(what) or 1 end
      )
      refused("links takes a wrapped function", function() local _ = auto.links(what) or 1 end)
    end
    for _, interval in ipairs { "5 minutes", "0m", "", "5", "m", 5 } do
      refused(
        "an interval is a duration of Prometheus, such as 5m, not " .. tostring(interval),
        function() local _ = auto.queries({ name = "f", module = "m" }, { interval = interval }) or 1 end
      )
    end
    for _, interval in ipairs { "1h30m", "500ms", "1y" } do
      local query = auto.queries({ name = "f", module = "m" }, { interval = interval }).request_rate
      assert.is_truthy(query:find("[" .. interval .. "]", 1, true))
    end
    refused("new takes what chalk.new returns", function() local _ = auto.new {} or 1 end)
  end)

  it("metrics of the application with its names", function()
    local chalk = require "chalk"
    client = chalk.new()
    client:gauge "build_info"
    auto = require("chalk.autometrics").new(client)
    for _ = 1, 2 do
      refused("build_info", function() local _ = auto.wrap(f, { name = "f", module = "m" }) or 1 end)
    end
    assert.same({}, auto.functions())
  end)

  it("an environment that is wrong, by the variable's name", function()
    local code, output =
      children.run('require("chalk.autometrics").init()', { env = { PROMETHEUS_URL = "nowhere" } })
    assert.equal(1, code)
    assert.is_truthy(output:find("PROMETHEUS_URL must be an http or https URL", 1, true), output)
  end)
end)

describe("autometrics warns", function()
  it("of an objective's name with characters that other tools may not take, once", function()
    local code, output = children.run [[
      local auto = require("chalk.autometrics")
      for _, name in ipairs { "checkout (99%)", "-checkout", "ch\195\169ckout" } do
        auto.objective(name):success_rate(99)
        auto.objective(name)
      end
      auto.objective("check out")
      auto.objective("check-out_2")]]
    assert.equal(0, code)
    local words = ": names of letters, digits, _, - and spaces, - not first, work with every tool\n"
    assert.equal(
      ('chalk: warning: objective "checkout (99%%)"%s'):format(words)
        .. ('chalk: warning: objective "-checkout"%s'):format(words)
        .. ('chalk: warning: objective "ch\195\169ckout"%s'):format(words),
      output
    )
  end)
end)
