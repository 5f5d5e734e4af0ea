--- A user who loads the rules of `chalk rules` into Prometheus is alerted as the workbook describes. promtool accepts
--- the rules and evaluates them on series as chalk exports them.

local chalk = require "chalk"
local chalk_command = require "support.chalk_command"
local child = require("support.examples").child
local programs = require "support.programs"
local rules = require "chalk.cli.rules"

local CHECKOUT = {
  { name = "checkout", success_rate = 99.9, latency = { threshold = 0.25, percentile = 99 } },
}

local SHOP = [[
local auto = require "chalk.autometrics"
local function nothing() end
local checkout = auto.objective("checkout"):success_rate(99.9):latency(0.25, 99)
return auto.wrap(nothing, { name = "charge", module = "billing", objective = checkout })
]]

-- The input of `promtool test rules`: the rules file, series with a sample each minute, and the expected alerts.
local TEST = [[
rule_files: [ rules.yml ]
evaluation_interval: 5m
tests:
  - interval: 1m
    input_series:
%s
    alert_rule_test:
%s
]]

local promtool = child.find "promtool"

describe("rules", function()
  local folder

  before_each(function() folder = chalk_command.folder() end)
  after_each(function() folder:remove() end)

  local needs = programs.needing(it, "promtool")

  local function run(...)
    local code, output, errors = folder:shell("env -u LD_PRELOAD " .. promtool .. " " .. table.concat({ ... }, " "))
    assert.equal(0, code, output .. errors)
    return output
  end

  local function check(objectives, options)
    local text = rules.generate(objectives, options)
    folder:write("rules.yml", text)
    return text, run "check rules rules.yml"
  end

  needs("of any percentile and latency are accepted by promtool, without duplicates", function()
    local objectives = {}
    for _, percentile in ipairs { 0.5, 50, 90, 97.5, 99.95, 99.99999, 100 } do
      for _, threshold in ipairs { 1e-7, 0.001, 0.3, 1, 2.5, 600, 1e7 } do
        objectives[#objectives + 1] = {
          name = "o",
          success_rate = percentile,
          latency = { threshold = threshold, percentile = percentile },
        }
      end
    end
    local text, output = check(objectives)
    assert.matches("SUCCESS: " .. select(2, text:gsub("\n  %- ", "")) .. " rules found", output)
    assert.falsy(output:find "duplicate")
  end)

  needs("are accepted by promtool whatever characters an objective's name has", function()
    for _, name in ipairs {
      'it\'s "so": {{ $x }} # %s\\',
      "a\nb\r\tc\1\127",
      "d\194\133e\226\128\168f\239\191\191\239\187\191",
      "zahlung é 支付",
      "- x",
      "",
      ("n"):rep(500),
    } do
      check { { name = name, success_rate = 99, latency = { threshold = 1, percentile = 95 } } }
    end
  end)

  needs("are a valid file without groups if there are no objectives", function()
    local _, output = check {}
    assert.matches("SUCCESS: 0 rules found", output)
  end)

  it("are the same text for any order of the objectives, without duplicates", function()
    local a, b = CHECKOUT[1], { name = "browse", success_rate = 90 }
    assert.equal(rules.generate { a, b }, rules.generate { b, a, b })
  end)

  it("record eight windows and the budget, and name the percentile and the threshold", function()
    local text = rules.generate(CHECKOUT)
    for _, window in ipairs { "5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d" } do
      assert.equal(2, select(2, text:gsub("record: slo:sli_error:ratio_rate" .. window .. "\n", "")))
    end
    for _, name in ipairs { "objective", "error_budget", "period_error_budget_remaining" } do
      assert.equal(2, select(2, text:gsub("record: slo:" .. name .. ":ratio\n", "")))
    end
    assert.matches('objective_latency_threshold: "0.25"', text, 1, true)
    assert.matches("vector(0.001)", text, 1, true)
  end)

  it("come with a warning if a page alert cannot fire, or there is no error budget", function()
    local _, warnings = rules.generate { { name = "a", success_rate = 80 }, { name = "b", success_rate = 100 } }
    assert.equal(2, #warnings)
    assert.matches('objective "a", success-rate 80 %: the page alert cannot fire', warnings[1], 1, true)
    assert.matches("no error budget", warnings[2])
    assert.same({}, select(2, rules.generate { { name = "a", success_rate = 90 } }))
  end)

  -- Runs promtool on these lines of input. `at` is a list of times, each with the severities that fire by alert.
  local function test(series, at)
    local alerts = {}
    for _, when in ipairs(at) do
      for _, alert in ipairs { "HighErrorRateSLO", "HighLatencySLO" } do
        alerts[#alerts + 1] = ("      - eval_time: %s\n        alertname: %s"):format(when[1], alert)
        alerts[#alerts + 1] = "        exp_alerts:"
        for _, severity in ipairs(when[alert] or {}) do
          alerts[#alerts + 1] = "          - exp_labels: { " .. when.labels .. ", severity: " .. severity .. " }"
          alerts[#alerts + 1] = "            exp_annotations:"
          alerts[#alerts + 1] = '              summary: "The error budget of checkout is used up too fast"'
          alerts[#alerts + 1] = "              description: " .. ("%q"):format(when.description)
        end
      end
    end
    folder:write("test.yml", TEST:format(table.concat(series, "\n"), table.concat(alerts, "\n")))
    return run "test rules test.yml"
  end

  local function calls(result, values)
    return (
      '      - series: function_calls_total{function="charge",module="billing",service_name="shop",result=%q,'
      .. 'objective_name="checkout",objective_percentile="99.9"}\n        values: %q'
    ):format(result, values)
  end

  local function duration(suffix, label, values, threshold)
    local series = 'function_calls_duration_seconds_%s{function="charge",module="billing",service_name="shop",'
      .. 'objective_name="checkout",objective_percentile="99",objective_latency_threshold="%s"%s}'
    series = series:format(suffix, threshold or "0.25", label)
    return ("      - series: '%s'\n        values: %q"):format(series, values)
  end

  local ERRORS =
    'service_name: shop, objective_name: checkout, objective_percentile: "99.9", category: success-rate'
  local SLOW = 'service_name: shop, objective_name: checkout, objective_percentile: "99", category: latency, '
    .. 'objective_latency_threshold: "0.25"'
  local QUIET = { "ok", "0+1000x6000" }

  local CALLS = " of the calls under objective checkout of shop "

  local function failed(percentage) return percentage .. CALLS .. "failed; the budget is 0.1 % over 30 days." end

  local function slow(percentage)
    return percentage .. CALLS .. "took longer than 0.25 s; the budget is 1 % over 30 days."
  end

  needs("do not alert while the budget lasts", function()
    check(CHECKOUT)
    -- 0.09 % of the calls fail, 0.9 % in one minute, and 0.5 % are slow.
    test({
      calls(unpack(QUIET)),
      calls("error", "0+0.9x2000 1809 1809.9+0.9x3000"),
      duration("count", "", "0+1000x6000"),
      duration("bucket", ',le="0.25"', "0+995x6000"),
    }, { { "10m" }, { "1d" }, { "2005m" }, { "2015m" }, { "3d" }, { "80h" } })
  end)

  needs("page, without a ticket, when minutes of failures take 2 % of the budget", function()
    check(CHECKOUT)
    local firing = { "4325m", HighErrorRateSLO = { "page" }, labels = ERRORS, description = failed "1.667%" }
    -- All calls succeed for three days, then all fail for one minute.
    test({
      calls("ok", "0+1000x4320 4320000 4321000+1000x1000"),
      calls("error", "0x4320 1000x1001"),
    }, { { "4320m" }, firing, { "4340m" }, { "4400m" } })
  end)

  needs("page, without a ticket, when calls are slow for minutes", function()
    check(CHECKOUT)
    local firing = { "4335m", HighLatencySLO = { "page" }, labels = SLOW, description = slow "16%" }
    test({
      duration("count", "", "0+1000x6000"),
      duration("bucket", ',le="0.25"', "0+1000x4323 4323200+200x12 4326400+1000x1000"),
      duration("bucket", ',le="0.5"', "0+1000x6000"),
    }, { { "4320m" }, firing, { "4400m" } })
  end)

  needs("open a ticket, without a page, when the budget would not last the month", function()
    check(CHECKOUT)
    -- 0.4 % of the calls fail, four times too many; 2 % are slow, twice too many.
    local now = {
      "4320m",
      HighErrorRateSLO = { "ticket" },
      labels = ERRORS,
      description = failed "0.3984%",
    }
    test({ calls(unpack(QUIET)), calls("error", "0+4x6000") }, { now })
    local then_slow = { "4320m", HighLatencySLO = { "ticket" }, labels = SLOW, description = slow "2%" }
    test({ duration("count", "", "0+1000x6000"), duration("bucket", ',le="0.25"', "0+980x6000") }, { then_slow })
  end)

  needs("do not alert without calls, and count only the chosen service", function()
    check(CHECKOUT)
    test({ calls("ok", "5x6000"), calls("error", "5x6000") }, { { "1d" }, { "3d" } })
    check(CHECKOUT, { service = "other" })
    test({ calls("ok", "0+1x6000"), calls("error", "0+1x6000") }, { { "1d" } })
  end)

  needs("compute the budget from the calls of 30 days, with and without failures", function()
    check(CHECKOUT)
    local labels =
      '{service_name="shop",objective_name="checkout",objective_percentile="99.9",category="success-rate"}'
    folder:write(
      "test.yml",
      ([[
rule_files: [ rules.yml ]
evaluation_interval: 5m
tests:
  - interval: 1m
    input_series:
%s
    promql_expr_test:
      - expr: round(slo:period_error_budget_remaining:ratio, 0.01)
        eval_time: 400m
        exp_samples: [ { labels: '%s', value: 1 } ]
      - expr: round(slo:period_error_budget_remaining:ratio, 0.01)
        eval_time: 800m
        exp_samples: [ { labels: '%s', value: 0.5 } ]
]]):format(calls("ok", "0+1000x1000") .. "\n" .. calls("error", "_x400 0+0.998x1000"), labels, labels)
    )
    run "test rules test.yml"
  end)

  for _, threshold in ipairs { 0.25, 1, 1e-7, 1e7 } do
    needs(("find the bucket of %g s as chalk exports it"):format(threshold), function()
      local client = chalk.new()
      local series = client:histogram("function_calls_duration", { unit = "seconds", buckets = { threshold } })
      series:record(threshold)
      local bound = client:text():match 'function_calls_duration_seconds_bucket{le="([^"]+)"} 1\n'
      check { { name = "checkout", latency = { threshold = threshold, percentile = 99 } } }
      for _, label in ipairs { bound, (bound:gsub("%.0$", "")) } do
        local firing = {
          "100m",
          HighLatencySLO = { "page", "ticket" },
          labels = SLOW:gsub("0%.25", bound),
          description = slow("20%"):gsub("0%.25", ("%.14g"):format(threshold)),
        }
        test({
          duration("count", "", "0+10x200", label),
          duration("bucket", (",le=%q"):format(bound), "0+8x200", label),
        }, { firing })
      end
    end)
  end
end)

describe("chalk rules", function()
  local folder

  before_each(function()
    folder = chalk_command.folder()
    folder:write("app.lua", SHOP)
  end)

  after_each(function() folder:remove() end)

  it("writes the rules of the modules' objectives to standard output, or to a file", function()
    local code, output, errors = folder:chalk("rules", "--require", "app")
    assert.same({ 0, "" }, { code, errors })
    assert.equal(rules.generate(CHECKOUT), output)
    assert.same({ 0, "", "" }, { folder:chalk("rules", "-rapp", "-o", "rules.yml") })
    assert.equal(output, folder:read "rules.yml")
    folder:shell "mv rules.yml real.yml && ln -s real.yml rules.yml && echo old >real.yml"
    assert.equal(0, (folder:chalk("rules", "-r", "app", "-o", "rules.yml")))
    assert.same({ "app.lua", "real.yml" }, folder:files())
    assert.equal(output, folder:read "real.yml")
    assert.same({ 0, output, "" }, { folder:chalk("rules", "-r", "app", "-o", "/dev/stdout") })
    local _, other = folder:chalk("rules", "-r", "app", "--service", "shop")
    assert.equal(rules.generate(CHECKOUT, { service = "shop" }), other)
    assert.matches('rate(function_calls_total{service_name="shop",', other, 1, true)
  end)

  it("opens no socket of the application, and sends what it prints to standard error", function()
    local service = 'local chalk = require "chalk"\nprint("hello", #arg, arg[0])\nio.write("world\\n")\n'
      .. 'chalk.init { exporters = { chalk.exporter.prometheus { listen = "127.0.0.1:1x" } } }\n'
      .. 'return require "app"\n'
    folder:write("service.lua", service)
    local code, output, errors = folder:chalk("rules", "-r", "service")
    assert.same({ 0, "hello\t0\tnil\nworld\n" }, { code, errors })
    assert.matches("^# Written by `chalk rules`[^\n]*\ngroups:\n", output)
  end)

  it("leaves out objectives that no function has", function()
    folder:write(
      "more.lua",
      'require("chalk.autometrics").objective("idle"):success_rate(90)\nreturn require("app")\n'
    )
    assert.equal(rules.generate(CHECKOUT), select(2, folder:chalk("rules", "-r", "more")))
  end)

  it("warns on standard error, and still writes the rules", function()
    folder:write("app.lua", (SHOP:gsub("99%.9", "50")))
    local code, output, errors = folder:chalk("rules", "-r", "app")
    assert.equal(0, code)
    assert.matches('^chalk: warning: objective "checkout", success%-rate 50 %%: the page alert cannot fire', errors)
    assert.matches("groups:", output)
  end)

  it("leaves the old file as it is when something is wrong", function()
    folder:write("rules.yml", "old")
    folder:write(
      "none.lua",
      'local auto = require "chalk.autometrics"\nauto.wrap(function() end, ' .. '{ name = "a", module = "b" })\n'
    )
    local code, _, errors = folder:chalk("rules", "-r", "none", "-o", "rules.yml")
    assert.same({ 1, "chalk: no wrapped function of none has an objective\n" }, { code, errors })
    assert.equal(1, (folder:chalk("rules", "-r", "nowhere", "-o", "rules.yml")))
    assert.equal("old", folder:read "rules.yml")
    code, _, errors = folder:chalk("rules", "-r", "app", "-o", "nowhere/rules.yml")
    assert.same({ 1, "chalk: cannot write nowhere/rules.yml: no such file or directory\n" }, { code, errors })
  end)

  it("refuses operands and a missing --require", function()
    assert.equal(2, (folder:chalk "rules"))
    local code, _, errors = folder:chalk("rules", "app")
    assert.equal(2, code)
    assert.matches('unexpected operand "app": modules are named by --require', errors, 1, true)
  end)
end)
