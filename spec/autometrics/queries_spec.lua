--- The queries and links that a user gets are valid PromQL and URLs whatever characters the names have.

local autometrics = require "chalk.autometrics"
local chalk_command = require "support.chalk_command"
local instrumented = require "support.instrumented"
local programs = require "support.programs"
local queries = require "chalk.autometrics.queries"

local BUILD = "on (instance, job, service_name) group_left (version, commit) "
  .. "topk by (instance, job, service_name) (1, build_info)"
local KEPT = "function, module, service_name, version, commit"

describe("the queries of a function", function()
  it("are pure functions of its names and options", function()
    local selector = 'function="f",module="m"'
    assert.equal(
      ("sum by (%s) (rate(function_calls_total{%s}[5m]) * %s)"):format(KEPT, selector, BUILD),
      queries.request_rate("f", "m")
    )
    assert.equal(
      ("histogram_quantile(0.95, sum by (le, %s) (rate(function_calls_duration_seconds_bucket{%s}[1h]) * %s))"):format(
        KEPT,
        selector,
        BUILD
      ),
      queries.latency_p95("f", "m", { interval = "1h" })
    )
    assert.equal(
      ('sum by (%s) (function_calls_concurrent{%s,service_name="s"} * %s)'):format(KEPT, selector, BUILD),
      queries.concurrency("f", "m", { service_name = "s" })
    )
    local called = 'function_calls_total{caller_function="f",caller_module="m"}'
    assert.equal(("sum by (%s) (rate(%s[5m]) * %s)"):format(KEPT, called, BUILD), queries.calls("f", "m"))
    local failed = 'function_calls_total{caller_function="f",caller_module="m",result="error"}'
    assert.equal(
      ("sum by (%s) (rate(%s[5m]) * %s) / (%s > 0)"):format(KEPT, failed, BUILD, queries.calls("f", "m")),
      queries.calls_error_ratio("f", "m")
    )
    local variable = 'function_calls_total{module="$module"}[$__rate_interval]'
    assert.equal(
      ("sum by (%s) (rate(%s) * %s)"):format(KEPT, variable, BUILD),
      queries.request_rate(nil, "$module", { interval = "$__rate_interval" })
    )
    assert.equal(("sum by (%s) (rate(function_calls_total[5m]) * %s)"):format(KEPT, BUILD), queries.request_rate())
  end)

  it("are the same for a wrapped function and for its names, and exist as links too", function()
    local auto = instrumented.new { service_name = "shop", prometheus_url = "https://prom.example/p/" }
    local f = auto.wrap(function() end, { name = "f", module = "m" })
    local of_f = auto.queries(f)
    assert.same(of_f, auto.queries { name = "f", module = "m" })
    local names = {}
    for name, query in pairs(of_f) do
      names[#names + 1] = name
      assert.is_truthy(query:find('service_name="shop"', 1, true), query)
      local link = auto.links(f)[name]
      local start, stop = "^https://prom%.example/p/graph%?g0%.expr=", "&g0%.tab=0&g0%.range_input=1h$"
      local encoded = link:match(start .. "([%w%-._~%%]+)" .. stop)
      assert.is_truthy(encoded, link)
      assert.equal(query, (encoded:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)))
    end
    table.sort(names)
    assert.same({
      "calls",
      "calls_error_ratio",
      "concurrency",
      "error_ratio",
      "latency_p95",
      "latency_p99",
      "request_rate",
    }, names)
    assert.is_truthy(auto.queries(f, { interval = "30s" }).request_rate:find("[30s]", 1, true))
  end)

  it("name the service, unless its name is only that of the program that runs", function()
    local client = require("chalk").new()
    local auto = autometrics.new(client)
    local metrics = auto.wrap(function() end, { name = "f", module = "m" }) and client:text()
    local service = metrics:match 'function_calls_total{[^}]*service_name="([^"]+)"'
    local checkout = metrics:find 'build_info{[^}]*repository_url="'
    local query = auto.queries({ name = "f", module = "m" }).request_rate
    assert.equal(checkout ~= nil, query:find(("service_name=%q"):format(service), 1, true) ~= nil)
    local folder = chalk_command.folder()
    finally(function() folder:remove() end)
    folder:write(
      "lua/users.lua",
      [[
      local M = {}
      function M.find() end
      return require("chalk.autometrics").module("users", M)]]
    )
    assert.equal(0, (folder:chalk("annotate", "-r", "users", "lua")))
    local text = folder:read "lua/users.lua"
    assert.is_truthy(text:find("function%3D%22find%22", 1, true), text)
    assert.is_nil(text:find("service_name%3D", 1, true), text)
    local again = chalk_command.command("annotate", "-r", "users", "lua")
    assert.equal(0, (folder:shell("AUTOMETRICS_SERVICE_NAME=app " .. again)))
    assert.is_truthy(folder:read("lua/users.lua"):find("service_name%3D%22app%22", 1, true))
  end)

  it("are accepted by promtool, whatever characters a name has", function()
    local promtool = programs.need "promtool"
    if not promtool then return end
    local path = os.tmpname()
    local file = io.open(path, "w")
    file:write "groups:\n- name: a\n  rules:\n"
    local n = 0
    for _, name in ipairs { "f", 'quote"d', "back\\slash", "new\nline", "{}", "ünï", "$x", "%41" } do
      for _, query in pairs(autometrics.queries { name = name, module = name }) do
        n = n + 1
        file:write(("  - record: r%d\n    expr: %s\n"):format(n, (require("cjson").encode(query):gsub("\\/", "/"))))
      end
    end
    file:close()
    local pipe = io.popen(("env -u LD_PRELOAD %s check rules %s 2>&1; echo exit:$?"):format(promtool, path))
    local output = pipe:read "*a"
    pipe:close()
    os.remove(path)
    assert.equal(56, n)
    assert.is_truthy(output:find("exit:0\n", 1, true), output)
  end)
end)
