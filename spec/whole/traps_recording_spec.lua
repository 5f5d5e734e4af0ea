--- Records at bad moments: from finalizers, beside drops, across forks. Counts must not be lost, and must not be stored
--- into another series.

package.path = "spec/?.lua;" .. package.path

local ffi = require "ffi"
local chalk = require "chalk"
local children = require "support.children"
local collect = require "support.collect"
local clock = require("chalk.core").C.chalk_now
local files = require "support.files"
local fork = require "support.fork"
local view = require "chalk.read.view"
local wait = require "support.wait"

local TAGGED = { tags = { { tag = "t" } } }

-- Finalizers look up new series while the program does too, and drop some of them.
local MISSES = [[
  %s
  local client = require("chalk").new()
  local spec = { tags = { { tag = "t" } } }
  local count, latency, doomed = client:count("c", spec), client:histogram("h", spec), client:count("d", spec)
  local served, n = 0, 4000
  local function arm()
    getmetatable(newproxy(true)).__gc = function()
      if served == 5 * n then return end
      served = served + 1
      count({ t = "finalizer with a longer name " .. served }):inc()
      latency:with("finalizer " .. served %% 50):record(1)
      if served %% 100 == 0 then
        doomed:with("x" .. served %% 700):inc()
        doomed:remove { t = "x" .. served %% 500 }
      end
      arm()
    end
  end
  for _ = 1, 10 do arm() end
  collectgarbage("setpause", 50)
  collectgarbage("setstepmul", 1000)
  for i = 1, n do
    count:with("main " .. i):inc()
    latency:with("main " .. i %% 50):record(1)
    if i %% 100 == 0 then
      doomed:with("y" .. i %% 700):inc()
      doomed:remove { t = "y" .. i %% 500 }
    end
  end
  collectgarbage("setpause", 200)
  collectgarbage("setstepmul", 200)
  local all, bad, timed = served, 0, 0
  served = 5 * n
  for i = 1, n do
    if count:with("main " .. i):value() ~= 1 then bad = bad + 1 end
  end
  for i = 1, all do
    if count:with("finalizer with a longer name " .. i):value() ~= 1 then bad = bad + 1 end
  end
  for i = 0, 49 do
    timed = timed + latency:with("main " .. i):value():count() + latency:with("finalizer " .. i):value():count()
  end
  print(all > 1000, bad, timed == n + all)
]]

-- Finalizers and the program record into the same series, which is dropped again and again, by every verb that adds.
local SAME = [[
  %s
  local core = require "chalk.core"
  local exporter = { c = 0, h = 0 }
  function exporter:export(batch)
    for m in batch:each() do
      if m.name == "c" then self.c = self.c + m.delta end
      if m.name == "h" then self.h = self.h + m.delta_sketch:count() end
    end
    return true
  end
  local client = require("chalk").new { driver = "manual", exporters = { exporter } }
  local spec = { tags = { { tag = "t" } } }
  local count, latency = client:count("c", spec), client:histogram("h", spec)
  local load = client:gauge("g", { tags = { { tag = "t" } }, across = "sum" })
  local c, h, g = count:with("x"), latency:with("x"), load:with("x")
  local served, ending = 0, false
  local function arm()
    getmetatable(newproxy(true)).__gc = function()
      c:inc()
      h:record(2)
      g:inc()
      served = served + 1
      if served %% 100 == 0 then
        count:clear()
        latency:remove { t = "x" }
      end
      if not ending then arm() end
    end
  end
  for _ = 1, 20 do arm() end
  collectgarbage("setpause", 50)
  collectgarbage("setstepmul", 1000)
  local n, waste, ends = 0, nil, core.C.chalk_now() + 1
  repeat
    for _ = 1, 2000 do
      c:inc()
      h:record(3)
      g:inc()
      waste = { n }
      n = n + 1
    end
    client:flush()
  until core.C.chalk_now() > ends
  ending = true
  collectgarbage()
  collectgarbage()
  c:inc(0)
  for _ = 1, 4 do client:flush() end
  local all = n + served
  print(served > 1000, exporter.c - all, exporter.h - all, g:value() - all)
]]

-- A child, which has recorded or not, executes another program, which lists its descriptors.
local EXEC = [[
  local chalk = require "chalk"
  local ffi = require "ffi"
  local fork = require "support.fork"
  ffi.cdef "int execv(const char *path, const char *const *arguments);"
  local jobs = chalk.count("jobs")
  chalk.init { flush_interval = 0.05, exporters = {
    chalk.exporter.custom("support.file_exporter", { path = arg[1] }),
    chalk.exporter.prometheus { listen = "127.0.0.1:0" },
  } }
  jobs:inc()
  for i = 1, 2 do
    local pid = fork.child(function()
      if i == 2 then jobs:inc(10) end
      local list = "for f in /proc/$$/fd/*; do readlink $f || true; done"
      local words = ffi.new("const char *[4]", { "/bin/sh", "-c", list })
      ffi.C.execv(words[0], words)
    end)
    assert(fork.wait(pid) == 0)
  end
  jobs:inc(100)
  assert(chalk.flush())
  print(jobs:value())
  os.exit(0)
]]

describe("a trap for records:", function()
  local client

  after_each(files.clean)

  for _, mode in ipairs { "on", "off" } do
    it("finalizers look up new series in the middle of a lookup, with the JIT compiler " .. mode, function()
      local code, output = children.run(MISSES:format("jit." .. mode .. "()"))
      assert.same({ 0, "true\t0\ttrue\n" }, { code, output })
    end)

    it("finalizers record into and drop the series being recorded, with the JIT compiler " .. mode, function()
      local code, output = children.run(SAME:format("jit." .. mode .. "()"))
      assert.same({ 0, "true\t0\t0\t0\n" }, { code, output })
    end)
  end

  -- It happens between the core's answer and the copy of it, where a finalizer may run.
  it("another series is bound or dropped in the middle of a lookup", function()
    client = chalk.new()
    local count, others = client:count("c", TAGGED), client:count("others", TAGGED)
    local series, nested, times = require "chalk.record.series", false, 0
    local copy = series.copy
    finally(function() series.copy = copy end)
    function series.copy(...)
      times = times + 1
      if not nested and times % 2 == 0 then -- the second try of the lookup is left alone
        nested = true
        if times % 3 > 0 then others:with(("x"):rep(times % 7) .. times):inc() end
        if times % 3 == 0 then others:remove { t = "x" } end
        nested = false
      end
      return copy(...)
    end
    for i = 1, 100 do
      count:with("with " .. i):inc()
      count({ t = "call " .. i }):inc()
      count:with(i):inc()
    end
    series.copy = copy
    for i = 1, 100 do
      for _, value in ipairs { "with " .. i, "call " .. i, i } do
        assert.equal(1, count:with(value):value(), value)
      end
    end
  end)

  describe("another process drops what a compiled loop records into, by", function()
    -- Records in a tight loop, while a child drops all series of the metric. Returns the number of records that
    -- certainly came after the drop.
    local function record_across_drop(metric, record)
      local flags = fork.shared(2)
      local pid = fork.child(function()
        wait.till(function() return flags[0] >= 1 end)
        assert(metric:clear() == 1)
        flags[1] = 1
      end)
      for i = 1, 300 do
        record(i)
      end
      flags[0] = 1
      local after = 0
      for i = 1, 5e9 do
        record(i)
        if flags[1] == 1 then
          after = after + 1
          if after == 50000 then break end
        end
      end
      assert.equal(0, fork.wait(pid))
      return after
    end

    local function sample(id) return collect.samples(client:text())[id] or -1 end

    before_each(function() client = chalk.new() end)

    -- Each way: name, kind, spec, a function that returns the record, the sample that shows it.
    local WAYS = {
      {
        "count:with",
        "count",
        TAGGED,
        function(m)
          return function() m:with("x"):inc() end
        end,
        'm_total{t="x"}',
      },
      {
        "count{}",
        "count",
        TAGGED,
        function(m)
          return function() m({ t = "x" }):inc() end
        end,
        'm_total{t="x"}',
      },
      {
        "count:record",
        "count",
        TAGGED,
        function(m)
          local s = m:with "x"
          return function() s:record(1) end
        end,
        'm_total{t="x"}',
      },
      {
        "count:inc",
        "count",
        TAGGED,
        function(m)
          local s = m:with "x"
          return function() s:inc() end
        end,
        'm_total{t="x"}',
      },
      {
        "count:inc of a number",
        "count",
        TAGGED,
        function(m)
          local s = m:with "x"
          return function(i) s:inc(math.min(i, 1)) end
        end,
        'm_total{t="x"}',
      },
      {
        "a count without tags",
        "count",
        {},
        function(m)
          return function() m:inc() end
        end,
        "m_total",
      },
      {
        "gauge:inc",
        "gauge",
        TAGGED,
        function(m)
          local s = m:with "x"
          return function() s:inc() end
        end,
        'm{t="x"}',
      },
      {
        "gauge:with",
        "gauge",
        TAGGED,
        function(m)
          return function() m:with("x"):inc() end
        end,
        'm{t="x"}',
      },
      {
        "gauge{}",
        "gauge",
        TAGGED,
        function(m)
          return function() m({ t = "x" }):inc() end
        end,
        'm{t="x"}',
      },
      {
        "a gauge without tags",
        "gauge",
        {},
        function(m)
          return function() m:inc() end
        end,
        "m",
      },
      {
        "a summed gauge",
        "gauge",
        { tags = TAGGED.tags, across = "sum" },
        function(m)
          local s = m:with "x"
          return function() s:inc() end
        end,
        'm{t="x"}',
      },
      {
        "histogram:record",
        "histogram",
        TAGGED,
        function(m)
          local s = m:with "x"
          return function(i) s:record(i) end
        end,
        'm_count{t="x"}',
      },
      {
        "histogram:with",
        "histogram",
        TAGGED,
        function(m)
          return function(i) m:with("x"):record(i) end
        end,
        'm_count{t="x"}',
      },
      {
        "a histogram without tags",
        "histogram",
        {},
        function(m)
          return function(i) m:record(i) end
        end,
        "m_count",
      },
    }
    for _, way in ipairs(WAYS) do
      it(way[1], function()
        local metric = client[way[2]](client, "m", way[3])
        local after = record_across_drop(metric, way[4](metric))
        assert.is_true(sample(way[5]) >= after - 1, tostring(sample(way[5])))
      end)
    end

    for _, across in ipairs { "last", "max" } do
      for _, way in ipairs { "gauge:set", "gauge:with", "gauge{}", "a gauge without tags" } do
        it(way .. " set, across " .. across, function()
          local tags = way ~= "a gauge without tags" and TAGGED.tags or nil
          local metric = client:gauge("m", { tags = tags, across = across })
          local series, last = tags and metric:with "x" or metric, 0
          local ways = {
            ["gauge:with"] = function(i) metric:with("x"):set(i) end,
            ["gauge{}"] = function(i) metric({ t = "x" }):set(i) end,
          }
          local set = ways[way] or function(i) series:set(i) end
          record_across_drop(metric, function(i)
            set(i)
            last = i
          end)
          assert.equal(last, sample(tags and 'm{t="x"}' or "m"))
        end)
      end
    end
  end)

  it("a process forks from a coroutine and in the middle of a loop, and its children fork again", function()
    client = chalk.new()
    local count, latency = client:count("c", TAGGED), client:histogram("h", TAGGED)
    local c, h, n = count:with "x", latency:with "x", 20000
    local function work(depth)
      local pid
      for i = 1, n do
        c:inc()
        h:record(i)
        count:with("x"):inc()
        if i == n / 2 and depth > 0 then
          pid = coroutine.wrap(function() return fork.child(work, depth - 1) end)()
        end
      end
      if pid then assert(fork.wait(pid) == 0) end
    end
    local outer = coroutine.create(function()
      for depth = 0, 3 do
        coroutine.yield(fork.child(work, depth))
      end
    end)
    for _ = 0, 3 do
      local _, pid = coroutine.resume(outer)
      work(0)
      assert.equal(0, fork.wait(pid))
    end
    -- 1 + 2 + 3 + 4 child processes each run a whole loop, and this process runs four.
    local loops = 10 + 4
    assert.equal(2 * loops * n, c:value())
    assert.equal(loops * n, h:value():count())
    assert.is_true(client:info().writers <= 6)
  end)

  it("a child removes series of a metric that was freed and defined again under another number", function()
    client = chalk.new()
    local C, accessor = require("chalk.core").C, require "chalk.record.accessor"
    local count, flags = client:count("c", TAGGED), fork.shared(1)
    count:with("x"):inc()
    local pid = fork.child(function()
      wait.till(function() return flags[0] == 1 end)
      assert(count:remove { t = "x" })
      assert(count:clear() == 1)
    end)
    local state = accessor.state_of(count)
    local number, metrics = state.number, client:info().metrics
    C.chalk_undefine(client.writer, number)
    local generation = C.chalk_generation(client.segment, 1)
    wait.till(function()
      C.chalk_writer_tick(client.writer)
      assert(C.chalk_hold(client.segment, generation) == 1)
      local v = view.take(client.segment)
      C.chalk_sweep(v.snapshot, clock(), ffi.new "double[3]")
      view.free(v)
      C.chalk_release(client.segment)
      return client:info().metrics < metrics
    end)
    local stranger = client:count("stranger", TAGGED)
    assert.equal(number, accessor.state_of(stranger).number)
    stranger:with("x"):inc(5)
    client:define(state)
    count:with("x"):inc()
    count:with("y"):inc()
    flags[0] = 1
    assert.equal(0, fork.wait(pid))
    local samples = collect.samples(client:text())
    assert.same({ 5 }, { samples['stranger_total{t="x"}'], samples['c_total{t="x"}'], samples['c_total{t="y"}'] })
  end)

  it("children execute another program, which has no slot, lock or descriptor of theirs", function()
    local path = files.name()
    local code, output = children.run(EXEC, {}, path)
    local total = output:match "(%d+)\n$"
    assert.same({ 0, "111" }, { code, total }, output)
    for line in output:gmatch "[^\n]+" do
      assert.is_nil(
        line:find("chalk", 1, true) or line:find("socket", 1, true) or line:find("event", 1, true),
        output
      )
    end
    local sent = 0
    for delta in files.read(path):gmatch "delta=(%d+)" do
      sent = sent + tonumber(delta)
    end
    assert.equal(111, sent)
  end)

  it("series are dropped by idling, remove and clear, and created again, while others hold handles", function()
    local now, counted, timed, flags = 1000, 0, 0, fork.shared(8)
    local exporter = {
      export = function(_, batch)
        for m in batch:each() do
          if m.name == "c" then
            assert(m.delta >= 0 and m.delta <= m.total)
            counted = counted + m.delta
          elseif m.name == "h" then
            for _, _, n in m.delta_sketch:buckets() do
              assert(n > 0)
            end
            timed = timed + m.delta_sketch:count()
          end
        end
        return true
      end,
    }
    client = chalk.new {
      driver = "manual",
      idle_timeout = 10,
      exporters = { exporter },
      clock = function() return now end,
    }
    local count, latency = client:count("c", TAGGED), client:histogram("h", TAGGED)
    local c, h, pids = {}, {}, {}
    for i = 0, 9 do
      c[i], h[i] = count:with(i), latency:with(i)
    end
    for k = 1, 3 do
      pids[k] = fork.child(function()
        local n = 0
        while flags[0] == 0 do
          -- Only a few series are recorded at a time, so that the others become idle.
          for i = 0, 2 do
            local at = (math.floor(n / 3000) + i) % 10
            c[at]:inc()
            h[at]:record(n % 100 + 1)
            n = n + 1
          end
          if n % 3000 == 0 then
            flags[4 + k] = n
            wait.till(function() return flags[4] == 0 end, 40)
          end
        end
        flags[k] = n
      end)
    end
    local dropped, round, deadline = 0, 0, clock() + 30
    -- The loop ends when enough has happened, on a slow machine too.
    while (round < 200 or dropped < 100 or flags[5] + flags[6] + flags[7] < 100000) and clock() < deadline do
      round = round + 1
      flags[4] = round % 2
      now = now + round % 4 * 4
      assert(client:flush())
      if count:remove { t = round % 10 } then dropped = dropped + 1 end
      if latency:remove { t = round % 10 } then dropped = dropped + 1 end
      if round % 20 == 0 then dropped = dropped + count:clear() + latency:clear() end
    end
    flags[4], flags[0] = 0, 1
    local all = 0
    for k = 1, 3 do
      assert.equal(0, fork.wait(pids[k]))
      all = all + flags[k]
    end
    for _ = 1, 4 do
      client:text()
      assert(client:flush())
    end
    assert.is_true(dropped >= 100 and all >= 100000, dropped .. " drops, " .. all .. " records")
    assert.same({ all, all, 0 }, { counted, timed, client:info().quarantined })
  end)
end)
