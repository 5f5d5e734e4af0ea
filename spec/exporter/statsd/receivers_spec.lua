--- Real servers on loopback receive from the StatsD exporter: Etsy's statsd and Prometheus's statsd_exporter. If this
--- file fails, they refuse lines, or their totals differ from what was recorded.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local files = require "support.files"
local log = require "chalk.base.log"
local servers = require "support.statsd_servers"
local wait = require "support.wait"

local SECONDS = 30

describe("a real statsd server", function()
  local client, server, said
  local write = log.write

  before_each(function()
    said = {}
    log.write = function(_, message) said[#said + 1] = message end
  end)

  after_each(function()
    if client then client:shutdown() end
    if server then server:stop() end
    client, server = nil, nil
    log.write = write
    files.clean()
  end)

  -- Makes a client that sends to the server.
  local function start(options)
    options.address = server.address
    client = chalk.new { driver = "manual", flush_interval = 3600, exporters = { chalk.exporter.statsd(options) } }
  end

  -- Flushes until the server has everything. What the server refused while it started is sent again.
  local function flush_until(condition)
    wait.till(function()
      assert.is_true(client:flush())
      return condition()
    end, SECONDS, "the server to have everything, " .. (said[#said] or "nothing was said"))
  end

  local function missing(name)
    local message = servers.missing(name)
    if message then pending(message) end
    return message ~= nil
  end

  -- Returns the values that Etsy's server has of a timer.
  local function timer_of(name)
    local sum, n = 0, 0
    for value in (server:ask("timers"):match(("'%s': %%[(.-)%%]"):format(name)) or ""):gmatch "[%d.]+" do
      sum, n = sum + tonumber(value), n + 1
    end
    return sum, n
  end

  it("of Etsy reports the recorded counts, gauges and timers", function()
    if missing "etsy" then return end
    server = servers.etsy()
    start { dialect = "statsd", namespace = "app", histograms = "timing" }
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
    flush_until(function() return server:ask("gauges"):find("'app.open.p5'", 1, true) end)
    tell(7)
    flush_until(function() return server:ask("gauges"):find("'app.open.p2': 14", 1, true) end)
    local counters, gauges = server:ask "counters", server:ask "gauges"
    for i = 1, 5 do
      local key = ("'app.hits._p%d_c': %d"):format(i, i * 1007)
      assert.truthy(counters:find(key .. "[,\n ]"), counters)
      local value = i % 2 == 0 and i * 7 or -i * 7 / 8
      assert.truthy(gauges:find(("'app.open.p%d': %s"):format(i, value):gsub("[%-.]", "%%%0") .. "[,\n ]"), gauges)
    end
    assert.truthy(counters:find("'own.bad_lines_seen': 0", 1, true), counters)
    local sum, n = timer_of "app.lat._x_y"
    assert.equal(80, n)
    assert.near(2 * 820, sum, 2)
  end)

  it("of Etsy reports each raw value as it was recorded", function()
    if missing "etsy" then return end
    server = servers.etsy()
    start { dialect = "statsd", namespace = "app", histograms = "raw" }
    local lat = client:histogram("lat", { unit = "seconds", tags = { "uri" } }):with "/x.y"
    local sum = 0
    -- The server's answers contain only the first hundred elements of a list.
    for i = 1, 90 do
      lat:record(i / 1024)
      sum = sum + i * 1000 / 1024
    end
    flush_until(function() return select(2, timer_of "app.lat._x_y") == 90 end)
    assert.near(sum, (timer_of "app.lat._x_y"), 1e-9)
    assert.truthy(server:ask("counters"):find("'own.bad_lines_seen': 0", 1, true))
  end)

  for _, kind in ipairs { "udp", "unixgram" } do
    it("of Prometheus, over " .. kind .. ", reports the recorded values, counts and quantiles by tags", function()
      if missing "exporter" then return end
      server = servers.exporter(kind)
      start { container_id = false, relative_gauges = true, global_tags = { env = "prod" } }
      local hits = client:count("hits", { tags = { "uri" } })
      local open = client:gauge "open"
      local lat = client:histogram("lat", { tags = { "uri" } }):with "/x"
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
        found = server:samples()
        return found['lat_count{env="prod",uri="/x"}'] == 1500 and found['open{env="prod"}'] == -3
      end)
      for i = 1, 50 do
        assert.equal(6 * i, found[('hits{env="prod",uri="/p_%d"}'):format(i)])
      end
      local sketch, ranks = lat:value(), { ["0.5"] = 0.05, ["0.9"] = 0.01, ["0.99"] = 0.001 }
      for q, rank in pairs(ranks) do
        local value = found[('lat{env="prod",uri="/x",quantile="%s"}'):format(q)]
        local low, high =
          sketch:quantile(tonumber(q) - 2 * rank), sketch:quantile(math.min(1, tonumber(q) + 2 * rank))
        assert.is_true(value >= low * 0.99 and value <= high * 1.01, q .. ": " .. value)
      end
      assert.near(3 * 5 * 5050, found['lat_sum{env="prod",uri="/x"}'], 76)
      for id, value in pairs(found) do
        if id:find("error", 1, true) and id:find "^statsd_exporter" then assert.equal(0, value, id) end
      end
    end)
  end

  it("of Prometheus counts all raw values, and estimates their number from a sample", function()
    if missing "exporter" then return end
    server = servers.exporter "unixgram"
    local rules = { { match = "full", name = "some", sample_rate = 0.3 } }
    start { container_id = false, histograms = "raw", per_metric = rules }
    local all, some = client:histogram("all", { tags = { "uri" } }):with "/x", client:histogram "some"
    local N, sum = 20000, 0
    for i = 1, N do
      all:record(i / 1024)
      some:record(i)
      sum = sum + i / 1024
    end
    local found
    flush_until(function()
      found = server:samples()
      return found['all_count{uri="/x"}'] == N
    end)
    -- A recorded value counts as 0, 3 or 4, with a variance of 2.4.
    assert.near(N, found.some_count, 6 * math.sqrt(N * 2.4))
    assert.near(sum, found['all_sum{uri="/x"}'], 1e-6 * sum)
    for id, value in pairs(found) do
      if id:find("error", 1, true) and id:find "^statsd_exporter" then assert.equal(0, value, id) end
    end
  end)
end)
