--- Threads and processes that record into one client at once, die in the middle of it, and take over from each other.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local children = require "support.children"
local collect = require "support.collect"
local files = require "support.files"
local fork = require "support.fork"
local wait = require "support.wait"

local TAGGED = { tags = { { tag = "t" } } }

-- Ends with code 0 if the total is right whatever finalizers record in between.
local FINALIZER = [[
  %s
  local client = require("chalk").new()
  local count = client:count("c", { tags = { { tag = "t" } } })
  local gauge = client:gauge("g", { tags = { { tag = "t" } } })
  local latency = client:histogram("h", { tags = { { tag = "t" } } })
  local plain = client:count("plain")
  local kept, level, timed = count:with("x"), gauge:with("x"), latency:with("x")
  local finalized, ending = 0, false
  local function arm()
    getmetatable(newproxy(true)).__gc = function()
      kept:inc()
      count({ t = "x" }):inc()
      level:inc()
      timed:record(1)
      plain:inc()
      finalized = finalized + 1
      if not ending then arm() end
    end
  end
  for _ = 1, 20 do arm() end
  collectgarbage("setpause", 50)
  collectgarbage("setstepmul", 1000)
  local n, waste = 0, nil
  local started = os.clock()
  while os.clock() < started + 1 do
    for _ = 1, 2000 do
      kept:inc()
      count:with("x"):inc()
      level:inc()
      timed:record(2)
      plain:inc()
      waste = { n }
      n = n + 1
    end
  end
  ending = true
  collectgarbage()
  collectgarbage()
  local all = n + finalized
  print(finalized > 1000, kept:value() == 2 * all, level:value() == all, timed:value():count() == all,
    plain:value() == all)
]]

local THREADS = [[
  local uv = require "luv"
  local N = 300000
  local chalk = require "chalk"
  local count = chalk.count("jobs", { tags = { { tag = "t" } } })
  chalk.histogram("durations", { buckets = { 1, 2 } })
  local function work(path, cpath, n)
    package.path, package.cpath = path, cpath
    local chalk = require "chalk"
    local count = chalk.count("jobs", { tags = { { tag = "t" } } })
    local seconds = chalk.histogram("durations", { buckets = { 1, 2 } })
    local kept = count:with("both")
    for i = 1, n do
      kept:inc()
      seconds:record(i % 4)
      if i % 100 == 0 then count:with("new " .. i):inc() end
    end
  end
  local first = uv.new_thread(work, package.path, package.cpath, N)
  local second = uv.new_thread(work, package.path, package.cpath, N)
  for _ = 1, N do count:with("both"):inc() end
  first:join()
  second:join()
  local text = chalk.text()
  print(count:with("both"):value(), count:with("new 300000"):value(),
    text:match('durations_count (%d+)'), text:match('durations_bucket{le="1.0"} (%d+)'))
  os.exit(0) -- without closing the VM: luv 1.50 frees a joined thread twice when its handle is collected
]]

local SHARED_PATH = [[
  local client = require("chalk").new({ segment_path = arg[1] })
  local jobs = client:count("jobs", { tags = { { tag = "t" } } })
  local seconds = client:histogram("durations")
  for i = 1, 100000 do
    jobs:with("both"):inc()
    seconds:record(1)
    if i % 1000 == 0 then jobs:with(arg[2] .. i):inc() end
  end
]]

-- The parent goes while its child lives on: arg[1] the exporter's file, arg[2] where to listen, arg[3] the results.
local ORPHAN = [[
  local chalk = require "chalk"
  local fork = require "support.fork"
  local wait = require "support.wait"
  local jobs = chalk.count("jobs")
  chalk.init { flush_interval = 3600, exporters = {
    chalk.exporter.custom("support.file_exporter", { path = arg[1] }),
    chalk.exporter.prometheus { listen = arg[2] },
  } }
  jobs:inc(2)
  local parent = fork.pid()
  local child = require("ffi").C.fork()
  if child > 0 then
    jobs:inc(3)
    os.exit(0)
  end
  wait.till(function() return fork.parent() ~= parent end)
  jobs:inc(10)
  assert(chalk.flush())
  local got, problem = require("support.scrape").get(arg[2])
  local scraped = got and got:match("\njobs_total %d+") or "\nno scrape: " .. tostring(problem)
  local results = assert(io.open(arg[3], "w"))
  results:write(jobs:value(), scraped)
  results:close()
  os.exit(0)
]]

describe("recording at once", function()
  local client, count, gauge, latency

  before_each(function()
    client = chalk.new()
    count, gauge = client:count("c", TAGGED), client:gauge("g", TAGGED)
    latency = client:histogram("h", TAGGED)
  end)

  after_each(files.clean)

  it("by the VMs of several threads is exact", function()
    local code, output = children.run(THREADS)
    assert.same({ 0, "900000\t2\t600000\t300000\n" }, { code, output })
  end)

  it("by forked processes is exact", function()
    local n, pids = 200000, {}
    local kept, before = count:with "all", gauge:with "all"
    kept:inc(5)
    before:inc(1)
    for k = 1, 4 do
      pids[k] = fork.child(function()
        for i = 1, n do
          kept:inc()
          latency:with("all"):record(i)
          if i % 100 == 0 then
            before:inc()
            count:with(k .. "/" .. i):inc()
            count:with("shared " .. i):inc()
          end
        end
      end)
    end
    for _ = 1, n do
      kept:inc()
    end
    for k = 1, 4 do
      assert.equal(0, fork.wait(pids[k]))
    end
    assert.equal(5 * n + 5, kept:value())
    assert.equal(4 * n, latency:with("all"):value():count())
    assert.equal(4 * n / 100 + 1, before:value())
    assert.equal(1, count:with("3/" .. n):value())
    assert.equal(4, count:with("shared " .. n):value())
    assert.equal(4 * n, collect.samples(client:text())['h_bucket{t="all",le="+Inf"}'])
  end)

  it("goes on exactly across a fork in the middle of a loop", function()
    local kept, timed, n = count:with "x", latency:with "x", 100000
    local pid
    for i = 1, n do
      kept:inc()
      timed:record(i)
      if i == n / 2 then
        pid = fork.child(function()
          for k = 1, n / 2 do
            kept:inc()
            timed:record(k)
            count({ t = "x" }):inc()
          end
        end)
      end
    end
    assert.equal(0, fork.wait(pid))
    assert.equal(2 * n, kept:value())
    assert.equal(1.5 * n, timed:value():count())
  end)

  it("is not disturbed by children that never record, nor do they take anything", function()
    count:with("x"):inc()
    local writers = client:info().writers
    for _ = 1, 20 do
      local pid = fork.child(function() assert(count:with "x") end)
      assert.equal(0, fork.wait(pid))
    end
    count:with("x"):inc()
    assert.equal(2, count:with("x"):value())
    assert.is_true(client:info().writers <= writers + 1)
  end)

  it("does not use up the slots of processes that are gone", function()
    for i = 1, 300 do
      local pid = fork.child(function() count:with("x"):inc(i) end)
      assert.equal(0, fork.wait(pid))
    end
    assert.equal(300 * 301 / 2, count:with("x"):value())
    assert.is_true(client:info().writers < 10)
  end)

  it("is read back by a child while others record", function()
    local kept = count:with "x"
    local pid = fork.child(function()
      kept:inc()
      wait.till(function() return kept:value() > 1000 end)
      local last = 0
      for _ = 1, 1000 do
        local now = kept:value()
        assert(now >= last)
        last = now
      end
    end)
    for _ = 1, 1000000 do
      kept:inc()
    end
    assert.equal(0, fork.wait(pid))
  end)

  describe("beside processes killed at random moments, a hundred times,", function()
    local KILLS = 100

    -- Kills children that run `work(k, note)` after they have noted some turns; gives back the notes of each.
    local function kill_all(work)
      local notes = fork.shared(KILLS + 1)
      for k = 1, KILLS do
        local pid = fork.child(function()
          work(k, function() notes[k] = notes[k] + 1 end)
        end)
        local moment = math.random(0, 3000)
        wait.till(function() return notes[k] >= moment end)
        fork.kill(pid, fork.KILL)
        assert.same({ nil, fork.KILL }, { fork.wait(pid) })
      end
      return notes
    end

    local function survivor(stop)
      return fork.child(function()
        local n = 0
        while stop[0] == 0 do
          count:with("survivor"):inc()
          count:with("survivor " .. n % 1000):inc()
          latency:with("survivor"):record(n)
          n = n + 1
        end
        stop[1] = n
      end)
    end

    local function assert_survivor(pid, stop)
      stop[0] = 1
      assert.equal(0, fork.wait(pid))
      assert.is_true(stop[1] > 0)
      assert.equal(stop[1], count:with("survivor"):value())
      assert.equal(stop[1], latency:with("survivor"):value():count())
    end

    it("keeps every total", function()
      local stop = fork.shared(2)
      local bystander = survivor(stop)
      local notes = kill_all(function(k, note)
        local own, timed = count:with(k), latency:with("t" .. k % 10)
        while true do
          own:inc()
          note()
          timed:record(math.random() * 100)
        end
      end)
      assert_survivor(bystander, stop)
      local all = 0
      for k = 1, KILLS do
        local counted = count:with(k):value()
        assert.is_true(counted == notes[k] or counted == notes[k] + 1, counted .. " of " .. notes[k])
        all = all + notes[k]
      end
      local timed = 0
      for k = 0, 9 do
        timed = timed + latency:with("t" .. k):value():count()
      end
      assert.is_true(timed <= all and timed >= all - KILLS)
    end)

    it("goes on creating series", function()
      local stop = fork.shared(2)
      local bystander = survivor(stop)
      local notes = kill_all(function(k, note)
        local i = 0
        while true do
          count:with(k .. "/" .. i % 500):inc()
          note()
          i = i + 1
          if i % 50 == 0 then count:remove { t = k .. "/" .. (i - 50) % 500 } end
        end
      end)
      assert_survivor(bystander, stop)
      assert.is_true(notes[1] >= 0)
      for i = 1, 1000 do
        count:with("after " .. i):inc()
        assert.equal(1, count:with("after " .. i):value())
      end
      collect.samples(client:text())
    end)
  end)

  it("by unrelated processes shares a segment_path", function()
    local path = files.name()
    local one = children.spawn(SHARED_PATH, {}, path, "a")
    local other = children.spawn(SHARED_PATH, {}, path, "b")
    client = chalk.new { segment_path = path }
    local jobs = client:count("jobs", TAGGED)
    for _ = 1, 100000 do
      jobs:with("both"):inc()
    end
    assert.same({ 0, "" }, { one.finish() })
    assert.same({ 0, "" }, { other.finish() })
    assert.equal(300000, jobs:with("both"):value())
    assert.equal(1, jobs:with("b100000"):value())
    local seen = collect.samples(client:text())
    assert.equal(200000, seen.durations_count)
    assert.equal(1, seen['jobs_total{t="a1000"}'])
  end)

  for _, mode in ipairs { "on", "off" } do
    it("by finalizers into the very series being recorded is exact with the JIT compiler " .. mode, function()
      local code, output = children.run(FINALIZER:format("jit." .. mode .. "()"))
      assert.same({ 0, "true\ttrue\ttrue\ttrue\ttrue\n" }, { code, output })
    end)
  end

  describe("notices in a compiled loop that another process dropped the series:", function()
    -- Records in a tight loop; in the middle of it a child drops the metric's series. What was recorded after the drop
    -- must be in the series' successor. Returns how many records came surely after it.
    local function record_across_drop(metric, record)
      local flags = fork.shared(2)
      local pid = fork.child(function()
        wait.till(function() return flags[0] >= 1 end)
        assert(metric:remove { t = "x" })
        flags[1] = 1
      end)
      local series, after = metric:with "x", 0
      for _ = 1, 300 do
        record(series, 1)
      end
      flags[0] = 1
      for i = 1, 5e9 do
        record(series, i)
        if flags[1] == 1 then
          after = after + 1
          if after == 100000 then break end
        end
      end
      assert.equal(0, fork.wait(pid))
      return after
    end

    it("count", function()
      local after = record_across_drop(count, function(series) series:inc() end)
      local seen = collect.samples(client:text())['c_total{t="x"}']
      assert.is_true(seen and seen >= after - 1, tostring(seen))
    end)

    it("gauge", function()
      record_across_drop(gauge, function(series, i) series:set(i) end)
      assert.is_true((collect.samples(client:text())['g{t="x"}'] or 0) >= 100000)
    end)

    it("histogram", function()
      local after = record_across_drop(latency, function(series, i) series:record(i) end)
      local seen = collect.samples(client:text())['h_count{t="x"}']
      assert.is_true(seen and seen >= after - 1, tostring(seen))
    end)
  end)

  it("in a child whose parent is gone reaches the exporters, and is scraped at the same address", function()
    local path, socket = files.name(), require("luv").new_tcp()
    socket:bind("127.0.0.1", 0)
    local address = "127.0.0.1:" .. socket:getsockname().port
    socket:close()
    require("luv").run "nowait"
    local results = files.name()
    local code, output = children.run(ORPHAN, {}, path, address, results)
    assert.same({ 0, "" }, { code, output })
    assert.equal("15\njobs_total 15", files.read(results))
    local sent = 0
    for delta in files.read(path):gmatch "delta=(%d+)" do
      sent = sent + tonumber(delta)
    end
    assert.equal(15, sent)
  end)
end)
