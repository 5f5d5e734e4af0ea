--- Exporters are added later, reordered, renamed, or fail for hours of a simulated clock while series become idle. The
--- differences that each gets must add up to exactly what the documentation promises.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local files = require "support.files"
local log = require "chalk.base.log"

local TAGGED = { tags = { { tag = "t" } } }
local IDLE, HOUR, DAY = 60, 3600, 86400

describe("the cursors of exporters", function()
  local path, now, client, count, latency
  local write = log.write

  before_each(function()
    path, now = files.name(), 1000
    log.write = function() end
  end)

  after_each(function()
    log.write = write
    if client then client:shutdown() end
    client = nil
    files.clean()
  end)

  -- Returns an exporter that sums the differences of successful batches. With `away` it reads the batch and then fails.
  local function exporter(name)
    local self = { name = name, c = 0, h = 0, away = false }
    function self.export(_, batch)
      local c, h = 0, 0
      for m in batch:each() do
        if m.name == "c" then
          assert(m.delta >= 0)
          c = c + m.delta
        elseif m.name == "h" then
          h = h + m.delta_sketch:count()
        end
      end
      if self.away then return nil, "away" end
      self.c, self.h = self.c + c, self.h + h
      return true
    end
    return self
  end

  -- Starts a new client with these exporters on the same segment, as after a restart.
  local function start(...)
    if client then
      client:shutdown()
      client = nil
      collectgarbage()
    end
    client = chalk.new {
      driver = "manual",
      segment_path = path,
      idle_timeout = IDLE,
      exporters = { ... },
      clock = function() return now end,
    }
    count, latency = client:count("c", TAGGED), client:histogram("h", TAGGED)
  end

  local function record(tag, n)
    count:with(tag):inc(n)
    local series = latency:with(tag)
    for i = 1, n do
      series:record(i)
    end
  end

  local function flush(seconds)
    now = now + seconds
    client:flush()
    count:with "tick" -- a lookup, as an application makes them all the time
    client:text()
  end

  local function assert_sent(sums, n) assert.same({ n, n }, { sums.c, sums.h }) end

  it("start at zero in the first configuration, and at the totals of the time if added later", function()
    local first, late = exporter "first", exporter "late"
    start(first)
    record("x", 5)
    flush(10)
    record("x", 3)
    start(first, late) -- the last flush of the old client sent the 3
    flush(10)
    record("x", 2)
    record("y", 1)
    flush(10)
    assert_sent(first, 11)
    assert_sent(late, 3)
  end)

  it("are found by name in any order of the exporters", function()
    local a, b, c = exporter "a", exporter "b", exporter "c"
    start(a, b, c)
    local all = 0
    for round, order in ipairs { { a, b, c }, { c, a, b }, { b, c, a }, { c, b, a }, { a, b, c } } do
      b.away = round % 2 == 1
      start(unpack(order))
      for i = 1, 5 do
        record("x" .. i, round)
        all = all + round
      end
      flush(10)
      assert_sent(a, all)
      assert_sent(c, all)
    end
    b.away = false
    flush(10)
    assert_sent(b, all)
  end)

  it("start again under another name, and continue under the old one", function()
    local old, new = exporter "old", exporter "new"
    start(old)
    record("x", 5)
    flush(10)
    start(new)
    record("x", 7)
    flush(10)
    assert_sent(new, 7)
    start(old)
    record("x", 1)
    flush(10)
    assert_sent(old, 13)
  end)

  it("are freed after a day in which no exporter had the name", function()
    local old, other = exporter "old", exporter "other"
    start(old, other)
    record("x", 5)
    flush(10)
    start(other)
    record("x", 7)
    flush(DAY / 2)
    flush(DAY / 2 + 100)
    record("x", 1)
    flush(10)
    start(old, other)
    record("x", 2)
    flush(10)
    assert_sent(old, 7)
    -- The series became idle in that time and were reclaimed, but what was sent before stays sent.
    assert_sent(other, 15)
  end)

  it("keep everything for an exporter that fails for less than the idle timeout", function()
    local well, ill = exporter "well", exporter "ill"
    start(well, ill)
    record("idle", 9)
    record("busy", 1)
    flush(10)
    ill.away = true
    record("idle", 4)
    for _ = 1, 5 do
      record("busy", 1)
      flush(10)
    end
    ill.away = false
    record("busy", 1)
    for _ = 1, 20 do
      flush(30)
    end
    assert_sent(well, 20)
    assert_sent(ill, 20)
    assert.equal(0, client:info().quarantined)
  end)

  it("keep live series for an exporter that fails for hours, while idle series are reclaimed", function()
    local well, ill = exporter "well", exporter "ill"
    start(well, ill)
    record("idle", 9)
    record("busy", 1)
    flush(10)
    ill.away = true
    record("idle", 4)
    local all, lost, most = 14, 4, 0
    for i = 1, 5 * HOUR / 30 do
      record("busy", 1)
      all = all + 1
      if i % 20 == 0 and i < 5 * HOUR / 30 - 20 then
        record("visitor " .. i, 2)
        all, lost = all + 2, lost + 2
      end
      flush(30)
      most = math.max(most, client:info().series + client:info().quarantined)
    end
    ill.away = false
    record("back", 3)
    all = all + 3
    flush(30)
    flush(30)
    assert_sent(well, all)
    assert_sent(ill, all - lost)
    assert.is_true(most < 20, most .. " series were kept for an exporter that fails")
  end)
end)
