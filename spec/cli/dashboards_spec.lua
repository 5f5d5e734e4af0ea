--- A user who opens the dashboards of `chalk dashboards` sees numbers in every panel. A real Prometheus scrapes the
--- example shop and the example service and evaluates the shop's rules. It answers every expression of every panel with
--- the numbers of the load. Halfway a new version of the shop is deployed, in which a quarter of the orders fails.

local cjson = require "cjson"
local chalk_command = require "support.chalk_command"
local examples = require "support.examples"
local programs = require "support.programs"
local prometheus = require "support.prometheus"
local shops = require "support.shop"
local uv = require "luv"
local web = require "demo.web"

local PAUSE = 40 -- milliseconds between two orders, and two requests of the service

-- Values that Grafana would substitute for the variables.
local VARIABLES = {
  __rate_interval = "10s",
  top = "10",
  service = "shop",
  objective = "checkout|browse",
  job = ".*",
  instance = ".*",
  module = "orders",
  ["function"] = "place",
}

local function filled(expression)
  return (
    expression:gsub("%$([%a_]+)", function(name) return assert(VARIABLES[name], "no such variable: " .. name) end)
  )
end

local function panels_of(dashboard)
  local panels = {}
  for _, panel in ipairs(dashboard.panels) do
    if panel.type ~= "row" then panels[#panels + 1] = panel end
  end
  return panels
end

local function panel_of(dashboard, title)
  for _, panel in ipairs(dashboard.panels) do
    if panel.title == title then return panel end
  end
  error("no panel " .. title)
end

describe("a dashboard", function()
  local folder, server, shop, service, stop_orders, requests
  local dashboards = {}

  local function generate()
    local metrics = chalk_command.checkout .. "/examples/metrics.json"
    assert.equal(0, (folder:chalk("dashboards", "-o", "out")))
    assert.equal(0, (folder:chalk("dashboards", "-o", "out/", metrics)))
    for _, name in ipairs(folder:files()) do
      dashboards[name:match "^out/(.*)%.json$"] = cjson.decode(folder:read(name))
    end
    local code, rules = folder:chalk("rules", "-r", "shop.orders", "-I", chalk_command.checkout .. "/examples")
    assert.equal(0, code)
    return rules
  end

  local function request_all_the_time(port)
    local timer = uv.new_timer()
    timer:start(0, PAUSE, function()
      examples.client.get(port, "/fast", function() end)
    end)
    return timer
  end

  local function deploy(version, port, metrics_port)
    if shop then shop:stop() end
    shop = shops.start(version, port, metrics_port)
    assert.same({ [version] = 1 }, server:settle({ [version] = 1 }, "build_info", "version"))
  end

  setup(function()
    folder = chalk_command.folder()
    local rules = generate()
    if not prometheus.find() then return end
    local port, metrics_port = web.free_port(), web.free_port()
    service = examples.child.service(examples.folder)
    server = prometheus.start({ shop = metrics_port, service = service.metrics_port }, { rules = rules })
    requests = request_all_the_time(service.port)
    deploy("1.4.0", port, metrics_port)
    stop_orders = select(2, shops.load(port, PAUSE))
    assert.equal(2, #server:await("slo:period_error_budget_remaining:ratio", function(s) return #s == 2 end, 60))
    deploy("1.5.0", port, metrics_port)
    assert(server:await("ALERTS", function(s) return #s >= 2 end, 60))
  end)

  teardown(function()
    if requests then requests:close() end
    if stop_orders then stop_orders() end
    for _, one in ipairs { server or false, shop or false, service or false } do
      if one then one:stop() end
    end
    folder:remove()
  end)

  local needs = programs.needing(it, "prometheus")

  local function number(dashboard, title)
    local samples = assert(server:query(filled(panel_of(dashboards[dashboard], title).targets[1].expr)))
    return samples[1].value, samples
  end

  for name, panels in pairs { overview = 7, ["function-explorer"] = 9, objectives = 7, metrics = 5 } do
    needs("called " .. name .. " has numbers in every panel", function()
      assert.equal(panels, #panels_of(dashboards[name]))
      for _, panel in ipairs(panels_of(dashboards[name])) do
        for _, target in ipairs(panel.targets) do
          local where = ("%s: %s"):format(panel.title, target.expr)
          local samples, message = server:await(filled(target.expr), function(s) return #s > 0 end, 10)
          assert.truthy(samples, where .. ": " .. tostring(message))
          assert.is_true(#samples > 0, where)
          for _, sample in ipairs(samples) do
            assert.equal(sample.value, sample.value, where .. " is not a number")
          end
        end
      end
    end)

    needs("called " .. name .. " offers values for every variable", function()
      for _, variable in ipairs(dashboards[name].templating.list) do
        if variable.type == "query" then
          local selector, label = variable.query.query:match "^label_values%((.*), ([%a_]+)%)$"
          local values = assert(server:api("label/" .. label .. "/values", { ["match[]"] = filled(selector) }))
          assert.is_true(#values > 0, variable.query.query)
        end
      end
    end)
  end

  needs("of functions shows the rates of the load, and the version that fails", function()
    local function await_value(dashboard, title, value, category)
      local expression, found = filled(panel_of(dashboards[dashboard], title).targets[1].expr), nil
      server:await(expression, function(samples)
        for _, sample in ipairs(samples) do
          local wanted = category and sample.metric.category == category or sample.metric.version == "1.5.0"
          if wanted or #samples == 1 then found = sample end
        end
        return found and math.abs(found.value - value) <= 0.05 * value
      end, 40)
      assert.near(value, found.value, 0.05 * value, title)
      return found
    end
    -- An order is one call of place, find and charge each, and two of reserve. A quarter of the calls of place and
    -- charge fail.
    await_value("overview", "Calls that fail", 0.1)
    await_value("overview", "Calls per second", 5 * 1000 / PAUSE)
    assert.equal(4, (number("overview", "Functions")))
    local _, versions = number("overview", "Processes by version")
    assert.same({ { metric = { version = "1.5.0" }, value = 1 } }, versions)
    local missed = "Share of calls that miss the objective, over 5 minutes"
    await_value("objectives", missed, 0, "latency")
    VARIABLES.module, VARIABLES["function"] = "billing", "charge"
    finally(function()
      VARIABLES.module, VARIABLES["function"] = "orders", "place"
    end)
    local failing = await_value("function-explorer", "Calls that fail", 0.25)
    assert.same(
      { "1.5.0", "charge", "billing" },
      { failing.metric.version, failing.metric["function"], failing.metric.module }
    )
    await_value("function-explorer", "Calls per second", 1000 / PAUSE)
    local slow = number("function-explorer", "Duration, 99th percentile")
    assert.is_true(slow > 0.1 and slow <= 0.25)
    await_value("metrics", "request_count, per second", 1000 / PAUSE)
  end)

  needs("of objectives shows the firing alerts of the success rate, and none of the latency", function()
    local _, alerts = number("objectives", "Alerts")
    local firing = {}
    for _, alert in ipairs(alerts) do
      firing[#firing + 1] = alert.metric.alertname .. " " .. alert.metric.severity .. " " .. alert.metric.alertstate
    end
    table.sort(firing)
    assert.same({ "HighErrorRateSLO page firing", "HighErrorRateSLO ticket firing" }, firing)
  end)

  it("of metrics.json has a row for each namespace, and a heatmap and quantiles for a histogram", function()
    local found = {}
    for _, panel in ipairs(dashboards.metrics.panels) do
      found[#found + 1] = panel.type .. " " .. panel.title
    end
    assert.same({
      "row metrics",
      "timeseries uptime",
      "row http",
      "timeseries request_count, per second",
      "heatmap request_latency",
      "timeseries request_latency, quantiles",
      "timeseries requests_in_flight",
    }, found)
    local heatmap = panel_of(dashboards.metrics, "request_latency")
    assert.equal("heatmap", heatmap.targets[1].format)
    assert.equal("From a request's head to its answer", heatmap.description)
    assert.equal(3, #panel_of(dashboards.metrics, "request_latency, quantiles").targets)
    assert.equal("s", panel_of(dashboards.metrics, "uptime").fieldConfig.defaults.unit)
  end)

  it("has panels that do not overlap, unique ids, and JSON arrays where Grafana expects them", function()
    for name, dashboard in pairs(dashboards) do
      local taken, ids = {}, {}
      for _, panel in ipairs(dashboard.panels) do
        assert.is_nil(ids[panel.id])
        ids[panel.id] = true
        local at = panel.gridPos
        assert.is_true(at.x + at.w <= 24)
        for x = at.x, at.x + at.w - 1 do
          for y = at.y, at.y + at.h - 1 do
            assert.is_nil(taken[x * 10000 + y], name .. ": " .. panel.title)
            taken[x * 10000 + y] = true
          end
        end
      end
      local text = folder:read("out/" .. name .. ".json")
      assert.falsy(text:find('"panels": {', 1, true) or text:find('"overrides": {', 1, true))
    end
  end)
end)

describe("chalk dashboards", function()
  local folder

  before_each(function() folder = chalk_command.folder() end)
  after_each(function() folder:remove() end)

  it("writes the same files in each run, into folders that it creates", function()
    local code, output, errors = folder:chalk("dashboards", "-o", "a/b")
    assert.same(
      { 0, "a/b/function-explorer.json\na/b/objectives.json\na/b/overview.json\n", "" },
      { code, output, errors }
    )
    local before = folder:read "a/b/overview.json"
    assert.equal(0, (folder:chalk("dashboards", "--output=a/b/")))
    assert.equal(before, folder:read "a/b/overview.json")
    assert.equal(3, #folder:files())
  end)

  it("puts the exporter's namespace before the names", function()
    folder:write("metrics.json", '{ "metrics": [{ "name": "up", "type": "gauge" }] }')
    assert.equal(0, (folder:chalk("dashboards", "-o", "my", "--namespace", "my", "metrics.json")))
    local dashboard = cjson.decode(folder:read "my/metrics.json")
    assert.equal('my_up{job=~"$job",instance=~"$instance"}', dashboard.panels[2].targets[1].expr)
    assert.same({ "my metrics", "chalk-my-metrics" }, { dashboard.title, dashboard.uid })
  end)

  it("queries labels that a scrape renames by their new names", function()
    folder:write(
      "m.json",
      [[{ "tags": { "job": { "value_type": "string" } },
      "metrics": [{ "name": "runs", "type": "count", "tags": [{ "tag": "job" }] }] }]]
    )
    assert.equal(0, (folder:chalk("dashboards", "-o", ".", "--title", "Cron jobs!", "m.json")))
    assert.matches("sum by (exported_job) (rate(runs_total{", folder:read "m.json", 1, true)
    assert.matches('"uid": "chalk-cron-jobs"', folder:read "m.json", 1, true)
  end)

  it("writes nothing when a file is wrong or defines no metrics", function()
    folder:write("good.json", '{ "metrics": [{ "name": "up", "type": "gauge" }] }')
    folder:write("bad.json", '{ "metrics": [{ "name": "up", "type": "guage" }] }')
    folder:write("none.json", "{}")
    folder:write("other/good.json", '{ "metrics": [{ "name": "down", "type": "gauge" }] }')
    local code, output, errors = folder:chalk("dashboards", "-o", "out", "good.json", "bad.json")
    assert.same({ 1, "" }, { code, output })
    assert.equal('chalk: bad.json: metrics[1].type: unknown type "guage", did you mean "gauge"?\n', errors)
    code, errors = folder:chalk("dashboards", "-o", "out", "none.json")
    assert.same({ 1, "" }, { code, errors })
    assert.equal(2, (folder:chalk("dashboards", "-o", "out", "good.json", "other/good.json")))
    assert.equal(2, (folder:chalk("dashboards", "-o", "out", "--title", "t", "good.json", "bad.json")))
    assert.equal(2, (folder:chalk("dashboards", "-o", "out", "--namespace", "a-b", "good.json")))
    assert.equal(2, (folder:chalk("dashboards", "-o", "out", "--namespace", "a")))
    assert.equal(2, (folder:chalk "dashboards"))
    assert.equal(1, (folder:chalk("dashboards", "-o", "good.json")))
    assert.is_nil(folder:read "out/good.json")
    assert.equal(4, #folder:files())
  end)
end)
