--- Real servers take what the StatsD exporter sends: Etsy's statsd and Prometheus's statsd_exporter, which
--- tools/receivers installs, and have the totals that were recorded. Everything is on loopback.

package.path = "spec/?.lua;" .. package.path

local chalk = require("chalk")
local collect = require("support.collect")
local examples = require("support.examples")
local files = require("support.files")
local log = require("chalk.log")
local uv = require("luv")
local wait = require("support.wait")
local web = require("demo.web")

local child = examples.child
local SECONDS = 30

local function installed()
  local pipe, found = io.popen("env -u LD_PRELOAD tools/receivers 2>/dev/null"), {}
  for line in pipe:lines() do
    local name, path = line:match("^(%S+) (.+)$")
    if name then found[name] = path end
  end
  pipe:close()
  return found
end

-- Nothing else may have it: the receivers bind it right after.
local function free_udp_port()
  local socket = uv.new_udp()
  assert(socket:bind("127.0.0.1", 0))
  local port = socket:getsockname().port
  socket:close()
  uv.run("nowait")
  return port
end

-- What a server's admin port answers to a command, up to END.
local function ask(port, command)
  local socket, text, over = uv.new_tcp(), "", false
  socket:connect("127.0.0.1", port, function(refused)
    if refused then
      over = true
      return
    end
    socket:read_start(function(_, data)
      text = text .. (data or "")
      over = not data or text:find("END", 1, true) ~= nil
    end)
    socket:write(command .. "\n")
  end)
  child.wait(function() return over end, 5)
  socket:close()
  uv.run("nowait")
  return text
end

describe("a real statsd server", function()
  local receivers = installed()
  local client, process, said
  local write = log.write

  before_each(function()
    said = {}
    log.write = function(_, message) said[#said + 1] = message end
  end)

  after_each(function()
    if client then client:shutdown() end
    if process then process:stop() end
    client, process = nil, nil
    log.write = write
    files.clean()
  end)

  -- A sanitizer's runtime that is preloaded into LuaJIT is no matter of theirs.
  local function spawn(...) process = child.spawn(child.find("env"), { "-u", "LD_PRELOAD", ... }) end

  -- Flushes until the server has it all; what it refused at its start comes again.
  local function flush_until(condition)
    wait.till(function()
      assert.is_true(client:flush())
      return condition()
    end, SECONDS, "the server to have everything, " .. (said[#said] or "nothing was said"))
  end

  local function missing(name)
    if receivers[name] then return false end
    pending(name .. " is not installed: tools/receivers says why")
    return true
  end

  it("of Etsy's has the same counts, gauges and timers", function()
    if missing("etsy") then return end
    local port, admin = free_udp_port(), web.free_port()
    local config = files.make(([[{ address: "127.0.0.1", port: %d, mgmt_address: "127.0.0.1", mgmt_port: %d,
      backends: ["./backends/console"], flushInterval: 3600000, prefixStats: "own" }]]):format(port, admin))
    spawn(child.find("node"), receivers.etsy, config)
    wait.till(function() return ask(admin, "health"):find("up", 1, true) or ask(admin, "counters") ~= "" end, SECONDS)
    client = chalk.new({
      driver = "manual",
      flush_interval = 3600,
      exporters = {
        chalk.exporter.statsd({
          address = "127.0.0.1:" .. port,
          dialect = "statsd",
          namespace = "app",
          histograms = "timing",
        }),
      },
    })
    local hits = client:count("hits", { tags = { "uri" } })
    local open = client:gauge("open", { tags = { "place" } })
    local lat = client:histogram("lat", { unit = "seconds", tags = { "uri" } })
    local function tell(n)
      for i = 1, 5 do
        hits:with("/p" .. i .. "|c"):inc(i * n)
        open:with("p" .. i):set(i % 2 == 0 and i * n or -i * n / 8)
      end
      for i = 1, 40 do
        lat:with("/x.y"):record(i / 1000)
      end
    end
    tell(1000)
    flush_until(function() return ask(admin, "gauges"):find("'app.open.p5'", 1, true) end)
    tell(7)
    flush_until(function() return ask(admin, "gauges"):find("'app.open.p2': 14", 1, true) end)
    local counters, gauges, timers = ask(admin, "counters"), ask(admin, "gauges"), ask(admin, "timers")
    for i = 1, 5 do
      local key = ("'app.hits._p%d_c': %d"):format(i, i * 1007)
      assert.truthy(counters:find(key .. "[,\n ]"), counters)
      local value = i % 2 == 0 and i * 7 or -i * 7 / 8
      assert.truthy(gauges:find(("'app.open.p%d': %s"):format(i, value):gsub("[%-.]", "%%%0") .. "[,\n ]"), gauges)
    end
    assert.truthy(counters:find("'own.bad_lines_seen': 0", 1, true), counters)
    local sum, n = 0, 0
    for value in timers:match("'app.lat._x_y': %[(.-)%]"):gmatch("[%d.]+") do
      sum, n = sum + tonumber(value), n + 1
    end
    assert.equal(80, n)
    assert.near(2 * 820, sum, 2)
  end)

  for _, kind in ipairs({ "udp", "unixgram" }) do
    it("of Prometheus's, over " .. kind .. ", has the same values, counts and quantiles by tags", function()
      if missing("exporter") then return end
      local port, pages, path = free_udp_port(), web.free_port(), files.name()
      local is_udp = kind == "udp"
      spawn(receivers.exporter, "--statsd.listen-tcp=", "--log.level=warn",
        "--statsd.listen-udp=" .. (is_udp and "127.0.0.1:" .. port or ""),
        "--statsd.listen-unixgram=" .. (is_udp and "" or path), "--web.listen-address=127.0.0.1:" .. pages)
      local function page()
        local ok, response = pcall(examples.get, pages, "/metrics")
        return ok and response.body or ""
      end
      wait.till(function() return page():find("statsd_exporter_lines_total", 1, true) end, SECONDS)
      client = chalk.new({
        driver = "manual",
        flush_interval = 3600,
        exporters = {
          chalk.exporter.statsd({
            address = is_udp and "127.0.0.1:" .. port or "unixgram://" .. path,
            container_id = false,
            relative_gauges = true,
            global_tags = { env = "prod" },
          }),
        },
      })
      local hits = client:count("hits", { tags = { "uri" } })
      local open = client:gauge("open")
      local lat = client:histogram("lat", { tags = { "uri" } }):with("/x")
      for round = 1, 3 do
        for i = 1, 50 do
          hits:with("/p|" .. i):inc(i * round)
        end
        for i = 1, 500 do
          lat:record(i % 100 + 1)
        end
        open:set(-round)
        assert.is_true(client:flush())
      end
      local found
      flush_until(function()
        found = collect.samples(page())
        return found['lat_count{env="prod",uri="/x"}'] == 1500 and found['open{env="prod"}'] == -3
      end)
      for i = 1, 50 do
        assert.equal(6 * i, found[('hits{env="prod",uri="/p_%d"}'):format(i)])
      end
      local sketch, ranks = lat:value(), { ["0.5"] = 0.05, ["0.9"] = 0.01, ["0.99"] = 0.001 }
      for q, rank in pairs(ranks) do
        local value = found[('lat{env="prod",uri="/x",quantile="%s"}'):format(q)]
        local low, high = sketch:quantile(tonumber(q) - 2 * rank), sketch:quantile(math.min(1, tonumber(q) + 2 * rank))
        assert.is_true(value >= low * 0.99 and value <= high * 1.01, q .. ": " .. value)
      end
      assert.near(3 * 5 * 5050, found['lat_sum{env="prod",uri="/x"}'], 76)
      for id, value in pairs(found) do
        if id:find("error", 1, true) and id:find("^statsd_exporter") then assert.equal(0, value, id) end
      end
    end)
  end
end)
