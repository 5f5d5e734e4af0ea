--- The lines of the StatsD exporter. If this file fails, a tag value forges a line or a packet, or a line has another
--- value than was recorded.

package.path = "spec/?.lua;" .. package.path

local core = require "chalk.core"
local beds = require "support.statsd_bed"
local joining = require "support.statsd_joining"
local names = require "chalk.exporter.statsd.names"
local weights = require "support.statsd_weights"

local ffi, C = core.ffi, core.C

describe("a statsd packet", function()
  local scene = beds.scene(before_each, after_each)

  -- Returns a random text that mixes the separators of lines with bytes of every kind.
  local FRAGMENTS = {
    "|",
    "#",
    ",",
    ":",
    "\n",
    "\r",
    "@",
    "\0",
    " ",
    "|c|#x:y",
    "a",
    "b9",
    "_",
    "-",
    ".",
    "/",
    "é",
    "ß",
    "€",
    "😀",
    "\194\133",
    "\226\128\168",
    "\226\128\169",
    "\226\128\166",
    "\239\187\191",
    "\240\144",
    "\255",
    "\237\160\128",
    "\192\128",
    "\127",
    "~",
    "evil:1|g\nevil:2|c",
    "1",
    "\226\128",
    ("x"):rep(60),
    ("é"):rep(50),
    ":",
  }

  local function hostile()
    local parts = {}
    for i = 1, math.random(1, 8) do
      parts[i] = FRAGMENTS[math.random(#FRAGMENTS)]
      if math.random(4) == 1 then parts[i] = string.char(math.random(0, 255)) end
    end
    return table.concat(parts)
  end

  -- Returns the values of a metric's series, as a batch has them.
  local function values_of(seen)
    return {
      export = function(_, batch)
        for m in batch:each() do
          if m.name == "hits" then seen[#seen + 1] = m.tags[1] and m.tags[1][2] or "" end
        end
        return true
      end,
    }
  end

  for _, dialect in ipairs { "dogstatsd", "statsd" } do
    it("cleans 10,000 hostile tag values by the rules, dialect " .. dialect, function()
      math.randomseed(20240501)
      scene.bed = beds.new { dialect = dialect, namespace = "n" }
      local seen, expected, got = {}, {}, {}
      scene.client = scene.bed:start { exporters = { scene.bed:exporter(), values_of(seen) } }
      local hits = scene.client:count("hits", { tags = { "uri" } })
      for _ = 1, 10000 do
        hits:with(hostile()):inc()
      end
      scene:flush()
      for i, value in ipairs(seen) do
        expected[i] = dialect == "statsd" and joining.joined("n.hits", { value }, 1) .. ":"
          or "n.hits:" .. (value ~= "" and names.tag("uri", value) or "")
      end
      for _, line in ipairs(scene.bed:lines()) do
        local tag = dialect == "statsd" and line.name .. ":" or "n.hits:" .. (line.tags[1] or "")
        got[#got + 1] = tag
        assert.is_true(#line.tags <= 1)
      end
      assert.is_true(#seen > 5000)
      table.sort(expected)
      table.sort(got)
      assert.equal(table.concat(expected, "\n"), table.concat(got, "\n"))
      local sum = 0
      for id, n in pairs(scene.bed.agent.counts) do
        if id:find "^n%.hits" then sum = sum + n end
      end
      assert.equal(10000, sum)
    end)
  end

  -- Makes metrics of all kinds with up to four tags, and a table of recorded values by "name{tags}" as a receiver must
  -- read them.
  local function random_metrics(n)
    local list = {}
    for i = 1, n do
      local kind, tags = ({ "count", "gauge", "histogram" })[i % 3 + 1], {}
      for k = 1, math.random(0, 4) do
        tags[k] = "t" .. k
      end
      local metric = scene.client[kind](scene.client, "m" .. i, { tags = tags })
      list[i] = { kind = kind, tags = tags, name = "m" .. i, metric = metric }
    end
    return list
  end

  -- The number keeps values different that would be equal after characters are replaced.
  local function random_series(m)
    local values, tags = {}, { "env:a_b_c" }
    for k, key in ipairs(m.tags) do
      local fragment = math.random(#FRAGMENTS)
      values[k] = FRAGMENTS[fragment]:gsub("[%z\128-\255]", "x") .. fragment * 100 + math.random(20)
      tags[#tags + 1] = names.tag(key, values[k])
    end
    table.sort(tags)
    return m.metric:with(unpack(values, 1, #m.tags)), ("f.%s{%s}"):format(m.name, table.concat(tags, ","))
  end

  it("contains every series and value of random metrics, in each flush", function()
    math.randomseed(7)
    scene:start { namespace = "f", global_tags = { env = "a,b|c" }, container_id = "in-42", timestamps = true }
    local metrics, counts, gauges, histograms = random_metrics(30), {}, {}, {}
    local function record()
      local m = metrics[math.random(#metrics)]
      local series, id = random_series(m)
      if m.kind == "count" then
        local n = math.random(0, 2 ^ 30)
        series:inc(n)
        counts[id] = (counts[id] or 0) + n
      elseif m.kind == "gauge" then
        gauges[id] = (math.random() - 0.5) * 10 ^ math.random(-300, 300)
        series:set(gauges[id])
      else
        series:record(math.random())
        histograms[id] = (histograms[id] or 0) + 1
      end
    end
    for _ = 1, 6 do
      for _ = 1, 2000 do
        record()
      end
      scene:flush()
    end
    local agent = scene.bed.agent
    for id, n in pairs(counts) do
      assert.equal(n, agent.counts[id] or 0, id)
    end
    for id, value in pairs(gauges) do
      assert.equal(value, agent.gauges[id], id)
    end
    for id, n in pairs(histograms) do
      assert.equal(n, agent:count(id), id)
    end
  end)

  it("has the same sample rate for each weight to 100,000 in C as in Lua", function()
    local text = ffi.new "char[32]"
    for n = 2, 100000 do
      local rate = ffi.string(text, C.chalk_statsd_rate(text, n))
      if rate ~= weights.rate(n) then error(("%d: %s, %s"):format(n, rate, weights.rate(n))) end
    end
    assert.equal("1", ffi.string(text, C.chalk_statsd_rate(text, 1)))
    for n = 100001, 1000000, 997 do
      local inverse = 1 / tonumber(ffi.string(text, C.chalk_statsd_rate(text, n)))
      assert.is_true(math.floor(inverse) == n and inverse - n < 1e-6)
    end
  end)

  describe("packs lines", function()
    for _, limit in ipairs { 200, 512, 1432, 8192 } do
      it(("into packets of at most %d bytes, full ones, without splitting any"):format(limit), function()
        scene:start { max_packet = limit }
        local hits = scene.client:count("hits", { tags = { "uri" } })
        local lat = scene.client:histogram "lat"
        for i = 1, 2000 do
          hits:with("/" .. i):inc(i)
          lat:record(i)
        end
        scene:flush()
        local bytes = 0
        for _, packet in ipairs(scene.bed.packets) do
          assert.is_true(#packet <= limit, #packet)
          bytes = bytes + #packet
        end
        assert.is_true(
          #scene.bed.packets < 1.35 * bytes / limit + 2,
          #scene.bed.packets .. " packets for " .. bytes
        )
        assert.equal(2000, scene.bed.agent:count "lat")
        assert.equal(
          2001000,
          (function()
            local sum = 0
            for i = 1, 2000 do
              sum = sum + scene.bed.agent.counts["hits{uri:/" .. i .. "}"]
            end
            return sum
          end)()
        )
      end)
    end

    it("and leaves out a line that is too long, counts it and names its metric once", function()
      scene:start { max_packet = 128, telemetry = true }
      local hits = scene.client:count("hits", { tags = { "uri" } })
      for _ = 1, 3 do
        hits:with(("x"):rep(150)):inc()
        hits:with("short"):inc()
        scene:flush()
      end
      scene:flush()
      assert.same({ ["hits{uri:short}"] = 3 }, { ["hits{uri:short}"] = scene.bed.agent.counts["hits{uri:short}"] })
      assert.is_nil(table.concat(scene.bed:text()):find("xxx", 1, true))
      assert.equal(3, scene.bed.agent.counts["chalk.client.lines_dropped"])
      assert.equal(1, #scene.said)
      local words = "hits: a line is longer than max_packet, 128 bytes, and is not sent to unixgram:"
      assert.equal(words, scene.said[1]:sub(1, #words))
    end)
  end)
end)
