--- The StatsD exporter's mode raw while its receiver is away, or while the flusher's role moves to another VM or
--- process. If this file fails, values arrive twice, or are lost without being counted.

package.path = "spec/?.lua;" .. package.path

local beds = require "support.statsd_bed"
local chalk = require "chalk"
local children = require "support.children"
local collect = require "support.collect"
local files = require "support.files"
local fork = require "support.fork"
local uv = require "luv"
local wait = require "support.wait"

local DROPPED, IN_RING = 'chalk_stream_dropped_total{where="queue"}', 'chalk_stream_dropped_total{where="ring"}'

describe("the mode raw of the statsd exporter", function()
  local scene = beds.scene(before_each, after_each)

  local function raw(options)
    local all = { histograms = "raw" }
    for name, value in pairs(options or {}) do
      all[name] = value
    end
    return all
  end

  -- Checks that no value has arrived twice. Returns the values and their number.
  local function values_once(id)
    local values = scene.bed.agent.weights[id or "lat"] or {}
    local n = 0
    for value, weight in pairs(values) do
      assert.equal(1, weight, value)
      n = n + 1
    end
    return n, values
  end

  -- Flushes until a receiver that is back has everything that it missed. The exporter pauses after a failure.
  local function flush_until(condition)
    wait.till(function()
      scene:flush()
      return condition()
    end)
  end

  local function read_until(condition)
    return wait.till(function()
      scene.bed:read()
      return condition()
    end)
  end

  for _, kind in ipairs { "unixgram", "unixstream", "udp" } do
    it(
      "keeps the values that fit its queue, counts the others, and sends them once afterwards, " .. kind,
      function()
        scene:start(raw { raw_queue = 1000, telemetry = true }, nil, kind)
        local lat = scene.client:histogram "lat"
        local last = 0
        local function record(n)
          for _ = 1, n do
            last = last + 1
            lat:record(last)
          end
        end
        record(50)
        scene:flush()
        scene.bed:die()
        for flush = 1, 30 do
          record(100)
          scene:flush()
          if flush == 15 then wait.sleep(0.12) end -- the pause is over: it is tried again, in vain
        end
        assert.equal(2000, collect.samples(scene.client:text())[DROPPED])
        scene.bed:revive()
        local agent = scene.bed.agent
        flush_until(function() return agent:count "lat" == 1050 end)
        record(70)
        scene:flush()
        scene:flush()
        local n, values = values_once()
        assert.equal(1120, n)
        for i = 1, last do
          assert.equal((i <= 1050 or i > 3050) and 1 or nil, values[i], i)
        end
        assert.equal(2000, collect.samples(scene.client:text())[DROPPED])
        assert.same(
          { 1120, 2000 },
          { agent.counts["chalk.client.raw_values"], agent.counts["chalk.client.raw_values_dropped"] }
        )
      end
    )
  end

  it("counts values that are recorded faster than it takes them, and sends all others", function()
    scene:start(raw { raw_queue = 10000 })
    local lat, N = scene.client:histogram "lat", 50000
    for i = 1, N do
      lat:record(i)
    end
    scene:flush()
    local samples = collect.samples(scene.client:text())
    assert.equal(10000, (values_once()))
    assert.is_true(samples[IN_RING] > 0)
    assert.equal(N, 10000 + samples[DROPPED] + samples[IN_RING])
    assert.equal(N, samples.lat_count)
    for i = 1, 500 do
      lat:record(N + i)
    end
    scene:flush()
    assert.equal(10500, (values_once()))
  end)

  for _, kind in ipairs { "unixgram", "unixstream" } do
    it("sends no value twice to a receiver that disappears in the middle, " .. kind, function()
      math.randomseed(7)
      scene:start(raw { write_timeout = 5, max_packet = 256 }, nil, kind)
      local lat, last = scene.client:histogram("lat", { tags = { "a" } }):with(("x"):rep(50)), 0
      for _ = 1, 12 do
        for _ = 1, 3000 do
          last = last + 1
          lat:record(last)
        end
        local timer = uv.new_timer()
        timer:start(math.random(1, 15), 0, function()
          if scene.bed.receiver then scene.bed:die() end
        end)
        scene:flush()
        timer:close()
        if not scene.bed.receiver then scene.bed:revive() end
      end
      local id = "lat{a:" .. ("x"):rep(50) .. "}"
      flush_until(function() return scene.bed.agent:count(id) >= last end)
      assert.equal(last, (values_once(id)))
      assert.is_true(#scene.said > 0, "it never went away in the middle")
    end)
  end

  it("does not use the parent's queue and connection in a forked child that flushes", function()
    for _, kind in ipairs { "unixstream", "udp" } do
      scene:start(raw(), nil, kind)
      local lat, open = scene.client:histogram "lat", scene.client:gauge "open"
      lat:record(0)
      scene:flush()
      scene.bed:die()
      for i = 1, 300 do
        lat:record(i)
      end
      scene:flush()
      wait.sleep(0.12)
      scene.bed:revive()
      local client = scene.client
      local pid = fork.child(function()
        lat:record(1000)
        open:set(1)
        assert(client:flush())
      end)
      assert.equal(0, fork.wait(pid))
      scene.bed:read()
      assert.equal(1, scene.bed.agent.gauges.open)
      assert.equal(2, (values_once()))
      flush_until(function() return scene.bed.agent:count "lat" >= 302 end)
      scene:flush()
      assert.equal(302, (values_once()))
      scene.bed:close()
    end
  end)

  -- Starts processes that export for a client of this process.
  local function exporting(options, n)
    scene.bed = beds.new(raw(options))
    local client = chalk.new()
    local lat, pids = client:histogram "lat", {}
    local exporters = { scene.bed:exporter() }
    assert(client:prepare { driver = "thread", flush_interval = 0.1, exporters = exporters })
    for i = 1, n do
      pids[i] = fork.child(function()
        client:start()
        wait.sleep(60)
      end)
    end
    finally(function()
      for _, pid in ipairs(pids) do
        fork.kill(pid, fork.KILL)
        fork.wait(pid)
      end
    end)
    local function holder()
      local pid = client:info().holder
      for i, other in ipairs(pids) do
        if pid == other then return i end
      end
    end
    return client, lat, pids, holder
  end

  it(
    "sends the values that were recorded after the flushing process was killed and before another took over",
    function()
      local STOP, CONT = 19, 18
      local _, lat, pids, holder = exporting(nil, 2)
      wait.till(holder)
      for i = 1, 1000 do
        lat:record(i)
      end
      read_until(function() return scene.bed.agent:count "lat" >= 1000 end)
      local first = holder()
      fork.kill(pids[3 - first], STOP)
      fork.kill(pids[first], fork.KILL)
      fork.wait(pids[first])
      table.remove(pids, first)
      for i = 1001, 4000 do
        lat:record(i)
      end
      scene.bed:read()
      assert.equal(1000, scene.bed.agent:count "lat")
      fork.kill(pids[1], CONT)
      read_until(function() return scene.bed.agent:count "lat" >= 4000 end)
      assert.equal(4000, (values_once()))
    end
  )

  -- VMs with clients of one name follow each other, as in a service that reloads itself. Nothing is flushed except when
  -- one VM takes over from another.
  local RELOADS = [[
    local address, driver = ...
    local vms, wait = require "support.vms", require "support.wait"
    local chalk = require "chalk"
    local lat = chalk.histogram "lat"
    local START = %q
    local n = 0
    local function record(times)
      for _ = 1, times do
        n = n + 1
        lat:record(n)
      end
    end
    local RUN_LOOP = [==[
      local uv = require "luv"
      local t = uv.new_timer()
      t:start(1, 0, function() t:close() end)
      uv.run()
    ]==]
    -- Records for a while, and runs the loop of a VM that has no thread.
    local function let_run(vm)
      for _ = 1, 22 do
        wait.sleep(0.005)
        record(1)
      end
      if driver == "loop" then vm:run(RUN_LOOP) end
      record(10)
    end
    local last
    for _ = 1, 6 do
      local vm = vms.open()
      vm:run(START, address, driver)
      if last then
        let_run(last)
        let_run(vm)
      end
      record(50)
      let_run(vm)
      record(50)
      if last then last:close() end
      last = vm
    end
    last:run('assert(require "chalk".shutdown())')
    last:close()
    io.write(n)
  ]]
  local START = [[
    local address, driver = ...
    local chalk = require "chalk"
    chalk.init {
      driver = driver,
      flush_interval = 3600,
      exporters = {
        chalk.exporter.statsd { address = address, container_id = false, histograms = "raw", write_timeout = 10 },
      },
    }
  ]]

  for _, driver in ipairs { "thread", "loop", "manual" } do
    it("sends all values while one VM takes over from another, driver " .. driver, function()
      scene.bed = beds.new()
      local program = children.spawn(RELOADS:format(START), {}, scene.bed.options.address, driver)
      local all = 6 * 100 + 16 * 32
      pcall(read_until, function() return scene.bed.agent:count "lat" >= all end)
      assert.same({ 0, tostring(all) }, { program.finish() })
      scene.bed:read()
      assert.equal(all, (values_once()))
    end)
  end

  it("sends its queue when the receiver comes back after the role has gone", function()
    scene.bed = beds.new()
    scene.bed:die()
    local ended = files.name()
    local program = children.spawn(
      [[
      local address, driver, start, ended = ...
      local vms, wait = require "support.vms", require "support.wait"
      local chalk = require "chalk"
      local lat = chalk.histogram "lat"
      local old, new = vms.open(), vms.open()
      old:run(start, address, driver)
      for i = 1, 100 do lat:record(i) end
      chalk.info()
      old:run('assert(require "chalk".flush())') -- into the queue, and in vain to a receiver that is away
      new:run(start, address, driver)
      wait.sleep(0.5)
      for i = 101, 200 do lat:record(i) end
      io.write("taken over\n")
      io.flush()
      wait.till(function() return io.open(ended) end, 20)
      new:run('assert(require "chalk".shutdown())')
      old:close()
      new:close()
    ]],
      {},
      scene.bed.options.address,
      "thread",
      START,
      ended
    )
    program.pipe:read "*l"
    scene.bed:revive()
    local ok = pcall(read_until, function() return scene.bed.agent:count "lat" >= 100 end)
    io.open(ended, "w"):close()
    local code, output = program.finish()
    scene.bed:read()
    assert.equal(0, code, output)
    assert.is_true(ok)
    assert.equal(200, (values_once()))
  end)
end)
