--- A real Prometheus scrapes the example shop, which is deployed anew in the middle: what the queries answer is what
--- the customers did, and the version that is worse shows.

local uv = require("luv")
local cjson = require("cjson")
local examples = require("support.examples")
local web = require("demo.web")

local child = examples.child

local INTERVAL = 8 -- seconds, that rates are over
local PHASE = 14 -- of each version
local PAUSE = 40 -- milliseconds between two orders
local DEADLINE = 30

local CONFIG = [[
global: { scrape_interval: 500ms, scrape_timeout: 500ms }
scrape_configs:
  - job_name: shop
    static_configs: [ { targets: [ "127.0.0.1:%d" ] } ]
]]

local function start_shop(version, port, metrics_port)
  local shop = child.spawn(uv.exepath(), {
    examples.folder .. "shop.lua", version, tostring(port), tostring(metrics_port), "--stdin",
  })
  if not child.wait(function() return shop.output:find("listening on") end, 10) then
    shop:stop()
    error("the shop does not start: " .. shop.output)
  end
  return shop
end

local Prometheus = {}
Prometheus.__index = Prometheus

local function start_prometheus(path, target)
  local folder = assert(uv.fs_mkdtemp("/tmp/chalk-prometheus-XXXXXX"))
  local self = setmetatable({ folder = folder, port = web.free_port() }, Prometheus)
  local file = assert(io.open(folder .. "/config.yml", "wb"))
  file:write(CONFIG:format(target))
  file:close()
  self.process = child.spawn(child.find("env"), {
    "-u", "LD_PRELOAD", path, "--config.file=" .. folder .. "/config.yml", "--storage.tsdb.path=" .. folder .. "/data",
    "--web.listen-address=127.0.0.1:" .. self.port, "--log.level=error",
  })
  return self
end

function Prometheus:stop()
  self.process:stop()
  os.execute("rm -rf '" .. self.folder .. "'")
end

local function encoded(text)
  return (text:gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end))
end

function Prometheus:api(path)
  local response = child.await(function(done) examples.client.get(self.port, "/api/v1/" .. path, done) end, 10)
  local answer = response and cjson.decode(response.body)
  if answer and answer.status ~= "success" then error(path .. ": " .. tostring(answer.error)) end
  return answer and answer.data
end

--- The answer, by the values of these labels; as of a time, if one is given.
function Prometheus:query(expression, at, ...)
  local path = "query?query=" .. encoded(expression) .. (at and ("&time=%.3f"):format(at) or "")
  local found = {}
  for _, sample in ipairs(self:api(path).result) do
    local labels = {}
    for i, name in ipairs({ ... }) do
      labels[i] = sample.metric[name] or ""
    end
    local id = table.concat(labels, " ")
    assert(not found[id], "twice: " .. id)
    found[id] = tonumber(sample.value[2])
  end
  return found
end

local function wall() return select(1, uv.gettimeofday()) + select(2, uv.gettimeofday()) / 1e6 end

-- Orders, one every PAUSE milliseconds whatever becomes of those before. Their numbers go on over a deploy.
local order = 0

local function load(port, seconds)
  local made = { answers = 0, refused = 0, sent = {}, statuses = {} }
  local timer, deadline = uv.new_timer(), uv.hrtime() + seconds * 1e9
  local last, now
  timer:start(0, PAUSE, function()
    order = order + 1
    made.sent[#made.sent + 1] = wall()
    examples.client.get(port, "/order/" .. order, function(response)
      made.answers = made.answers + 1
      local status = response and response.status or 0
      made.statuses[status] = (made.statuses[status] or 0) + 1
    end)
  end)
  child.wait(function() return uv.hrtime() > deadline end, seconds + 10)
  now = wall()
  timer:close()
  last = #made.sent
  assert(child.wait(function() return made.answers == last end, 20), "orders are not answered")
  made.till = now
  return made
end

-- Orders a second that were sent in the interval before a time.
local function rate_of(made, till)
  local n = 0
  for _, at in ipairs(made.sent) do
    if at > till - INTERVAL and at <= till then n = n + 1 end
  end
  return n / INTERVAL
end

describe("the queries of instrumented functions, in a real Prometheus", function()
  local prometheus, shop
  local before, after -- what was made of the versions
  local functions, links = {}, {}

  local function queries_of(port)
    for _, f in ipairs(cjson.decode(examples.get(port, "/queries").body)) do
      for name, query in pairs(f.queries) do
        f.queries[name] = query:gsub("%[5m%]", ("[%ds]"):format(INTERVAL))
      end
      functions[f.name], links[f.name] = f.queries, f.links
    end
  end

  setup(function()
    local path = child.find("prometheus")
    if not path then return end
    local metrics_port = web.free_port()
    prometheus = start_prometheus(path, metrics_port)
    uv.os_setenv("PROMETHEUS_URL", "http://127.0.0.1:" .. prometheus.port .. "/")
    local port = web.free_port()
    shop = start_shop("1.4.0", port, metrics_port)
    assert(child.wait(function()
      local ok, found = pcall(prometheus.query, prometheus, "build_info", nil, "version")
      return ok and found["1.4.0"] == 1
    end, DEADLINE), "Prometheus does not see the shop")
    queries_of(port)
    before = load(port, PHASE)
    child.wait(function() return false end, 1.5)
    shop:stop()
    shop = start_shop("1.5.0", port, metrics_port)
    after = load(port, PHASE)
    child.wait(function() return false end, 1.5)
  end)

  teardown(function()
    uv.os_unsetenv("PROMETHEUS_URL")
    if shop then shop:stop() end
    if prometheus then prometheus:stop() end
  end)

  local function needs(name, body)
    it(name, function()
      if not prometheus then return pending("prometheus is not on PATH") end
      body()
    end)
  end

  local function one(found, id)
    local n = 0
    for _ in pairs(found) do
      n = n + 1
    end
    assert.equal(1, n, cjson.encode(found))
    return assert(found[id], id .. " is not in " .. cjson.encode(found))
  end

  local function near(expected, found, part)
    assert.is_true(math.abs(found - expected) <= expected * part, ("%g is not %g"):format(found, expected))
  end

  needs("are all answered", function()
    local asked = 0
    for _, queries in pairs(functions) do
      for _, query in pairs(queries) do
        assert(prometheus:api(("query?query=%s&time=%.3f"):format(encoded(query), after.till)))
        asked = asked + 1
      end
    end
    assert.equal(4 * 6, asked)
  end)

  needs("have a series for every function before it is called, and every call", function()
    for version, made in pairs({ ["1.4.0"] = before, ["1.5.0"] = after }) do
      local at = version == "1.4.0" and made.till + 1 or nil
      local found = prometheus:query("sum by (function, result) (function_calls_total)", at, "function", "result")
      local orders = #made.sent
      assert.equal(orders, found["place ok"] + found["place error"])
      assert.equal(made.statuses[200], found["place ok"])
      assert.equal(made.statuses[500], found["place error"])
      assert.same({ orders, 0, 2 * orders, 0 },
        { found["find ok"], found["find error"], found["reserve ok"], found["reserve error"] })
      assert.equal(made.statuses[500], found["charge error"])
    end
  end)

  needs("give the rate of calls, and of the calls that a function makes", function()
    for version, made in pairs({ ["1.4.0"] = before, ["1.5.0"] = after }) do
      local rate = one(prometheus:query(functions.place.request_rate, made.till, "function", "version"),
        "place " .. version)
      near(rate_of(made, made.till), rate, 0.15)
      local calls = prometheus:query(functions.place.calls, made.till, "function", "version")
      near(rate, calls["find " .. version], 0.05)
      near(2 * rate, calls["reserve " .. version], 0.05)
      near(rate, calls["charge " .. version], 0.15)
      assert.same({}, prometheus:query(functions.find.calls, made.till))
    end
  end)

  needs("give the part that fails, by version: the deploy that made it worse shows", function()
    local labels = { "function", "module", "service_name", "version" }
    local good = one(prometheus:query(functions.charge.error_ratio, before.till, unpack(labels)),
      "charge billing shop 1.4.0")
    local bad = one(prometheus:query(functions.charge.error_ratio, after.till, unpack(labels)),
      "charge billing shop 1.5.0")
    assert.near(1 / 20, good, 0.03)
    assert.near(1 / 4, bad, 0.05)
    assert.same({ ["1.5.0"] = 0 }, prometheus:query(functions.find.error_ratio, after.till, "version"))
    -- Over the time of both they are two lines.
    local path = ("query_range?query=%s&start=%.3f&end=%.3f&step=1"):format(encoded(functions.charge.error_ratio),
      before.till - 3, after.till)
    local lines = {}
    for _, line in ipairs(prometheus:api(path).result) do
      lines[line.metric.version] = tonumber(line.values[#line.values][2])
      assert.is_truthy(line.metric.commit == nil or line.metric.commit:find("^%x+$"))
    end
    assert.is_true(lines["1.4.0"] < 0.1 and lines["1.5.0"] > 0.2, cjson.encode(lines))
  end)

  needs("give latencies from the buckets that they are in", function()
    -- A charge takes 150 ms; in 1.5.0 one in four fails at once.
    for _, made in pairs({ before, after }) do
      for _, name in ipairs({ "latency_p95", "latency_p99" }) do
        for _, found in pairs(prometheus:query(functions.place[name], made.till, "version")) do
          assert.is_true(found > 0.1 and found <= 0.5, name .. ": " .. found)
        end
        local found = prometheus:query(functions.reserve[name], made.till)
        assert.is_true(found[""] > 0 and found[""] <= 0.005, cjson.encode(found))
      end
    end
  end)

  needs("give the calls under way", function()
    local path = ("query_range?query=%s&start=%.3f&end=%.3f&step=0.5"):format(encoded(functions.place.concurrency),
      before.till - 8, before.till)
    local sum, n = 0, 0
    for _, line in ipairs(prometheus:api(path).result) do
      assert.equal("1.4.0", line.metric.version)
      for _, value in ipairs(line.values) do
        sum, n = sum + tonumber(value[2]), n + 1
      end
    end
    -- As many as come a second, times how long each takes.
    local place = 'function_calls_duration_seconds_%s{function="place"}'
    local seconds = prometheus:query(place:format("sum") .. " / on () " .. place:format("count"), before.till)[""]
    near(rate_of(before, before.till) * seconds, sum / n, 0.35)
    assert.same({ ["1.5.0"] = 0 }, prometheus:query(functions.place.concurrency, nil, "version"))
    assert.same({}, prometheus:query(functions.charge.concurrency, nil))
  end)

  needs("open as charts in a browser, with a line for each version", function()
    local browser = child.find("chromium") or child.find("chromium-browser") or child.find("google-chrome")
    if not browser then return pending("there is no chromium") end
    local link = links.charge.error_ratio
    assert.is_truthy(link:find("http://127.0.0.1:" .. prometheus.port .. "/graph?", 1, true), link)
    local command = ("env -u LD_PRELOAD timeout 60 '%s' --headless --no-sandbox --disable-gpu "
      .. "--user-data-dir='%s/browser' --virtual-time-budget=15000 --window-size=1200,900 %s '%s' 2>/dev/null")
    link = link:gsub("range_input=1h", "range_input=1m")
    local function browse(what)
      local pipe = io.popen(command:format(browser, prometheus.folder, what, link))
      local output = pipe:read("*a")
      pipe:close()
      return output
    end
    local page = browse("--dump-dom")
    for _, version in ipairs({ "1.4.0", "1.5.0" }) do
      local label = ('version=(.-)%s'):format(version:gsub("%.", "%%."))
      assert.is_truthy(page:find(label), "no line of " .. version .. " in the page")
    end
    assert.is_truthy(page:find("<svg") or page:find("<canvas"), "no graph in the page")
    assert.is_nil(page:find("Error executing query", 1, true))
    local screenshot = os.getenv("SCREENSHOT") -- to look at
    if screenshot then browse("--screenshot=" .. screenshot) end
  end)
end)
