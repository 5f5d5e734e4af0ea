--- The event stream under load. If this file fails, events are lost although a buffer has space for them, lost events
--- are not counted, or clients cost memory or descriptors that are never freed.
---
--- STREAM_SECONDS is the duration of the run with a client that never reads (3).

package.path = "spec/?.lua;bench/?.lua;" .. package.path

local beds = require "support.stream_bed"
local chalk = require "chalk"
local children = require "support.children"
local cjson = require "cjson"
local counters = require "stream.counter"
local descriptors = require "support.descriptors"
local exposition = require "support.exposition"
local ffi = require "ffi"
local files = require "support.files"
local fork = require "support.fork"
local observer = require "support.observer"
local request = require "support.request"
local stream_client = require "support.stream_client"
local wait = require "support.wait"

local SECONDS = tonumber(os.getenv "STREAM_SECONDS")
local SANITIZED = (os.getenv "LD_PRELOAD" or ""):find "san" ~= nil

-- Returns the events that Google's library reads from a captured stream.
local function check(path)
  local pipe = io.popen(("env -u LD_PRELOAD /usr/bin/python3 spec/support/stream_check.py %s 2>&1"):format(path))
  local text = pipe:read "*a"
  pipe:close()
  local ok, answer = pcall(cjson.decode, text)
  return ok and answer or error(text:sub(1, 2000), 2)
end

local NAMES = { [0] = "app_sent", "app_level_seconds", "app_took_seconds" }
local OPERATIONS = { [0] = "increment_counter", "set_gauge", "record_histogram" }

describe("a captured stream", function()
  local bed

  after_each(function()
    bed:close()
    files.clean()
  end)

  it("contains every event of two processes, exact and in order, as Google's protobuf library reads it", function()
    local EVENTS = SANITIZED and 50000 or 1000000
    local EACH, SHARDS = EVENTS / 2, 20
    bed = beds.start("thread", { buffer_size = 2 ^ 20, namespace = "app" }, { global_tags = { env = "test" } })
    local client = bed.client
    local spec = { tags = { "by", "shard" }, unit = "seconds", description = "Löad" }
    local sent, level = client:count("sent", { tags = { "by", "shard" } }), client:gauge("level", spec)
    local took = client:histogram("took", spec)
    -- The n-th event of a process: one of three kinds, alternating shards, a value that a double holds exactly.
    local function record(by)
      local shards = {}
      for shard = 0, SHARDS - 1 do
        shards[shard] = { [0] = sent:with(by, shard), level:with(by, shard), took:with(by, shard) }
      end
      for i = 0, EACH - 1 do
        local kind = i % 3
        shards[math.floor(i / 3) % SHARDS][kind]:record(i / 2 ^ kind)
      end
    end
    local path = files.name()
    local capture = assert(io.open(path, "wb"))
    local reader = bed:connect { capture = capture }
    local child = fork.child(record, "child")
    record "parent"
    assert.equal(0, fork.wait(child))
    -- Read until no more bytes arrive.
    local quiet, bytes = 0, 0
    wait.till(function()
      reader:read()
      quiet = reader.bytes == bytes and quiet + 1 or 0
      bytes = reader.bytes
      return quiet == 100 and bytes > 0
    end, 60)
    capture:close()
    assert.equal(0, bed:dropped())

    local answer = check(path)
    assert.same({ EVENTS, EVENTS + 3, 0 }, { answer.metrics, answer.events, answer.pending })
    assert.same({
      { name = "app_sent", type = "counter", unit = cjson.null, description = "" },
      { name = "app_level_seconds", type = "gauge", unit = "seconds", description = "Löad" },
      { name = "app_took_seconds", type = "histogram", unit = "seconds", description = "Löad" },
    }, answer.metadata)
    local expected = {}
    for _, by in ipairs { "parent", "child" } do
      for i = 0, EACH - 1 do
        local kind, shard = i % 3, math.floor(i / 3) % SHARDS
        local key = ("%s %s %d"):format(NAMES[kind], by, shard)
        local all = expected[key] or { count = 0, sum = 0, moment = 0 }
        all.count = all.count + 1
        all.sum, all.moment = all.sum + i / 2 ^ kind, all.moment + all.count * i / 2 ^ kind
        expected[key], all.operation = all, OPERATIONS[kind]
      end
    end
    for _, series in ipairs(answer.series) do
      local labels = series.labels
      assert.equal("test", labels.env)
      local key = ("%s %s %s"):format(series.name, labels.by, labels.shard)
      local all = assert(expected[key], key)
      assert.same({ all.count, all.sum, all.moment }, { series.count, series.sum, series.moment })
      assert.same({ [all.operation] = all.count }, series.operations)
      expected[key] = nil
    end
    assert.is_nil(next(expected))
    assert.is_true(answer.last - answer.first < 60)
  end)
end)

-- Returns the bytes of memory that is not shared.
local function resident(pid)
  return tonumber(files.read(("/proc/%d/status"):format(pid)):match "RssAnon:%s+(%d+)") * 1024
end

describe("clients that come and go while records are made", function()
  local bed, port

  before_each(function()
    port = beds.port()
    bed = beds.start("thread", {}, { exporters = { chalk.exporter.prometheus { listen = "127.0.0.1:" .. port } } })
  end)

  after_each(function() bed:close() end)

  it("leave no memory or descriptors behind after a thousand times, and no count is lost", function()
    local jobs = bed.client:count("jobs", { tags = { "by" } })
    local took = bed.client:histogram "took"
    local flags, parent = fork.shared(2), fork.pid()
    local mine = jobs:with "parent"
    mine:inc()
    local child = fork.child(function()
      local own, n = jobs:with "child", 0
      while flags[0] == 0 and fork.parent() == parent do
        for _ = 1, 1000 do
          own:inc()
        end
        took:record(1)
        n = n + 1000
      end
      flags[1] = n
    end)
    local n, before, memory = 1, nil, nil
    for i = 1, 1000 do
      local client = wait.till(function() return stream_client.connect(bed.port) end)
      if i % 3 > 0 then
        client:till(function() return client.bytes > 0 end) -- it is served
        client:read(1)
      end
      mine:inc()
      n = n + 1
      if i % 2 == 0 then
        client:reset()
      else
        client:close()
      end
      if i == 200 then
        collectgarbage()
        before, memory = descriptors.count(), resident(fork.pid())
      end
    end
    flags[0] = 1
    assert.equal(0, fork.wait(child))
    bed:till(function() return bed:tapped() == 0 end, "the tap's end")
    bed:till(function() return descriptors.count() <= before end, "the end of connections")
    collectgarbage()
    local grown = resident(fork.pid()) - memory
    assert.is_true(grown < (SANITIZED and 64e6 or 4e6), grown .. " bytes more")
    mine:inc()
    assert.equal(mine.epoch, mine.shared[0] + mine.own[0]) -- the inlined path
    local samples = exposition.parse(assert(request.get(port)).body)
    assert.equal(n + 1, samples['jobs_total{by="parent"}'])
    assert.equal(flags[1], samples['jobs_total{by="child"}'])
    assert.equal(flags[1] / 1000, samples["took_count"])
    assert.equal(0, bed:connected())
  end)
end)

-- A program that records at full rate until its time is over, writes to a file what it recorded, and, when another file
-- exists, how many events were dropped. Its arguments: port, seconds, buffer size, the two files.
local FULL_RATE = [[
  local chalk, core = require "chalk", require "chalk.core"
  local fork, wait = require "support.fork", require "support.wait"
  chalk.init { exporters = {
    chalk.exporter.stream { listen = "127.0.0.1:" .. arg[1], buffer_size = tonumber(arg[3]) },
  } }
  local jobs, load, took = chalk.count("jobs"), chalk.gauge("load"), chalk.histogram("took")
  jobs:inc() load:set(1) took:record(1)
  io.write(fork.pid(), "\n")
  io.flush()
  local function dropped(where)
    return tonumber(chalk.text():match('chalk_stream_dropped_total{where="' .. where .. '"} (%d+)') or 0)
  end
  local function say(...)
    local file = assert(io.open(arg[4] .. ".part", "w"))
    file:write(table.concat({ ... }, " "))
    file:close()
    os.rename(arg[4] .. ".part", arg[4])
  end
  wait.till(function() return chalk.text():find 'chalk_stream_clients{[^\n]*} 2\n' end)
  local C, n, memory = core.C, 0, chalk.info().memory
  local ends = C.chalk_now() + tonumber(arg[2])
  while C.chalk_now() < ends do
    for i = 1, 1000 do
      jobs:inc() load:set(i) took:record(i)
    end
    n = n + 3000
  end
  say(n)
  wait.till(function() return io.open(arg[5]) end, 60)
  say(n, dropped "ring", dropped "series", dropped "client", chalk.info().memory - memory)
  os.exit(0)
]]

describe("a client that never reads", function()
  local node, stop, clients

  before_each(function()
    stop, clients, node = files.name(), {}, nil
  end)

  after_each(function()
    files.make_at(stop)
    if node then node.finish() end
    for _, client in ipairs(clients) do
      client:close()
    end
    files.clean()
  end)

  -- A client that counts frames without parsing them.
  local function counting(port, room)
    local counter = counters.new()
    local capture = { write = function(_, bytes) counter:take(ffi.cast("const uint8_t *", bytes), #bytes) end }
    local client = wait.till(function() return stream_client.connect(port, { room = room, capture = capture }) end)
    clients[#clients + 1] = client
    return client, counter
  end

  it("costs no more memory than its buffer at full rate, and every event is sent or counted as dropped", function()
    local BUFFER, LENGTH, METADATA = 2 ^ 18, 80, 3
    local port, said, seconds = beds.port(), files.name(), SECONDS or 2
    node = children.start(FULL_RATE, { limit = seconds + 90 }, port, seconds, BUFFER, said, stop)
    local before, most = resident(node.pid), 0
    local blocked, of_blocked = counting(port, 4096)
    local reader, of_reader = counting(port)
    wait.till(function()
      reader:read(200)
      most = math.max(most, resident(node.pid))
      return files.read(said) ~= ""
    end, seconds + 30)
    local quiet, bytes = 0, 0
    wait.till(function()
      reader:read(200)
      blocked:read(200)
      quiet = reader.bytes + blocked.bytes == bytes and quiet + 1 or 0
      bytes = reader.bytes + blocked.bytes
      return quiet == 100
    end, 60)
    files.make_at(stop)
    local pattern = "(%d+) (%d+) (%d+) (%d+) (%d+)"
    wait.till(function() return files.read(said):find(pattern) end)
    local recorded, in_rings, of_series, by_clients, segment = files.read(said):match(pattern)
    local streamed = recorded - in_rings
    local read, late = of_reader.frames - METADATA, of_blocked.frames - METADATA
    assert.is_true(of_reader:is_whole() and of_blocked:is_whole())
    assert.equal("0", of_series)
    assert.equal(tonumber(by_clients), (streamed - read) + (streamed - late))
    assert.is_true(late >= BUFFER and late < streamed and read > late)
    -- The log's size is a power of two; while it grows, the old and the new log exist. The segment has one ring per
    -- writer.
    local room = 3 * 2 ^ math.ceil(math.log(BUFFER * LENGTH, 2)) + 8e6
    assert.is_true(most - before < room or SANITIZED, most - before .. " bytes more")
    assert.is_true(tonumber(segment) < 64 * BUFFER, segment .. " bytes of the segment")
    if SECONDS then
      local words = "%d s: %d records, %d dropped in rings, %d missed by the reader, %.1f MB resident more, "
        .. "%.1f MB of segment"
      print(words:format(seconds, recorded, in_rings, streamed - read, (most - before) / 1e6, segment / 1e6))
    end
  end)

  it("loses the oldest events, and another client none, if records come as fast as that client reads", function()
    local BUFFER, BURST, ROUNDS = 2000, 1000, 400
    local bed = beds.start("thread", { buffer_size = BUFFER })
    local load = bed.client:gauge "load"
    local blocked, reader = bed:connect { room = 4096 }, bed:connect()
    for round = 1, ROUNDS do
      for i = 1, BURST do
        load:set((round - 1) * BURST + i)
      end
      bed:read(reader, BURST)
      for i, metric in ipairs(reader.metrics) do
        if metric.value ~= (round - 1) * BURST + i then error("no " .. (round - 1) * BURST + i) end
      end
      reader.metrics = {}
    end
    local last, missed, n = 0, 0, 0
    blocked:till(function()
      for _, metric in ipairs(blocked.metrics) do
        missed = missed + metric.value - last - 1
        last, n = metric.value, n + 1
      end
      blocked.metrics = {}
      return last == ROUNDS * BURST
    end)
    assert.equal(ROUNDS * BURST, n + missed)
    assert.is_true(missed > 0 and n >= BUFFER)
    bed:till(function() return bed:dropped "client" == missed end)
    assert.equal(missed, bed:dropped())
    bed:close()
  end)
end)

describe("metrics-observer", function()
  local program, reason = observer.install()

  it("shows the records of a program while it runs", function()
    if not program then return pending(reason) end
    local bed = beds.start "thread"
    local requests = bed.client:count("requests", { namespace = "http", tags = { "endpoint", "status" } })
    local sent = bed.client:count("sent", { unit = "bytes" })
    local open = bed.client:gauge("open", { tags = { "room" } })
    local took = bed.client:histogram("took", { unit = "seconds", tags = { "endpoint" } })
    local seen = observer.start(program, "127.0.0.1:" .. bed.port)
    finally(function()
      seen:stop()
      bed:close()
      files.clean()
    end)
    wait.till(function() return bed:tapped() ~= 0 end, 20, seen:screen())
    for i = 1, 1000 do
      requests:with("/a", "200"):inc()
      took:with("/a"):record(i / 1000)
    end
    requests:with("/b", "404"):inc(5)
    requests:with("/b", "404"):inc(0)
    sent:inc(1536)
    open:with("ä b"):set(10)
    open:with("ä b"):inc(2.5)
    open:with("ä b"):dec(20)
    local metrics
    local function of(name, labels) return metrics[observer.key(name, labels)] end
    wait.till(function()
      metrics = seen:metrics()
      local time = of("took_seconds", { endpoint = "/a" })
      return of("open", { room = "ä b" }) and time and time.max > 0.999
    end, 20)
    assert.equal("", seen:errors())
    assert.is_true(seen:connected())
    assert.same({ type = "counter", value = 1000 }, of("http_requests", { endpoint = "/a", status = "200" }))
    assert.same({ type = "counter", value = 5 }, of("http_requests", { endpoint = "/b", status = "404" }))
    assert.same({ type = "counter", value = 1536 }, of "sent_bytes")
    assert.same({ type = "gauge", value = -7.5 }, of("open", { room = "ä b" }))
    local expected = { min = 0.001, p50 = 0.5, p99 = 0.99, p999 = 0.999, max = 1 }
    for field, value in pairs(expected) do
      assert.near(value, of("took_seconds", { endpoint = "/a" })[field], 0.002, field)
    end
  end)
end)
