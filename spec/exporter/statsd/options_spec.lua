--- The options of the StatsD exporter. If this file fails, init accepts a wrong option or does not say what would be
--- right, or environment variables have another meaning than for Datadog's clients.

local files = require "support.files"
local options = require "chalk.exporter.statsd.options"
local rules = require "chalk.exporter.statsd.rules"
local serial = require "chalk.base.serial"

local function environment(variables)
  return function(name) return variables and variables[name] end
end

local function resolve(given, variables) return assert(options.resolve(given or {}, environment(variables))) end

local function refuses(words, given, variables)
  local resolved, message = options.resolve(given, environment(variables))
  assert.is_nil(resolved)
  assert.truthy(message:find(words, 1, true), message)
end

describe("the options of a statsd exporter", function()
  it("can all be left out, and then a local agent receives distributions", function()
    local got = resolve()
    assert.equal("127.0.0.1:8125", got.address)
    assert.same({ kind = "udp", host = "127.0.0.1", port = 8125 }, got.target)
    assert.equal("dogstatsd", got.dialect)
    assert.equal("distribution", got.histograms)
    assert.same({ 0.5, 0.9, 0.95, 0.99 }, got.quantiles)
    assert.equal(1432, got.max_packet)
    assert.equal(10000, got.max_weight)
    assert.equal("auto", got.container_id)
    assert.equal("always", got.gauges)
    assert.is_false(got.relative_gauges)
    assert.same({}, got.environment_tags)
  end)

  it("have other defaults for a unix socket and for the dialect statsd", function()
    assert.equal(8192, resolve({ address = "unix:///nowhere/dsd.socket" }).max_packet)
    local plain = resolve { dialect = "statsd" }
    assert.equal("percentiles", plain.histograms)
    assert.is_true(plain.relative_gauges)
    assert.is_false(plain.container_id)
    assert.is_false(resolve({ dialect = "statsd", relative_gauges = false }).relative_gauges)
    assert.is_true(resolve({ relative_gauges = true }).relative_gauges)
  end)

  it("reach the flush thread's VM as they were given, even if the caller changes its tables", function()
    local given = {
      address = "[::1]:9125",
      namespace = "my.app",
      global_tags = { env = "prod", shard = 3, canary = false },
      histograms = "buckets",
      buckets = { 1, 2, math.pi },
      quantiles = { 0, 0.999, 1 },
      per_metric = { { match = "full", name = "a", histograms = "histogram", quantiles = { 0.5 } } },
      max_packet = 512,
      timestamps = true,
      container_id = "in-4026532",
      cardinality = "low",
      telemetry = true,
      write_timeout = 0.5,
      gauges = "changed",
      name = "second",
    }
    local got = resolve(given, { DD_ENV = "x" })
    for name, value in pairs(given) do
      assert.same(value, got[name], name)
    end
    assert.same(got, serial.read(serial.write(got)))
    given.per_metric[1].histograms = "timing"
    assert.equal("histogram", got.per_metric[1].histograms)
  end)

  it("send all single values by default, as distributions, or as timers with the dialect statsd", function()
    local got = resolve { histograms = "raw" }
    assert.same({ 1, "distribution", 65536 }, { got.sample_rate, got.raw_type, got.raw_queue })
    assert.equal("timing", resolve({ histograms = "raw", dialect = "statsd" }).raw_type)
    for _, rate in ipairs { 0, 1e-6, 0.3, 1 } do
      assert.equal(rate, resolve({ histograms = "raw", sample_rate = rate }).sample_rate)
    end
    local of_a_rule = { per_metric = { { match = "x", histograms = "raw" } }, sample_rate = 0.5, raw_queue = 9 }
    assert.same({ 0.5, 9 }, { resolve(of_a_rule).sample_rate, resolve(of_a_rule).raw_queue })
  end)

  it("name the bounds of rules, so that they are counted", function()
    assert.is_nil(resolve().counted)
    local list = { { match = "a", buckets = { 1, 4 } }, { match = "b", buckets = { 2, 4 } } }
    assert.same({ 1, 2, 4 }, resolve({ per_metric = list }).counted)
  end)
end)

describe("a statsd exporter's environment", function()
  local agent = { DD_AGENT_HOST = "10.0.0.1", DD_DOGSTATSD_PORT = "9000" }

  it("names the agent's address, but an explicit address wins", function()
    assert.equal("10.0.0.1:9000", resolve({}, agent).address)
    assert.equal("10.0.0.1:8125", resolve({}, { DD_AGENT_HOST = "10.0.0.1" }).address)
    assert.equal("127.0.0.1:9000", resolve({}, { DD_DOGSTATSD_PORT = "9000" }).address)
    assert.equal("agent:1", resolve({ address = "agent:1" }, agent).address)
    agent.DD_DOGSTATSD_URL = "unix:///var/run/datadog/dsd.socket"
    assert.same({ kind = "unix", path = "/var/run/datadog/dsd.socket" }, resolve({}, agent).target)
    agent.DD_DOGSTATSD_URL = "udp://agent"
    assert.same({ kind = "udp", host = "agent", port = 8125 }, resolve({}, agent).target)
  end)

  it("may name the host in every form that orchestrators write", function()
    local function target(host) return resolve({}, { DD_AGENT_HOST = host, DD_DOGSTATSD_PORT = "9" }).target end
    assert.same({ kind = "udp", host = "fd00::1", port = 9 }, target "fd00::1")
    assert.same({ kind = "udp", host = "fd00::1", port = 9 }, target "[fd00::1]")
    assert.same({ kind = "udp", host = "fd00::1", port = 7 }, target "[fd00::1]:7")
    assert.same({ kind = "udp", host = "agent", port = 7 }, target "agent:7")
    assert.same({ kind = "unix", path = "/run/dsd" }, target "unix:///run/dsd")
  end)

  it("counts as absent if it is empty", function()
    local empty = setmetatable({}, { __index = function() return "" end })
    local got = resolve({}, empty)
    assert.equal("127.0.0.1:8125", got.address)
    assert.same({}, got.environment_tags)
    assert.is_nil(got.external_env)
    assert.is_nil(got.cardinality)
  end)

  it("is named in the message if its value is malformed", function()
    refuses(
      "DD_AGENT_HOST and DD_DOGSTATSD_PORT: bad port",
      {},
      { DD_AGENT_HOST = "a", DD_DOGSTATSD_PORT = "99999" }
    )
    refuses("DD_DOGSTATSD_PORT: no port in", {}, { DD_DOGSTATSD_PORT = "tcp" })
    refuses("DD_DOGSTATSD_URL: unknown kind of address", {}, { DD_DOGSTATSD_URL = "tcp://agent:8125" })
  end)

  it(
    "may name a path at which there is no socket yet, even a directory",
    function() assert.equal("unix:///tmp", resolve({}, { DD_DOGSTATSD_URL = "unix:///tmp" }).address) end
  )

  it("adds tags, but global tags win", function()
    local variables = { DD_ENTITY_ID = "pod-1", DD_ENV = "prod", DD_SERVICE = "shop", DD_VERSION = "1.2" }
    local got = resolve({ global_tags = { env = "test", zone = "a" } }, variables)
    local expected = { env = "test", service = "shop", version = "1.2", zone = "a" }
    expected["dd.internal.entity_id"] = "pod-1"
    assert.same(expected, options.tags(got))
    got = resolve({}, variables)
    got.global_tags = { service = "the client's" }
    assert.equal("the client's", options.tags(got).service)
    assert.same({}, resolve({ dialect = "statsd" }, variables).environment_tags)
  end)

  it("sets fields, which cannot forge other fields", function()
    local got = resolve({}, { DD_EXTERNAL_ENV = "it-false,\ncn-x|c:y\195", DD_CARDINALITY = "LOW" })
    assert.equal("it-false,cn-xc:y", got.external_env)
    assert.equal("low", got.cardinality)
    assert.is_nil(resolve({}, { DD_CARDINALITY = "most" }).cardinality)
    assert.equal("high", resolve({ cardinality = "high" }, { DD_CARDINALITY = "low" }).cardinality)
    assert.is_false(resolve({}, { DD_ORIGIN_DETECTION_ENABLED = "false" }).container_id)
    assert.equal("x", resolve({ container_id = "x" }, { DD_ORIGIN_DETECTION_ENABLED = "0" }).container_id)
  end)
end)

describe("a statsd exporter's wrong option", function()
  it("is named with what is allowed", function()
    refuses("address must be a string", { address = 8125 })
    refuses('address must be the address of a server: no port in "localhost"', { address = "localhost" })
    refuses('bad port in "localhost:0": expected 1 to 65535', { address = "localhost:0" })
    refuses('bad host in "my host:8125"', { address = "my host:8125" })
    refuses("dialect must be one of dogstatsd, statsd", { dialect = "graphite" })
    local modes = "histograms must be one of percentiles, distribution, histogram, timing, buckets, raw"
    refuses(modes, { histograms = "mean" })
    refuses("quantiles must be a list of 1 to 32 different numbers from 0 to 1", { quantiles = { 0.5, 1.1 } })
    refuses("quantiles must be", { quantiles = {} })
    refuses("quantiles must be", { quantiles = { 0.5, 0.5 } })
    refuses("quantiles must be", { quantiles = { 0 / 0 } })
    refuses("buckets must be a list of 1 to 64 finite numbers", { buckets = {} })
    local rates = "sample_rate must be a number from 0 to 1; above 0 at least 1e-06"
    for _, rate in ipairs { -0.1, 1.1, 1e-7, 0 / 0, "0.5" } do
      refuses(rates, { histograms = "raw", sample_rate = rate })
    end
    refuses("raw_type must be one of distribution, histogram, timing", { histograms = "raw", raw_type = "gauge" })
    for _, size in ipairs { 0, 1.5, 2 ^ 24 + 1, "100" } do
      refuses("raw_queue must be a whole number from 1 to 16777216", { histograms = "raw", raw_queue = size })
    end
    refuses("max_packet must be a whole number from 64 to 65507", { max_packet = 10 })
    refuses("max_weight must be a whole number from 1 to 1000000", { max_weight = 0 })
    refuses("container_id must be", { container_id = "a|#b" })
    refuses("container_id must be", { container_id = true })
    refuses("cardinality must be one of none, low, orchestrator, high", { cardinality = "all" })
    refuses("telemetry must be true or false", { telemetry = 1 })
    refuses("write_timeout must be a number from 0.001 to 60", { write_timeout = 0 })
    refuses("gauges must be one of always, changed", { gauges = "never" })
    refuses("namespace must be", { namespace = "a|b" })
    refuses("namespace must be", { namespace = "a..b" })
    refuses("aggregates must be a list of count, sum, avg, min, max", { aggregates = { "mean" } })
    refuses("aggregates must be", { aggregates = { "sum", "sum" } })
    refuses("aggregates must be", { aggregates = "sum" })
    refuses("aggregates must be", { aggregates = { sum = true } })
    refuses("have one name in some formats", { global_tags = { ["a.b"] = 1, ["a/b"] = 2 } })
    refuses("global_tags must be", { global_tags = { "env:prod" } })
    refuses("name must be a string", { name = "" })
    refuses("options must be a table", 1)
  end)

  it("is reported together with all others, with suggestions", function()
    refuses('unknown option adress, did you mean "address"?', { adress = "x", dialect = 1 })
    refuses("dialect must be", { adress = "x", dialect = 1 })
  end)

  it("is a max_packet that the constant bytes of a line would fill", function()
    refuses("max_packet must be at least", { max_packet = 128, global_tags = { a = ("x"):rep(100) } })
    resolve { max_packet = 64 }
  end)

  it("is one that needs DogStatsD, with the dialect statsd", function()
    refuses('histograms = "distribution" needs', { dialect = "statsd", histograms = "distribution" })
    refuses('container_id needs the dialect "dogstatsd"', { dialect = "statsd", container_id = "auto" })
    refuses("cardinality needs", { dialect = "statsd", cardinality = "low" })
    refuses("timestamps needs", { dialect = "statsd", timestamps = true })
    refuses(
      'raw_type = "distribution" needs',
      { dialect = "statsd", histograms = "raw", raw_type = "distribution" }
    )
    refuses('raw_type = "histogram" needs', { dialect = "statsd", histograms = "raw", raw_type = "histogram" })
    resolve { dialect = "statsd", histograms = "raw", raw_type = "timing" }
    local list = { { match = "x", histograms = "histogram" } }
    refuses('per_metric[1].histograms = "histogram" needs', { dialect = "statsd", per_metric = list })
  end)

  it("is one of the mode raw if no histogram uses that mode", function()
    refuses('sample_rate needs histograms = "raw"', { sample_rate = 0.5 })
    refuses('sample_rate needs histograms = "raw"', { sample_rate = 1 })
    refuses('raw_type needs histograms = "raw"', { histograms = "distribution", raw_type = "timing" })
    refuses('raw_queue needs histograms = "raw"', { raw_queue = 100, per_metric = { { match = "x" } } })
  end)

  it("is a path at which there can be no socket", function()
    local file = files.make()
    refuses("is a directory", { address = "unix:///tmp" })
    refuses("is not a socket", { address = "unixgram://" .. file })
    refuses("leads through a file", { address = "unixstream://" .. file .. "/x" })
    resolve { address = "unix://" .. files.name() }
    files.clean()
  end)
end)

describe("the rules of per_metric", function()
  local function rule_refused(words, rule) refuses(words, { per_metric = { rule } }) end

  it("are refused with their index if they are wrong", function()
    refuses("per_metric must be a list of rules", { per_metric = "x" })
    refuses("per_metric must be a list of rules", { per_metric = { match = "x" } })
    refuses("per_metric[2] must be a table, it is a string", { per_metric = { { match = "x" }, "x" } })
    rule_refused("per_metric[1]: match must be full, prefix or suffix, with a name, or a Lua pattern", {})
    rule_refused('match = "prefix" needs a name', { match = "prefix" })
    rule_refused('one of full, prefix, suffix, did you mean "prefix"?', { match = "prefx", name = "a" })
    rule_refused("unknown option quantile,", { match = "x", quantile = { 0.5 } })
    rule_refused("quantiles must be", { match = "x", quantiles = 0.5 })
    rule_refused("aggregates must be", { match = "x", aggregates = { "p50" } })
    rule_refused("buckets must be", { match = "x", buckets = {} })
    rule_refused("histograms must be", { match = "x", histograms = 1 })
    rule_refused("sample_rate must be", { match = "x", histograms = "raw", sample_rate = 2 })
  end)

  it("may have a sample_rate only with the mode raw, because differences are never sampled", function()
    rule_refused('per_metric[1].sample_rate needs histograms = "raw"', { match = "x", sample_rate = 0.1 })
    rule_refused("per_metric[1].sample_rate needs", { match = "x", histograms = "timing", sample_rate = 1 })
    local rules_of_raw = { { match = "x", sample_rate = 0.1 }, { match = "y", histograms = "buckets" } }
    assert.equal(0.1, resolve({ histograms = "raw", per_metric = rules_of_raw }).per_metric[1].sample_rate)
    rules_of_raw[2].sample_rate = 0.5
    refuses("per_metric[2].sample_rate needs", { histograms = "raw", per_metric = rules_of_raw })
  end)

  it("accept only valid Lua patterns", function()
    for _, pattern in ipairs { "", "%", "a%", "[a", "[]", "[%", "a(b", "a)b", "%b(", "%fa" } do
      rule_refused("a Lua pattern", { match = pattern })
    end
    for _, pattern in ipairs { "^http%.", "[]]", "[^]x]+$", "%b()", "%f[%w]a", "(a)%1", "[%]]", "a.-b" } do
      resolve { per_metric = { { match = pattern } } }
      assert(pcall(string.find, "http.a", pattern))
    end
  end)

  it("apply in order: the first that matches a metric counts", function()
    local list = {
      { match = "full", name = "http.latency", histograms = "timing" },
      { match = "prefix", name = "http." },
      { match = "suffix", name = "_bytes" },
      { match = "^db%.[^.]+%.seconds$" },
    }
    assert.equal(list[1], rules.of(list, "http.latency"))
    assert.equal(list[2], rules.of(list, "http.latency_bytes"))
    assert.equal(list[3], rules.of(list, "disk.read_bytes"))
    assert.equal(list[4], rules.of(list, "db.users.seconds"))
    assert.is_nil(rules.of(list, "my.http.latency"))
    assert.is_nil(rules.of({}, "a"))
  end)

  it(
    "do not stop a flush if a pattern fails at a match",
    function() assert.is_nil(rules.of({ { match = "a%1" } }, "aa")) end
  )
end)
