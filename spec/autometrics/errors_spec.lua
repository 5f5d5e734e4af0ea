--- A user who makes a mistake gets a message that names it, at the line of the call, and nothing is left half done.

local children = require "support.children"
local instrumented = require "support.instrumented"

local function f() end

describe("autometrics refuses", function()
  local auto, client

  before_each(function()
    auto, client = instrumented.new()
  end)

  -- The call fails with a message that has these words and the line of the call.
  local function refused(words, body, ...)
    local before = client:text()
    local ok, message = pcall(body, ...)
    assert.is_false(ok, "the call was accepted")
    assert.is_truthy(message:find "^spec/autometrics/errors_spec%.lua:%d+: chalk%.autometrics: ", message)
    assert.is_truthy(message:find(words, 1, true), message)
    assert.equal(before, client:text())
  end

  it("to wrap a value that is not a function", function()
    for _, what in ipairs { 1, "f", {}, true } do
      refused(
        "wrap takes a function, not " .. type(what),
        function() local _ = auto.wrap(what, { name = "f" }) or 1 end
      )
    end
    refused("wrap takes a function, not nil", function() local _ = auto.wrap(nil) or 1 end)
  end)

  it("a function whose name or module cannot be found", function()
    refused("the function at spec/autometrics/errors_spec.lua:", function()
      local _ = auto.wrap((function()
        return function() end
      end)()) or 1
    end)
    refused(
      "a function without a source file has no name in its source: give it one with { name = ... }",
      function() local _ = auto.wrap(print) or 1 end
    )
    refused(
      "a function without a source file has no module in its source: give it one with { module = ... }",
      function() local _ = auto.wrap(print, { name = "print" }) or 1 end
    )
    refused("has no name", function() local _ = auto.wrap(f, { name = "", module = "m" }) or 1 end)
  end)

  it("the same name twice in one module, and then wraps nothing of a module", function()
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

  it("options that are unknown or of the wrong type", function()
    for words, options in pairs {
      ['unknown option nmae, did you mean "name"?'] = { nmae = "x" },
      ["name must be UTF-8 text of at most 512 bytes"] = { name = 1 },
      ["module must be UTF-8 text"] = { module = "\255" },
      ["objective must be what auto.objective returns"] = { objective = "checkout" },
      ["ok_if must be a function"] = { ok_if = true },
      ["error_if must be a function"] = { error_if = 1 },
      ["concurrent must be true or false"] = { concurrent = 1 },
      ["type must be the name of a type, or false"] = { type = "" },
      ["the name of a function must be UTF-8 text"] = { name = ("x"):rep(512), module = "m", type = "T" },
    } do
      refused(words, function() local _ = auto.wrap(f, options) or 1 end)
    end
    refused("options must be a table", function() local _ = auto.wrap(f, "name") or 1 end)
    refused(
      "name must be UTF-8 text",
      function() local _ = auto.wrap(f, { name = ("x"):rep(513), module = "m" }) or 1 end
    )
    refused(
      'objective "empty" has neither a success rate nor a latency',
      function() local _ = auto.wrap(f, { name = "f", module = "m", objective = auto.objective "empty" }) or 1 end
    )
  end)

  it("modules that are no table, have no name, or lack a function to skip", function()
    refused("module takes a table of functions, not nil", function() local _ = auto.module "users" or 1 end)
    refused("the name of a module must be UTF-8 text", function() local _ = auto.module({}, {}) or 1 end)
    refused("the name of a module must be UTF-8 text", function() local _ = auto.module("", {}) or 1 end)
    refused(
      'skip: the table has no function finnd, did you mean "find"?',
      function() local _ = auto.module("users", { find = f }, { skip = { "finnd" } }) or 1 end
    )
    refused(
      "the name of a function must be UTF-8 text",
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

  it("an objective that is changed, or gets more once a function has it", function()
    local o = auto.objective("o"):success_rate(99):latency(1, 99)
    refused(
      'objective "o" already has success rate 99: it cannot change to 95',
      function() local _ = o:success_rate(95) or 1 end
    )
    refused(
      'objective "o" already has latency 1: it cannot change to 2',
      function() local _ = o:latency(2, 99) or 1 end
    )
    refused(
      'objective "o" already has latency percentile 99: it cannot change to 95',
      function() local _ = o:latency(1, 95) or 1 end
    )
    local used = auto.objective("used"):success_rate(99)
    auto.wrap(f, { name = "f", module = "m", objective = used })
    refused(
      'objective "used" is in use: set its rate and latency before a function has it',
      function() local _ = used:latency(1, 99) or 1 end
    )
    refused("the name of an objective must be UTF-8 text", function() local _ = auto.objective() or 1 end)
    refused("the name of an objective must be UTF-8 text", function() local _ = auto.objective "" or 1 end)
  end)

  it("a latency that is one bound more than a histogram can have", function()
    local bounds = {}
    for i = 1, 64 do
      bounds[i] = i
    end
    auto, client = instrumented.new { service_name = "s", buckets = bounds }
    refused(
      "the buckets of durations must be a list of 1 to 64 finite numbers",
      function() local _ = auto.objective("o"):latency(0.5, 99) or 1 end
    )
    assert.same({ { name = "o" } }, auto.objectives())
  end)

  it("init twice, and options of init that are wrong", function()
    refused("init was called twice", function() local _ = auto.init() or 1 end)
    auto, client = instrumented.new(false)
    for words, options in pairs {
      ["unknown option servicename"] = { servicename = "x" },
      ["service_name must be UTF-8 text"] = { service_name = 1 },
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

  it("queries of a function that is not instrumented, and intervals that are none", function()
    for _, what in ipairs { f, {}, "f", { name = "f" }, { name = 1, module = 2 } } do
      refused(
        "queries takes a wrapped function, or { name = ..., module = ... }",
        function() local _ = auto.queries(what) or 1 end
      )
      refused("links takes a wrapped function", function() local _ = auto.links(what) or 1 end)
    end
    for _, interval in ipairs { "5 minutes", "0m", "", "5", "m", 5 } do
      refused(
        "interval must be a Prometheus duration such as 5m, not " .. tostring(interval),
        function() local _ = auto.queries({ name = "f", module = "m" }, { interval = interval }) or 1 end
      )
    end
    for _, interval in ipairs { "1h30m", "500ms", "1y" } do
      local query = auto.queries({ name = "f", module = "m" }, { interval = interval }).request_rate
      assert.is_truthy(query:find("[" .. interval .. "]", 1, true))
    end
    refused("new takes what chalk.new returns", function() local _ = auto.new {} or 1 end)
  end)

  it("to wrap when the application has a metric with one of its names", function()
    local chalk = require "chalk"
    client = chalk.new()
    client:gauge "build_info"
    auto = require("chalk.autometrics").new(client)
    for _ = 1, 2 do
      refused("build_info", function() local _ = auto.wrap(f, { name = "f", module = "m" }) or 1 end)
    end
    assert.same({}, auto.functions())
  end)

  it("an environment variable that is not valid, and names it", function()
    local code, output =
      children.run('require("chalk.autometrics").init()', { env = { PROMETHEUS_URL = "nowhere" } })
    assert.equal(1, code)
    assert.is_truthy(output:find("PROMETHEUS_URL must be an http or https URL", 1, true), output)
  end)
end)

describe("autometrics warns", function()
  it("once of an objective's name with characters that other tools may not accept", function()
    local code, output = children.run [[
      local auto = require("chalk.autometrics")
      for _, name in ipairs { "checkout (99%)", "-checkout", "ch\195\169ckout" } do
        auto.objective(name):success_rate(99)
        auto.objective(name)
      end
      auto.objective("check out")
      auto.objective("check-out_2")]]
    assert.equal(0, code)
    local words = ": some tools accept only letters, digits, _, - and spaces, and no - at the start\n"
    assert.equal(
      ('chalk: warning: objective "checkout (99%%)"%s'):format(words)
        .. ('chalk: warning: objective "-checkout"%s'):format(words)
        .. ('chalk: warning: objective "ch\195\169ckout"%s'):format(words),
      output
    )
  end)
end)
