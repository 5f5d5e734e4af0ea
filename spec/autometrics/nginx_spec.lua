--- Instrumented functions in a real nginx: concurrent requests of one worker keep their callers apart, and a request
--- that ends in the middle of a function leaves no call behind.

local nginx = require "support.nginx"
local request = require "support.request"
local wait = require "support.wait"

local AUTO = [[
  auto = require("chalk.autometrics")
  auto.init { service_name = "shop", version = "$version" }
  local function wrap(name, f, options)
    options = options or {}
    options.name, options.module = name, "m"
    return auto.wrap(f, options)
  end
  leaf = wrap("leaf", function(seconds) ngx.sleep(seconds) end, { concurrent = true })
  first = wrap("first", function() ngx.sleep(0.02) leaf(0.05) ngx.sleep(0.02) leaf(0.01) ngx.say("first") end)
  second = wrap("second", function() leaf(0.03) ngx.sleep(0.03) pcall(fails) leaf(0.03) ngx.say("second") end)
  fails = wrap("fails", function() ngx.sleep(0.01) error("boom") end)
  both = wrap("both", function()
    local a, b = ngx.thread.spawn(first), ngx.thread.spawn(second)
    leaf(0.02)
    ngx.thread.wait(a)
    ngx.thread.wait(b)
  end)
  leaves = wrap("leaves", function(code) return ngx.exit(code) end, { concurrent = true })
  local function deepest() error("uncaught") end
  dies = wrap("dies", function() ngx.sleep(0.001) deepest() end)
]]

local LOCATIONS = [[
  location /first { content_by_lua_block { first() } }
  location /second { content_by_lua_block { second() } }
  location /both { content_by_lua_block { both() } }
  location /leaf { content_by_lua_block { leaf(0) ngx.say("x") } }
  location /exit { content_by_lua_block { leaves(403) } }
  location /access { access_by_lua_block { leaves(ngx.OK) } content_by_lua_block { leaf(0) ngx.say("x") } }
  location /long { content_by_lua_block { leaf(0.8) ngx.say("x") } }
  location /dies { content_by_lua_block { dies() } }
  location /log { return 200; log_by_lua_block { pcall(wrong) } }
]]

local function configuration(version, more)
  return {
    workers = 1,
    options = "flush_interval = 0.2,",
    after = AUTO:gsub("$version", version) .. (more or ""),
    locations = LOCATIONS,
  }
end

-- Returns the counts of calls by function and caller, without zeros; and by function and result.
local function calls(server)
  local by_caller, by_result = {}, {}
  for key, value in pairs((server:scrape())) do
    local name = key:match '^function_calls_total{function="(%w+)"'
    if name and value > 0 then
      by_caller[name .. " " .. (key:match 'caller_function="(%w+)"' or "")] = value
      local id = name .. " " .. key:match 'result="(%w+)"'
      by_result[id] = (by_result[id] or 0) + value
    end
  end
  return by_caller, by_result
end

describe("instrumented functions in nginx", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(nginx.stop_all)

  it("have the right callers when requests and light threads yield inside them", function()
    local server = nginx.start(configuration "1.4.0")
    local pending_ones = {}
    for i = 1, 60 do
      local path = ({ "/first", "/second", "/both" })[i % 3 + 1]
      pending_ones[i] = request.send(server.port, { path = path })
    end
    for _, one in ipairs(pending_ones) do
      assert.equal(200, assert(one.wait()).status)
    end
    assert.equal(200, server:get("/long").status) -- longer than what ends unfinished calls takes to come by
    local by_caller, by_result = calls(server)
    assert.same({
      ["first "] = 40,
      ["second "] = 40,
      ["both "] = 20,
      ["leaf first"] = 80,
      ["leaf second"] = 80,
      ["leaf both"] = 20,
      ["leaf "] = 1,
      ["fails second"] = 40,
    }, by_caller)
    assert.equal(40, by_result["fails error"])
    local samples = server:scrape()
    assert.equal(0, samples['function_calls_concurrent{function="leaf",module="m",service_name="shop"}'])
    local sum = samples['function_calls_duration_seconds_sum{function="first",module="m",service_name="shop"}']
    assert.is_true(sum >= 40 * 0.09, "durations leave the waiting out: " .. sum)
    assert.equal("", server:complaints())
  end)

  it("are counted when a request ends inside them, and are no longer a caller afterwards", function()
    local server = nginx.start(configuration "1.4.0")
    for _ = 1, 30 do
      assert.equal(403, server:get("/exit").status)
      assert.equal(200, server:get("/leaf").status)
      assert.equal(200, server:get("/access").status)
    end
    local by_caller, by_result
    wait.till(function()
      by_caller, by_result = calls(server)
      return by_caller["leaves "] == 60
    end)
    assert.same({ ["leaves "] = 60, ["leaf "] = 60 }, by_caller)
    assert.same({ ["leaves ok"] = 60, ["leaf ok"] = 60 }, by_result)
    local gauge = 'function_calls_concurrent{function="leaves",module="m",service_name="shop"}'
    assert.equal(0, server:scrape()[gauge])
  end)

  it("leave a complete traceback in the error log when they fail", function()
    local server = nginx.start(configuration "1.4.0")
    assert.equal(500, server:get("/dies").status)
    local _, by_result = calls(server)
    assert.equal(1, by_result["dies error"])
    assert.is_truthy(server:complaints():find("in function 'deepest'", 1, true), server:complaints())
  end)

  it("keep their counts over a reload that brings another version, functions and latencies", function()
    local server = nginx.start(configuration "1.4.0")
    assert.equal(200, server:get("/leaf").status)
    server:reload(configuration(
      "1.5.0",
      [[
      auto.wrap(function() end, { name = "slow", module = "m", objective = auto.objective("o"):latency(0.3, 99) })
    ]]
    ))
    assert.equal(200, server:get("/leaf").status)
    local samples
    wait.till(function()
      samples = server:scrape()
      return samples['function_calls_duration_seconds_bucket{function="leaf",module="m",service_name="shop",le="0.3"}']
    end)
    assert.equal(2, samples['function_calls_total{function="leaf",module="m",service_name="shop",result="ok"}'])
    local versions = {}
    for key, value in pairs(samples) do
      local version = key:match '^build_info{version="([^"]*)"'
      if version then versions[version] = value end
    end
    assert.same({ ["1.5.0"] = 1 }, versions)
    assert.equal(0, samples['function_calls_total{function="slow",module="m",service_name="shop",result="ok"}'])
  end)
end)
