--- A StatsD receiver that disappears and comes back. If this file fails, it receives changes twice or never, or other
--- receivers are affected.

package.path = "spec/?.lua;" .. package.path

local beds = require "support.statsd_bed"
local chalk = require "chalk"
local collect = require "support.collect"
local files = require "support.files"
local log = require "chalk.base.log"
local uv = require "luv"
local wait = require "support.wait"

describe("a statsd receiver", function()
  local open, client, said
  local write = log.write

  local function bed_of(options, kind)
    local bed = beds.new(options, kind)
    open[#open + 1] = bed
    return bed
  end

  before_each(function()
    open, said = {}, {}
    log.write = function(_, message) said[#said + 1] = message end
  end)

  after_each(function()
    beds.shutdown(client, open)
    for _, bed in ipairs(open) do
      bed:close()
    end
    log.write = write
    files.clean()
  end)

  -- Flushes until a receiver that is back has everything that it missed. The exporter pauses after a failure.
  local function flush_until(condition)
    wait.till(function()
      assert.is_true(beds.flush(client, open))
      return condition()
    end)
  end

  for _, kind in ipairs { "unixgram", "unixstream", "udp" } do
    it("that is away for ten flushes receives everything afterwards, " .. kind, function()
      local bed = bed_of({ timestamps = true }, kind)
      client = bed:start()
      local hits = client:count("hits", { tags = { "a" } })
      local lat, open_now = client:histogram("lat", { tags = { "a" } }), client:gauge "open"
      local recorded, values = {}, 0
      for flush = 1, 30 do
        if flush == 11 then bed:die() end
        if flush == 21 then bed:revive() end
        for i = 1, 20 do
          local value = "v" .. (i + flush) % 25
          hits:with(value):inc(flush)
          lat:with(value):record(i)
          recorded[value] = (recorded[value] or 0) + flush
          values = values + 1
        end
        open_now:set(flush)
        assert.is_true(bed:flush())
        if flush == 10 then assert.equal(10, bed.agent.gauges.open) end
        if flush == 15 then wait.sleep(0.12) end -- the pause is over: it is tried again, in vain
      end
      flush_until(function() return bed.agent.gauges.open == 30 end)
      local count = 0
      for value, n in pairs(recorded) do
        assert.equal(n, bed.agent.counts["hits{a:" .. value .. "}"])
        count = count + bed.agent:count("lat{a:" .. value .. "}")
      end
      assert.equal(values, count)
    end)
  end

  for _, kind in ipairs { "unixgram", "unixstream" } do
    it(
      "that disappears in the middle of a flush receives the rest afterwards, and nothing twice, " .. kind,
      function()
        math.randomseed(3)
        local bed = bed_of({ write_timeout = 5, max_packet = 256 }, kind)
        client = bed:start()
        local hits = client:count("hits", { tags = { "a" } })
        local recorded = 0
        for _ = 1, 12 do
          for i = 1, 3000 do
            hits:with("v" .. i):inc(i)
            recorded = recorded + i
          end
          local after, timer = math.random(1, 15), uv.new_timer()
          -- The flush waits between two packets, because the queue is full, and goes on after the receiver's end.
          timer:start(after, 0, function()
            if bed.receiver then bed:die() end
          end)
          assert.is_true(bed:flush())
          timer:close()
          if not bed.receiver then bed:revive() end
        end
        local function sum()
          local n = 0
          for i = 1, 3000 do
            n = n + (bed.agent.counts["hits{a:v" .. i .. "}"] or 0)
          end
          return n
        end
        flush_until(function() return sum() >= recorded end)
        assert.equal(recorded, sum())
        assert.is_true(#said > 0, "it never went away in mid-flush")
      end
    )
  end

  -- Each of the three kinds of metrics has the tag values "v1" to "v3000". After a kill, only series of the packets
  -- that were sent and not read may be missing.
  local function check_kills(bed, recorded, kills)
    local wrong = 0
    for i = 1, 3000 do
      local id = ("hits{a:v%d}"):format(i)
      local got = (bed.agent.counts[id] or 0) + (bed.lost.counts[id] or 0)
      assert.is_true(got <= recorded[i], ("%s: %d of %d, more than was recorded"):format(id, got, recorded[i]))
      if got < recorded[i] then wrong = wrong + 1 end
    end
    local shortest = #"hits:1|c|#a:v1\n"
    assert.is_true(wrong <= kills * bed.options.max_packet / shortest, ("%d series miss something"):format(wrong))
  end

  for _, kind in ipairs { "unixgram", "unixstream" } do
    it("that is killed during a flush misses only unread packets and one more, " .. kind, function()
      math.randomseed(7)
      local bed = bed_of({ write_timeout = 5, max_packet = 256 }, kind)
      client = bed:start()
      local hits, recorded, kills = client:count("hits", { tags = { "a" } }), {}, 0
      for _ = 1, 12 do
        for i = 1, 3000 do
          hits:with("v" .. i):inc(i)
          recorded[i] = (recorded[i] or 0) + i
        end
        local timer = uv.new_timer()
        timer:start(math.random(1, 12), 2, function()
          if not bed.is_deaf then
            bed.is_deaf = true
          elseif bed.receiver then
            bed:be_killed()
            kills = kills + 1
            timer:stop()
          end
        end)
        assert.is_true(bed:flush())
        timer:close()
        bed.is_deaf = nil
        if not bed.receiver then bed:revive() end
      end
      hits:with("last"):inc(1)
      flush_until(function() return bed.agent.counts["hits{a:last}"] end)
      assert.is_true(kills > 0 and #said > 0, "it was never killed in mid-flush")
      check_kills(bed, recorded, kills)
      assert.is_true(next(bed.lost.counts) ~= nil, "nothing was unread at a kill")
    end)
  end

  -- The same with histograms that need many packets each: a slice of a histogram that was read is not sent again.
  local SERIES, BOUNDS = 20, 60

  -- Records each number i up to BOUNDS i times. Returns the total that the receiver must have: the number of values, or
  -- the sum of the counts of all bounds.
  local function record_all(lat, mode)
    local n = 0
    for i = 1, BOUNDS do
      for _ = 1, i do
        lat:record(i)
      end
      n = n + (mode == "distribution" and i or i * (BOUNDS - i + 2))
    end
    return n
  end

  local function counted(agent, tag, mode)
    local id = ("lat{a:%s}"):format(tag)
    if mode == "distribution" then return agent:count(id) or 0 end
    local n = 0
    for key, count in pairs(agent.counts) do
      if key:find(("{a:%s,le:"):format(tag), 1, true) then n = n + count end
    end
    return n
  end

  local function bounds()
    local list = {}
    for i = 1, BOUNDS do
      list[i] = i
    end
    return list
  end

  for _, mode in ipairs { "distribution", "buckets" } do
    for _, kind in ipairs { "unixgram", "unixstream" } do
      local words = "that disappears in the middle of a histogram receives the rest, and nothing twice, %s, %s"
      it(words:format(mode, kind), function()
        math.randomseed(5)
        local bed = bed_of({ write_timeout = 5, max_packet = 64, histograms = mode }, kind)
        client = bed:start { buckets = bounds() }
        local lat, recorded = client:histogram("lat", { tags = { "a" } }), {}
        for _ = 1, 12 do
          for i = 1, SERIES do
            local tag = "v" .. i
            recorded[tag] = (recorded[tag] or 0) + record_all(lat:with(tag), mode)
          end
          local timer = uv.new_timer()
          timer:start(math.random(1, 10), 0, function()
            if bed.receiver then bed:die() end
          end)
          assert.is_true(bed:flush())
          timer:close()
          if not bed.receiver then bed:revive() end
        end
        flush_until(function()
          for tag, n in pairs(recorded) do
            if counted(bed.agent, tag, mode) < n then return false end
          end
          return true
        end)
        for tag, n in pairs(recorded) do
          assert.equal(n, counted(bed.agent, tag, mode), tag)
        end
        assert.is_true(#said > 0, "it never went away in mid-flush")
      end)
    end
  end

  it("that is dead half of the time loses nothing, and does not affect other receivers", function()
    local steady, shaky = bed_of(nil, "unixgram"), bed_of({ dialect = "statsd", histograms = "timing" }, "udp")
    client = chalk.new {
      driver = "manual",
      flush_interval = 3600,
      exporters = { steady:exporter(), shaky:exporter(), chalk.exporter.prometheus { namespace = "app" } },
    }
    local hits = client:count("hits", { tags = { "a" } })
    local lat = client:histogram "lat"
    local n = 0
    for flush = 1, 40 do
      if flush % 10 == 3 then shaky:die() end
      if flush % 10 == 8 then shaky:revive() end
      for i = 1, 10 do
        hits:with("v" .. i % 3):inc(flush)
        lat:record(i)
        n = n + 1
      end
      assert.is_true(beds.flush(client, open))
      assert.equal(n, steady.agent:count "lat")
    end
    flush_until(function() return shaky.agent:count "lat" == n end)
    local scraped = collect.samples(client:text())
    for i = 0, 2 do
      local total = scraped[('app_hits_total{a="v%d"}'):format(i)]
      assert.is_true(total > 0)
      assert.equal(total, steady.agent.counts[("hits{a:v%d}"):format(i)])
      assert.equal(total, shaky.agent.counts[("hits.v%d"):format(i)])
    end
    assert.equal(n, scraped.app_lat_count)
  end)

  it("does not receive idle series, and receives their right values when they are recorded again", function()
    local now, bed = 1000, bed_of()
    client = bed:start { idle_timeout = 60, clock = function() return now end }
    local function record(value)
      client:count("hits", { tags = { "a" } }):with("x"):inc(value)
      client:gauge("open", { tags = { "a" } }):with("x"):set(value)
      client:histogram("lat", { tags = { "a" } }):with("x"):record(value)
    end
    record(3)
    for _ = 1, 3 do
      now = now + 10
      bed:flush()
      assert.equal("open:3|g|#a:x", bed:text()[#bed:text()])
    end
    for _ = 1, 3 do
      now = now + 61
      bed:flush()
    end
    assert.same({}, bed:text())
    record(4)
    now = now + 10
    bed:flush()
    assert.equal(3, #bed:text())
    assert.same(
      { 7, 4, 2 },
      { bed.agent.counts["hits{a:x}"], bed.agent.gauges["open{a:x}"], bed.agent:count "lat{a:x}" }
    )
  end)

  it("that was away receives the last values of a series that was dropped", function()
    local now, bed = 1000, bed_of()
    client = bed:start { idle_timeout = 60, clock = function() return now end }
    local hits, lat = client:count "hits", client:histogram "lat"
    bed:flush()
    bed:die()
    hits:inc(5)
    lat:record(5)
    now = now + 10
    bed:flush()
    now = now + 61
    bed:flush()
    bed:revive()
    flush_until(function() return bed.agent.counts.hits end)
    hits:inc(2)
    lat:record(2)
    bed:flush()
    assert.same({ 7, 2 }, { bed.agent.counts.hits, bed.agent:count "lat" })
  end)
end)
