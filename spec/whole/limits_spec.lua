--- What is exported stays valid and memory stays bounded, however hostile tag values are and however many they are.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local collect = require "support.collect"
local files = require "support.files"

local HOSTILE = {
  quote = 'a"b',
  brace = 'x"} 1\nforged_total{a="',
  newline = "two\nlines",
  carriage = "a\r\nb",
  backslash = "C:\\dir\\n",
  nul = "a\0b",
  only_nul = "\0",
  invalid = "\255\254",
  cut = "abc\226\130",
  overlong = "\192\175",
  surrogate = "\237\160\128",
  control = "\1\2\27[31m",
  blank = " ",
  comment = "# HELP",
  huge = ("x"):rep(65536),
  huge_invalid = ("\255"):rep(65536),
  long_utf8 = ("\226\130\172"):rep(400),
  separator = "a\226\128\168b",
}

describe("the limits", function()
  local client, metric

  before_each(function()
    client = chalk.new()
    metric = client:count("values", { tags = { { tag = "v" }, { tag = "w", optional = true } } })
  end)

  after_each(files.clean)

  -- promtool's verdict on an exposition; its advice on names (of exit code 3) is not asked for.
  local function promtool(text)
    local pipe = assert(io.popen("promtool check metrics < " .. files.make(text) .. ' 2>&1; echo "exit:$?"'))
    local output = pipe:read "*a"
    pipe:close()
    local code = tonumber(output:match "exit:(%d+)")
    return code == 0 or code == 3, output
  end

  describe("of definitions", function()
    local function document(prefix, n)
      local list = {}
      for i = 1, n do
        list[i] = { name = prefix .. "_" .. i, type = "count" }
      end
      return { metrics = list }
    end

    it("refuse a document as a whole, and leave the room to the next", function()
      local before = client:info()
      for _ = 1, 2 do
        local ok, message = pcall(client.load, client, document("many", 5000))
        assert.is_false(ok)
        assert.matches("no room for the definition of many_", message, 1, true)
        assert.same({ before.metrics, before.series }, { client:info().metrics, client:info().series })
      end
      local metrics = client:load(document("good", 4000))
      metrics.good_4000:inc()
      assert.equal(1, metrics.good_4000:value())
    end)
  end)

  describe("of tag values", function()
    it("keep the exposition valid, whatever they hold", function()
      local n = 0
      for _, value in pairs(HOSTILE) do
        metric:with(value):inc()
        metric({ v = "x", w = value }):inc()
        n = n + 2
      end
      local text = client:text()
      local seen, total = collect.samples(text), 0
      for id, value in pairs(seen) do
        if id:find "^values_total{" then total = total + value end
        assert.is_nil(id:find "^forged")
      end
      assert.equal(n, total)
      local ok, output = promtool(text)
      assert.is_true(ok, output)
      assert.is_true(#text < 64 * 1024, "values are cut")
      assert.matches("# EOF\n$", client:text "openmetrics")
    end)

    it("never let two values of different series give one line", function()
      local values = {
        "",
        "\255",
        "\254",
        "a\255",
        "a\254",
        "a\255\255",
        2 ^ 53,
        2 ^ 53 + 2,
        2 ^ 53 + 4,
        1e15,
        1e15 + 1,
        1e18,
        "1e+15",
        "1000000000000000",
        -2 ^ 53 - 2,
        true,
        "true",
        0,
        -0,
        "0",
        "-0",
        ("x"):rep(600) .. "a",
        ("x"):rep(600) .. "b",
        ("x"):rep(65536),
        ("x"):rep(65535) .. "y",
        "\239\191\189",
        2 ^ 63,
        1e300,
      }
      for round = 1, 3 do
        for _, value in ipairs(values) do
          metric({ v = "x", w = value }):inc()
          metric:with("x", value):inc()
          if value ~= "" then metric:with(value):inc(round) end
        end
        metric:with("x"):inc()
      end
      local total = 0
      for id, value in pairs(collect.samples(client:text())) do
        if id:find "^values_total{" then total = total + value end
      end
      assert.equal(3 * 2 * #values + 6 * (#values - 1) + 3, total)
    end)

    it("write whole numbers in full", function()
      metric:with(1e15):inc()
      metric:with("1000000000000000"):inc()
      metric:with(2 ^ 53):inc(5)
      metric:with(2 ^ 53 + 2):inc(7)
      metric:with(-0):inc(9)
      local seen = collect.samples(client:text())
      assert.equal(2, seen['values_total{v="1000000000000000"}'])
      assert.equal(5, seen['values_total{v="9007199254740992"}'])
      assert.equal(7, seen['values_total{v="9007199254740994"}'])
      assert.equal(9, seen['values_total{v="0"}'])
    end)

    it("reach a custom exporter repaired and cut, too", function()
      local longest, count = 0, 0
      client:init {
        driver = "manual",
        exporters = {
          {
            export = function(_, batch)
              longest, count = 0, 0
              for m in batch:each() do
                if m.name == "values" then
                  count = count + m.total
                  longest = math.max(longest, #m.tags[1][2])
                  assert(not m.tags[1][2]:find("\255", 1, true))
                end
              end
              return true
            end,
          },
        },
      }
      for _, value in pairs(HOSTILE) do
        metric:with(value):inc()
      end
      client:flush()
      local expected = 0
      for _ in pairs(HOSTILE) do
        expected = expected + 1
      end
      assert.same({ expected, 512 }, { count, longest })
    end)
  end)

  describe("of a VM's memory", function()
    local function kilobytes()
      collectgarbage()
      collectgarbage()
      return collectgarbage "count"
    end

    -- What 20,000 lookups of ever new values leave behind, in KiB.
    local function growth(value_of)
      for i = 1, 100 do
        metric:with(value_of(i)):inc()
      end
      local before = kilobytes()
      for i = 101, 20000 do
        metric:with(value_of(i)):inc()
      end
      return kilobytes() - before
    end

    it("do not grow with values that were folded", function()
      client = chalk.new { max_series = 50, driver = "manual" }
      metric = client:count("values", { tags = { { tag = "v" } } })
      local kept = growth(function(i) return "value " .. i end)
      assert.is_true(kept < 300, kept .. " KiB")
      assert.is_true(client:info().folded >= 19000)
    end)

    it("do not grow with values that come to one series", function()
      -- a lone continuation byte is replaced, so all of these are the same text
      local kept = growth(function(i)
        local bytes = {}
        for k = 1, 3 do
          bytes[k] = string.char(128 + math.floor(i / 64 ^ (k - 1)) % 64)
        end
        return table.concat(bytes)
      end)
      assert.is_true(kept < 300, kept .. " KiB")
      assert.equal(1, client:info().series)
    end)

    it("do not grow with series that come and go", function()
      local function churn(from, to)
        for i = from, to do
          metric:with("gone " .. i):inc()
          if i % 500 == 0 then metric:clear() end
        end
      end
      churn(1, 1000)
      local before = kilobytes()
      churn(1001, 20000)
      local kept = kilobytes() - before
      assert.is_true(kept < 500, kept .. " KiB")
    end)

    it("do not grow as text is rendered and flushed", function()
      client = chalk.new { driver = "manual", exporters = { { export = function() return true end } } }
      local latency = client:histogram("latency", { tags = { { tag = "v" } } })
      for i = 1, 200 do
        latency:with(i):record(i)
      end
      local function work()
        for _ = 1, 50 do
          client:text()
          client:flush()
        end
      end
      work()
      local before = kilobytes()
      work()
      local kept = kilobytes() - before
      assert.is_true(kept < 200, kept .. " KiB")
    end)
  end)

  it("are far from 100,000 series", function()
    local exporter = {
      export = function(self, batch)
        self.total, self.delta, self.seen = 0, 0, 0
        for m in batch:each() do
          if m.name == "values" and #m.tags == 2 then
            self.total, self.delta, self.seen = self.total + m.total, self.delta + m.delta, self.seen + 1
          end
        end
        return true
      end,
    }
    client = chalk.new { max_series = 100000, driver = "manual", exporters = { exporter } }
    metric = client:count("values", { tags = { { tag = "a" }, { tag = "b" } } })
    local kept = metric:with(5, 7)
    for i = 0, 99999 do
      metric:with(i % 317, i):inc()
    end
    kept:inc()
    metric:with("one", "too many"):inc(3)
    assert.equal(100000, client:info().series)
    client:flush()
    assert.same({ 100001, 100004, 100004 }, { exporter.seen, exporter.total, exporter.delta })
    metric:with(5, 5):inc()
    client:flush()
    assert.same({ 100005, 1 }, { exporter.total, exporter.delta })
    local lines = 0
    for line in client:text():gmatch "[^\n]+" do
      if line:find "^values_total{" then lines = lines + 1 end
    end
    assert.equal(100001, lines)
    metric:clear()
    assert.equal(0, client:info().series)
    metric:with(1, 1):inc()
    assert.equal(1, metric:with(1, 1):value())
  end)
end)
