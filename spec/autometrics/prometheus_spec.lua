--- A real Prometheus scrapes the example shop, of which a new version is deployed halfway. The queries answer with what
--- the customers did, and show that the new version is worse.

local uv = require "luv"
local cjson = require "cjson"
local examples = require "support.examples"
local programs = require "support.programs"
local servers = require "support.prometheus"
local shops = require "support.shop"
local web = require "demo.web"

local child = examples.child

local INTERVAL = 8 -- seconds: the range of rates
local PHASE = 14 -- seconds that each version runs
local PAUSE = 40 -- milliseconds between two orders

-- Sends orders for the time of a phase.
local function order_for(port, seconds)
  local made, stop = shops.load(port, PAUSE)
  local deadline = uv.hrtime() + seconds * 1e9
  child.wait(function() return uv.hrtime() > deadline end, seconds + 10)
  made.till = shops.wall()
  stop()
  return made
end

-- Returns the orders per second that were sent in the interval before a time.
local function rate_of(made, till)
  local n = 0
  for _, at in ipairs(made.sent) do
    if at > till - INTERVAL and at <= till then n = n + 1 end
  end
  return n / INTERVAL
end

describe("the queries of instrumented functions, in a real Prometheus", function()
  local prometheus, shop
  local before, after -- the orders that each version got
  local functions, links = {}, {}

  -- Waits until Prometheus has scraped all orders; `seen` is the time.
  local function scraped(made)
    local since = ("timestamp(up) > %.3f"):format(shops.wall())
    assert.equal(1, #prometheus:await(since, function(samples) return samples[1] end, 30))
    made.seen = shops.wall()
  end

  local function queries_of(port)
    for _, f in ipairs(cjson.decode(examples.get(port, "/queries").body)) do
      for name, query in pairs(f.queries) do
        f.queries[name] = query:gsub("%[5m%]", ("[%ds]"):format(INTERVAL))
      end
      functions[f.name], links[f.name] = f.queries, f.links
    end
  end

  setup(function()
    if not servers.find() then return end
    local metrics_port = web.free_port()
    prometheus = servers.start({ shop = metrics_port }, { every = "500ms" })
    uv.os_setenv("PROMETHEUS_URL", "http://127.0.0.1:" .. prometheus.port .. "/")
    local port = web.free_port()
    shop = shops.start("1.4.0", port, metrics_port)
    assert.same({ ["1.4.0"] = 1 }, prometheus:settle({ ["1.4.0"] = 1 }, "build_info", "version"))
    queries_of(port)
    before = order_for(port, PHASE)
    scraped(before)
    shop:stop()
    shop = shops.start("1.5.0", port, metrics_port)
    after = order_for(port, PHASE)
    scraped(after)
  end)

  teardown(function()
    uv.os_unsetenv "PROMETHEUS_URL"
    if shop then shop:stop() end
    if prometheus then prometheus:stop() end
  end)

  local needs = programs.needing(it, "prometheus")

  local function one(found, id)
    local n = 0
    for _ in pairs(found) do
      n = n + 1
    end
    assert.equal(1, n, cjson.encode(found))
    return assert(found[id], id .. " is not in " .. cjson.encode(found))
  end

  local function range(expression, from, till, step)
    local parameters = { query = expression, start = from, ["end"] = till, step = step }
    return assert(prometheus:api("query_range", parameters)).result
  end

  local function near(expected, found, part)
    assert.is_true(math.abs(found - expected) <= expected * part, ("%g is not %g"):format(found, expected))
  end

  needs("are all answered", function()
    local asked = 0
    for _, queries in pairs(functions) do
      for _, query in pairs(queries) do
        assert(prometheus:query(query, after.till))
        asked = asked + 1
      end
    end
    assert.equal(4 * 7, asked)
  end)

  needs("have a series for every function, called or not, and count every call", function()
    for _, made in pairs { before, after } do
      local found =
        prometheus:values("sum by (function, result) (function_calls_total)", made.seen, "function", "result")
      local orders = #made.sent
      assert.equal(orders, found["place ok"] + found["place error"])
      assert.equal(made.statuses[200], found["place ok"])
      assert.equal(made.statuses[500], found["place error"])
      assert.same(
        { orders, 0, 2 * orders, 0 },
        { found["find ok"], found["find error"], found["reserve ok"], found["reserve error"] }
      )
      assert.equal(made.statuses[500], found["charge error"])
    end
  end)

  needs("give the rate of calls, and of the calls that a function makes", function()
    for version, made in pairs { ["1.4.0"] = before, ["1.5.0"] = after } do
      local rate =
        one(prometheus:values(functions.place.request_rate, made.till, "function", "version"), "place " .. version)
      near(rate_of(made, made.till), rate, 0.15)
      local calls = prometheus:values(functions.place.calls, made.till, "function", "version")
      near(rate, calls["find " .. version], 0.05)
      near(2 * rate, calls["reserve " .. version], 0.05)
      near(rate, calls["charge " .. version], 0.15)
      assert.same({}, prometheus:values(functions.find.calls, made.till))
    end
  end)

  needs("give the share of failures by version, so that a deploy that made things worse shows", function()
    local labels = { "function", "module", "service_name", "version" }
    local good =
      one(prometheus:values(functions.charge.error_ratio, before.till, unpack(labels)), "charge billing shop 1.4.0")
    local bad =
      one(prometheus:values(functions.charge.error_ratio, after.till, unpack(labels)), "charge billing shop 1.5.0")
    assert.near(1 / 20, good, 0.03)
    assert.near(1 / 4, bad, 0.05)
    assert.same({ ["1.5.0"] = 0 }, prometheus:values(functions.find.error_ratio, after.till, "version"))
    -- Over the time of both versions there are two lines.
    local lines = {}
    for _, line in ipairs(range(functions.charge.error_ratio, before.till - 3, after.till, 1)) do
      lines[line.metric.version] = tonumber(line.values[#line.values][2])
      assert.is_truthy(line.metric.commit == nil or line.metric.commit:find "^%x+$")
    end
    assert.is_true(lines["1.4.0"] < 0.1 and lines["1.5.0"] > 0.2, cjson.encode(lines))
  end)

  needs("give the share of failures among the calls that a function makes, by the called function", function()
    for version, made in pairs { ["1.4.0"] = before, ["1.5.0"] = after } do
      local of_place = prometheus:values(functions.place.calls_error_ratio, made.till, "function", "version")
      local own = one(prometheus:values(functions.charge.error_ratio, made.till, "version"), version)
      assert.near(own, of_place["charge " .. version], 0.01)
      assert.equal(0, of_place["find " .. version])
    end
    assert.same({}, prometheus:values(functions.find.calls_error_ratio, after.till))
  end)

  needs("give the quantiles that the buckets of the durations give", function()
    local buckets = "sum by (le) (rate(function_calls_duration_seconds_bucket{function=%q}[%ds]))"
    for version, made in pairs { ["1.4.0"] = before, ["1.5.0"] = after } do
      for key, quantile in pairs { latency_p95 = 0.95, latency_p99 = 0.99 } do
        for _, name in ipairs { "place", "reserve" } do
          local found = one(prometheus:values(functions[name][key], made.till, "version"), version)
          local direct = ("histogram_quantile(%g, %s)"):format(quantile, buckets:format(name, INTERVAL))
          assert.near(prometheus:values(direct, made.till)[""], found, 1e-9)
          -- `place` calls `charge`, which waits for 150 ms. In 1.5.0 one charge in four fails at once.
          assert.equal(name == "place", found > 0.1, name .. ": " .. found)
        end
      end
    end
  end)

  needs("give the number of calls in progress", function()
    local sum, n = 0, 0
    for _, line in ipairs(range(functions.place.concurrency, before.till - 8, before.till, 0.5)) do
      assert.equal("1.4.0", line.metric.version)
      for _, value in ipairs(line.values) do
        sum, n = sum + tonumber(value[2]), n + 1
      end
    end
    -- Little's law: the calls in progress are the calls per second, times the duration of each.
    local place = 'function_calls_duration_seconds_%s{function="place"}'
    local seconds = prometheus:values(place:format "sum" .. " / on () " .. place:format "count", before.till)[""]
    near(rate_of(before, before.till) * seconds, sum / n, 0.35)
    assert.same({ ["1.5.0"] = 0 }, prometheus:values(functions.place.concurrency, nil, "version"))
    assert.same({}, prometheus:values(functions.charge.concurrency, nil))
  end)

  needs("open as charts in a browser, with a line for each version", function()
    local browser = programs.need("chromium", "chromium-browser", "google-chrome")
    if not browser then return end
    local link = links.charge.error_ratio
    assert.is_truthy(link:find("http://127.0.0.1:" .. prometheus.port .. "/graph?", 1, true), link)
    -- Debian 13 leaves out the React user interface. The page at the link says so, and the graph is below /classic.
    local moved = prometheus:get("/graph"):find("does not include the modern React web UI", 1, true)
    if moved then link = link:gsub("/graph%?", "/classic%0") end
    local command = (
      "env -u LD_PRELOAD timeout 60 '%s' --headless --no-sandbox --disable-gpu "
      .. "--user-data-dir='%s/browser' --virtual-time-budget=15000 --window-size=1200,900 %s '%s' 2>/dev/null"
    )
    link = link:gsub("range_input=1h", "range_input=1m")
    local function browse(what)
      local pipe = io.popen(command:format(browser, prometheus.folder, what, link))
      local output = pipe:read "*a"
      pipe:close()
      return output
    end
    local page = browse "--dump-dom"
    for _, version in ipairs { "1.4.0", "1.5.0" } do
      local label = ("version=(.-)%s"):format(version:gsub("%.", "%%."))
      assert.is_truthy(page:find(label), "no line of " .. version .. " in the page")
    end
    assert.is_truthy(page:find "<svg" or page:find "<canvas", "no graph in the page")
    assert.is_nil(page:find("Error executing query", 1, true))
    local screenshot = os.getenv "SCREENSHOT" -- a file for a picture of the page
    if screenshot then browse("--screenshot=" .. screenshot) end
  end)
end)
